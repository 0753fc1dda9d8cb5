"""`ppvae evaluate`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ppvae import require
from ppvae.catalogue import COMMANDS
from ppvae.cli.printing import Split, Treatment, column_of, name_of_run, trained_fit
from ppvae.errors import PpvaeError


@COMMANDS.register("evaluate", order=4)
def evaluate_command(
    run: str,
    num_samples: int = 1000,
    method: str = "auto",
    method_options: dict[str, Any] | None = None,
    num_gaps: int = 0,
    compile: bool = False,
    data: str | None = None,
    split: Split = "test",
    treatment: Treatment | None = None,
    root: str | None = None,
    labels: str | None = None,
    num_data: int | None = None,
    out: str | None = None,
    overwrite: bool = False,
    seed: int = 0,
) -> None:
    """Estimate log p(x) of a saved fit on its data, and say how far the estimate can be trusted.

    Args:
        run: folder of a saved fit.
        num_samples: draws a datum.
        method: auto goes, for each datum, from importance sampling to refined, Laplace and annealed proposals until the
            weights pass; importance, refined, laplace, ais, exact, prior and uniform are one method for all.
        method_options: of the method, such as --method_options '{max_seconds: 30}' for auto.
        num_gaps: of so many data, what the family and what the encoder (or the rows) lose.
        compile: run the model compiled; pays for itself in long evaluations.
        data: other data than the fit's own.
        split: which part of the data; all is every row, in the order of a file of your own.
        treatment: where it should differ from the fit's own.
        root: folder of downloaded data (default: as the fit's own).
        labels: column of a .csv that is no part of x.
        num_data: only the first so many.
        out: a new file for the estimates of every datum, .csv (log_marginal is an outlier score; of a mixture clusters)
            or .nc (netCDF); without it they go into the run, with results.json, where it has none yet.
        overwrite: replace the results that the run has.
        seed: of the draws.
    """
    import numpy as np

    from ppvae.comparison.evaluation import evaluate
    from ppvae.data.loading import load_data
    from ppvae.data.splits import observations
    from ppvae.evidence.marginal import check_method, summarise
    from ppvae.evidence.weights import khat_threshold
    from ppvae.pair.checks import check
    from ppvae.runs.evidence import write_evidence
    from ppvae.runs.files import free_file
    from ppvae.runs.folder import EVIDENCE, RESULTS, data_arguments, read_config
    from ppvae.runs.results import write_results
    from ppvae.tasks.outliers import write_scores

    if num_data is not None:
        require.count("num_data", num_data)
    check_method(method, method_options)
    place = Path(run)
    target = None if out is None else free_file(out)
    fitted = trained_fit(place)
    own = fitted.settings
    if data is None and own.source is None:
        raise PpvaeError(f"{run} was fitted to data made in Python: name data to judge it on with --data")
    own_data = data_arguments(read_config(place))
    arguments: dict[str, Any] = own_data if data is None else {"name": data, "treatment": own.treatment}
    changes = {"treatment": treatment, "root": root, "labels": column_of(labels)}
    arguments.update({name: value for name, value in changes.items() if value is not None})
    loaded = load_data(**arguments)
    x = fitted.as_input(observations(loaded, split, num_data))
    check(fitted.model, x[:7])  # values outside the support of the likelihood, as of another treatment
    row, estimates = evaluate(
        fitted, loaded, name=name_of_run(place), num_samples=num_samples, num_test=num_data, method=method,
        method_options=method_options, num_gaps=num_gaps, compile=compile, seed=seed, split=split, progress=None,
    )  # fmt: skip
    mean, bound = summarise(estimates), summarise(estimates, "elbo")
    passed, ess = float(estimates["ok"].mean()), estimates["ess"]
    print(f"{loaded.name} ({loaded.treatment}), {len(x)} {split} data, {own.inference}, nats/datum")
    print(f"ELBO              {bound.mean:10.3f} ± {_error(bound.mc_se)}")
    print(f"importance bound  {row.iwae_bound or math.nan:10.3f}   {num_samples} draws of q as it is")
    print(
        f"log p(x)        {'≥' if passed < 1 else ' '} {mean.mean:10.3f} ± {_error(mean.mc_se)} sampling, "
        f"± {_error(mean.data_se)} from so many data"
    )
    methods, counts = np.unique(estimates["method"], return_counts=True)
    shares = (f"{name} {100 * count / len(x):.0f}%" for name, count in zip(methods, counts, strict=True))
    print(f"method            {', '.join(shares)}")
    if bool(ess.notnull().any()):
        print(f"effective samples {float(ess.median()):10.0f} median, {float(ess.min()):.0f} least, of {num_samples}")
        limit = khat_threshold(num_samples)
        print(f"reliable          {100 * passed:9.0f}% of the data: k̂ ≤ {limit:.2f} and 100 effective samples")
        if passed < 1:
            print("                  the estimate of a datum that is not reliable is a lower bound in expectation")
    for column, lost in (("approximation_gap", "by the family"), ("amortization_gap", "by where φ comes from")):
        if column in estimates:
            gap = summarise(estimates.dropna("datum", subset=[column]), column)
            print(f"lost              {gap.mean:10.3f} ± {_error(gap.mc_se)} {lost} ({num_gaps} data)")
    if target is not None:
        if target.suffix.lower() == ".csv":
            write_scores(target, estimates, fitted, loaded, split)
        else:
            write_evidence(target, estimates)
        print(f"estimates of every datum: {target}")
    elif overwrite or not (place / RESULTS).exists():
        write_evidence(place / EVIDENCE, estimates)
        write_results(place / RESULTS, [row], 0.0)
        print(f"{place / RESULTS}  {place / EVIDENCE}; next: ppvae report {place}")
    else:
        print(f"{place / RESULTS} is there already and was left alone: --overwrite replaces it, --out writes elsewhere")


def _error(value: float) -> str:
    return f"{value:.3f}" if value == value else "–"
