"""What each command of the command line does; `cli` reads their options off these signatures."""

from __future__ import annotations

import inspect
import math
import sys
import time
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ppvae import require
from ppvae.errors import PpvaeError

Treatment = Literal["static", "dynamic", "threshold", "real", "standardised", "binary"]
Split = Literal["train", "valid", "test", "all"]
_console = Console(width=None if sys.stdout.isatty() else 160)


def list_command(runs: bool = False, folder: str = "runs") -> None:
    """Name the models, strategies, families, objectives, gradients and data sets there are, or the runs.

    Args:
        runs: list the runs in a folder instead.
        folder: where the runs are.
    """
    import ppvae
    from ppvae.evidence import METHODS
    from ppvae.families import FAMILY_CLASSES
    from ppvae.gradients import MEANING, TOGETHER
    from ppvae.registry import model_class, strategy_class
    from ppvae.runs import find

    if runs:
        table = Table(box=None, header_style="")
        for title in ("run", "what", "state", "log p(x), nats/datum"):
            table.add_column(title, overflow="fold")
        for found in find(folder):
            table.add_row(str(found.path), found.what, found.state, found.result)
        _console.print(table)
        return
    kinds = {name: model_class(name) for name in ppvae.list_models()}
    strategies = {name: strategy_class(name) for name in ppvae.list_inference()}
    entries: dict[str, dict[str, str]] = {
        "models": {name: first_line(sys.modules[kind.__module__]) for name, kind in kinds.items()},
        "inference": {name: first_line(sys.modules[kind.__module__]) for name, kind in strategies.items()},
        "family": {name: first_line(cls) for name, cls in FAMILY_CLASSES.items()},
        "objective": {name: f"gradient: {', '.join(together)}" for name, together in TOGETHER.items()},
        "gradient": {**MEANING},
        "log p(x)": {name: method.summary for name, method in METHODS.items()},
        "data": dict.fromkeys(ppvae.list_data(), ""),
    }
    for title, lines in entries.items():
        table = Table(title=title, title_justify="left", show_header=False, box=None)
        for name, line in lines.items():
            table.add_row(f"  {name}", escape(line))
        _console.print(table)


def show_command(name: str) -> None:
    """Show a model or a strategy: what it is, and its options.

    Args:
        name: of the zoo, or path/to/file.py:ClassName.
    """
    import ppvae
    from ppvae.registry import model_class, option_names, strategy_class

    in_zoo = ":" not in name
    if in_zoo:
        known = [*ppvae.list_models(), *ppvae.list_inference()]
        require.one_of("name", name, known, ", or path/to/file.py:ClassName")
    cls = strategy_class(name) if name in ppvae.list_inference() else model_class(name)
    # a file is no module that sys.modules knows; and what a class inherits says nothing about it
    for text in (sys.modules[cls.__module__].__doc__ if in_zoo else None, cls.__doc__):
        if text:
            print(inspect.cleandoc(text), end="\n\n")
    print("Options:")
    for option, parameter in option_names(cls, skip=("self", "model", "x")).items():
        default = "required" if parameter.default is parameter.empty else f"default {parameter.default!r}"
        print(f"  {option}{_type_of(parameter)}  ({default})")


def fit_command(
    name: str | None = None,
    data: str | None = None,
    run_dir: str | None = None,
    resume: str | None = None,
    init: str | None = None,
    model: dict[str, Any] | None = None,
    treatment: Treatment | None = None,
    root: str | None = None,
    num_train: int | None = None,
    labels: str | None = None,
    data_seed: int = 0,
    **options: Any,
) -> None:
    """Train one model under one inference strategy, and keep the run.

    Args:
        name: a model of the zoo, or path/to/file.py:ClassName.
        data: a named data set, or a .npy, .npz or .csv file (default: digits, or with --init that fit's own).
        run_dir: a new folder for the run (default: runs/fit-DATE-TIME).
        resume: folder of a run to go on with where it stopped; takes no other option.
        init: folder of a fit to go on from, under the same or another inference, in place of a name.
        model: options of the model, such as --model.latent_dim 30; `ppvae fit NAME --help` lists them.
        treatment: how values become observations; log p differs by nats between treatments.
        root: folder of downloaded data (default: $PPVAE_DATA, else ~/.cache/ppvae).
        num_train: only the first so many training data.
        labels: column of a .csv, by name or number, that is no part of x.
        data_seed: of the static binarisation and of generated data.
    """
    from ppvae.files import free_directory, fresh_path
    from ppvae.saving import check_entries, is_finished, read_config

    if resume is None:
        own = {} if init is None else read_config(Path(init))
        if init is not None and (name, model) == (own.get("name"), own.get("model")):
            name = model = None  # as the configuration of a run with --init has them
        if (name is None) == (init is None):
            raise PpvaeError("ppvae fit needs a name (ppvae list has them), or --init and no name")
        if init is not None and model:
            raise PpvaeError(f"the options of the model are those of {init}: leave out --model")
        where = fresh_path("fit") if run_dir is None else free_directory(run_dir)  # refused now, not after the training
        if data is None and init is not None:
            if own.get("data") is None:
                raise PpvaeError(f"{init} was fitted to data made in Python: name data with --data")
            of_data = {key: own[key] for key in ("data", "treatment", "root", "num_train", "labels") if key in own}
            given = {"treatment": treatment, "root": root, "num_train": num_train, "labels": labels}
            of_data |= {key: value for key, value in given.items() if value is not None}
            _fit(where, False, name, model=model, init=init, data_seed=own.get("data_seed", 0), **of_data, **options)
            return
        data = "digits" if data is None else data
        _fit(where, False, name, data, model, init, treatment, root, num_train, labels, data_seed, **options)
        return
    where = Path(resume)
    config = read_config(where)
    if "name" not in config:
        raise PpvaeError(f"{where} is no run of ppvae fit: a comparison goes on with ppvae compare --resume {where}")
    if is_finished(where):
        raise PpvaeError(f"{where} is finished: ppvae evaluate {where} judges it")
    check_entries(config)
    if config["name"] is None or config.get("data") is None or config.pop("own_encoder", False):
        raise PpvaeError(
            f"{where} began with a class, data or an encoder made in Python: go on there with "
            "ppvae.fit(..., run_dir=, resume=True)"
        )
    _fit(where, True, **config)


def _fit(
    where: Path,
    resume: bool,
    name: str | None,
    data: str,
    model: dict[str, Any] | None,
    init: str | None = None,
    treatment: str | None = None,
    root: str | None = None,
    num_train: int | None = None,
    labels: str | None = None,
    data_seed: int = 0,
    **options: Any,
) -> None:
    import torch

    import ppvae
    from ppvae.planning import fill
    from ppvae.randomness import seeded
    from ppvae.registry import build, model_class

    seed = require.count("seed", options.get("seed", 0), least=0)
    require.count("data_seed", data_seed, least=0)
    loaded = ppvae.load_data(
        data, treatment=treatment, root=root, seed=data_seed, num_train=num_train, labels=_column(labels)
    )
    if init is not None:
        pair = ppvae.load(init)
        name = _name(Path(init))
    else:
        assert name is not None
        kind = model_class(name)
        with seeded(seed, device=torch.device("cpu")):
            pair = build(name, kind, fill(kind, loaded, model or {}))
    fitted = ppvae.fit(pair, loaded, run_dir=where, resume=resume, **options)
    last = fitted.history[-1]
    print(
        f"{name} under {fitted.settings.inference} on {loaded.name} ({loaded.treatment}): {last['step']:.0f} steps in "
        f"{fitted.seconds:.1f} s, stopped by {fitted.stopped}; best validation bound "
        f"{max(entry['valid_bound'] for entry in fitted.history):.2f} nats/datum"
    )
    print(f"saved to {where}; next: ppvae evaluate {where}")


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

    import ppvae
    from ppvae.compare import EVIDENCE, RESULTS
    from ppvae.evaluation import evaluate, observations, write_evidence, write_scores
    from ppvae.files import free_file
    from ppvae.marginal import check_method
    from ppvae.reliability import khat_threshold
    from ppvae.results import write_results
    from ppvae.saving import data_arguments, read_config

    if num_data is not None:
        require.count("num_data", num_data)
    check_method(method, method_options)
    place = Path(run)
    target = None if out is None else free_file(out)
    fitted = _trained(place)
    own = fitted.settings
    if data is None and own.source is None:
        raise PpvaeError(f"{run} was fitted to data made in Python: name data to judge it on with --data")
    own_data = data_arguments(read_config(place))
    arguments: dict[str, Any] = own_data if data is None else {"name": data, "treatment": own.treatment}
    changes = {"treatment": treatment, "root": root, "labels": _column(labels)}
    arguments.update({name: value for name, value in changes.items() if value is not None})
    loaded = ppvae.load_data(**arguments)
    x = fitted.as_input(observations(loaded, split, num_data))
    ppvae.check(fitted.model, x[:7])  # values outside the support of the likelihood, as of another treatment
    row, estimates = evaluate(
        fitted, loaded, name=_name(place), num_samples=num_samples, num_test=num_data, method=method,
        method_options=method_options, num_gaps=num_gaps, compile=compile, seed=seed, split=split, progress=None,
    )  # fmt: skip
    mean, bound = ppvae.summarise(estimates), ppvae.summarise(estimates, "elbo")
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
            gap = ppvae.summarise(estimates.dropna("datum", subset=[column]), column)
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


def compare_command(
    models: list[str] | str | dict[str, dict[str, Any] | None] | None = None,
    inference: list[str] | str | None = None,
    data: str | None = None,
    seeds: list[int] | int | None = None,
    families: list[str] | str | None = None,
    run_dir: str | None = None,
    resume: str | None = None,
    model: dict[str, Any] | None = None,
    inference_options: dict[str, dict[str, Any]] | None = None,
    fit: dict[str, Any] | None = None,
    treatment: Treatment | None = None,
    root: str | None = None,
    num_train: int | None = None,
    labels: str | None = None,
    num_test: int | None = None,
    num_samples: int = 1000,
    method: str = "auto",
    method_options: dict[str, Any] | None = None,
    num_gaps: int = 0,
    max_seconds: float | None = None,
    tune: bool = False,
    tune_seconds: float = 5.0,
    workers: int | None = None,
) -> None:
    """Fit models under several inference strategies on the same data, and print what each costs and gives.

    Without arguments: the Gaussian mixture on iris, the deep latent Gaussian model and the VAE on digits, each per
    datapoint and amortized (the mixture exactly too), 3 seeds.

    Args:
        models: of the zoo, or path/to/file.py:ClassName: --models '[vae, my.py:Mine]', or one name, or in YAML
            each with its options: {vae: {latent_dim: 5}, large: {model: vae, latent_dim: 50}}.
        inference: strategies, a list or one name (default: all that the model allows).
        data: a named data set, or a .npy, .npz or .csv file (default: the model's own, else digits).
        seeds: of initialisation, training and evaluation: --seeds '[0, 1]', or one (default: 0, 1, 2).
        families: what q may look like, such as --families '[own, full-covariance, iaf]' (default: the model's own).
        run_dir: a new folder for the run (default: runs/compare-DATE-TIME).
        resume: folder of a comparison to go on with where it stopped; takes no other option.
        model: options of every model, such as --model.latent_dim 30; `ppvae compare MODEL --help` lists them.
        inference_options: of each strategy, such as --inference_options '{per-datapoint: {inner_steps: 5}}'.
        fit: options of training, such as --fit.max_epochs 50; `ppvae fit --help` explains them.
        treatment: how values become observations; log p differs by nats between treatments.
        root: folder of downloaded data (default: $PPVAE_DATA, else ~/.cache/ppvae).
        num_train: only the first so many training data.
        labels: column of a .csv, by name or number, that is no part of x.
        num_test: only the first so many test data.
        num_samples: draws a datum.
        method: how log p(x) is estimated; auto escalates for each datum until its weights pass.
        method_options: of the method, such as --method_options '{max_seconds: 30}' for auto.
        num_gaps: of so many test data, what the family and what the encoder (or the rows) lose.
        max_seconds: of training, for each fit: all strategies on the same budget.
        tune: choose each strategy's learning rates first, on the validation bound, from a small grid.
        tune_seconds: of training for each point of that grid.
        workers: rows made side by side, of one thread each (default: 1; without models one a core, 4 at most).
    """
    from ppvae.compare import RESULTS, compare
    from ppvae.files import fresh_path
    from ppvae.planning import option_names_of_fit
    from ppvae.report import write_report
    from ppvae.results import shown
    from ppvae.saving import read_config
    from ppvae.table import tables

    settings = require.mapping("fit", fit)
    if max_seconds is not None:
        settings["max_seconds"] = max_seconds
    for option in settings:
        require.one_of("option of fit", option, option_names_of_fit())
    arguments: dict[str, Any] = {
        "models": models, "inference": inference, "data": data, "seeds": seeds, "families": families,
        "treatment": treatment, "root": root, "num_train": num_train, "labels": _column(labels), "num_test": num_test,
        "num_samples": num_samples, "method": method, "method_options": method_options, "num_gaps": num_gaps,
        "model_options": model, "inference_options": inference_options, "tune": tune, "tune_seconds": tune_seconds,
        **settings,
    }  # fmt: skip
    where = Path(run_dir) if run_dir is not None else fresh_path("compare")
    if resume is not None:
        where = Path(resume)
        config = read_config(where)
        if "name" in config:
            raise PpvaeError(f"{where} is no comparison: a fit goes on with ppvae fit --resume {where}")
        arguments = {
            "model_options": config.pop("model", None),
            **require.mapping("fit", config.pop("fit", None)),
            **config,
        }
    if arguments.get("seeds") is None:
        arguments["seeds"] = [0, 1, 2]
    started = time.perf_counter()
    found = compare(run_dir=where, resume=resume is not None, workers=workers, **arguments)
    assert found.run_dir is not None
    report = write_report(found.run_dir)
    for table in tables(found.rows):
        _console.print(table)
    for trial in found.tuning:
        if trial.chosen:
            tried = [t for t in found.tuning if t.key == trial.key]
            spent = sum(t.seconds for t in tried)
            how = shown(trial.inference, trial.family)
            print(f"tuned {trial.model} {how}: {trial.options} of {len(tried)} tried in {spent:.0f} s")
    print(f"{found.run_dir / RESULTS}  {report}  ({time.perf_counter() - started:.0f} s)")


def sample_command(run: str, num_samples: int = 64, out: str | None = None, seed: int = 0) -> None:
    """Draw data from a trained model.

    Args:
        run: folder of a saved fit.
        num_samples: how many.
        out: a new file: .png (images), .csv or .npy (default: samples.png or samples.csv in the run).
        seed: of the draws.
    """
    import numpy as np

    import ppvae
    from ppvae.files import free_file, replacing, write_text
    from ppvae.plots import image_grid, is_image

    place = Path(run)
    fitted = _trained(place)
    square = is_image(tuple(fitted.settings.event_shape))
    target = free_file(
        out if out is not None else place / f"samples.{'png' if square else 'csv'}", ".png", ".csv", ".npy"
    )
    if target.suffix.lower() == ".png" and not square:
        shape = fitted.settings.event_shape
        raise PpvaeError(f"a datum of {fitted.settings.data} has shape {shape}, which is no image: use .csv or .npy")
    drawn = ppvae.sample(fitted, num_samples, seed=seed)
    with replacing(target) as scratch:
        if target.suffix.lower() == ".png":
            from matplotlib.figure import Figure

            figure = Figure(figsize=(6, 6), layout="constrained")
            image_grid(drawn.mean, figure.subplots())
            figure.savefig(scratch, dpi=150, format="png")
        elif target.suffix.lower() == ".csv":
            lines = (",".join(f"{value:.9g}" for value in row) for row in drawn.x.flatten(1).tolist())
            write_text(scratch, "\n".join(lines) + "\n")
        else:
            with scratch.open("wb") as file:
                np.save(file, drawn.x.cpu().numpy())
    print(f"{num_samples} samples: {target}")


def report_command(run: str) -> None:
    """Write report.html of a run: what was run, the table, the pictures, and what they say.

    Args:
        run: folder of a comparison, or of a fit that has been evaluated.
    """
    from ppvae.report import write_report

    print(write_report(Path(run)))


def new_command(file: str) -> None:
    """Write a short commented model of your own that already runs.

    Args:
        file: a new file, such as my_model.py.
    """
    from ppvae.template import class_name, write_model

    path = write_model(Path(file))
    print(f"{path}; next: ppvae compare {path}:{class_name(path)} --data digits")


def first_line(thing: object) -> str:
    """Of its docstring."""
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _column(labels: str | int | None) -> str | int | None:
    """A column given by its number is a number."""
    try:
        return None if labels is None else int(labels)
    except ValueError:
        return labels


def _trained(place: Path) -> Any:
    """The fit in a folder; a comparison holds several."""
    import ppvae
    from ppvae.compare import FITS

    if (place / FITS).is_dir():
        first = next(iter(sorted(path.name for path in (place / FITS).iterdir())), "…")
        raise PpvaeError(f"{place} is a comparison: name one of its fits, such as {place / FITS / first}")
    return ppvae.load(place)


def _name(place: Path) -> str:
    from ppvae.saving import read_config

    return str(read_config(place)["name"])


def _type_of(parameter: inspect.Parameter) -> str:
    kind = parameter.annotation
    if kind is parameter.empty:
        return ""
    return f": {kind if isinstance(kind, str) else inspect.formatannotation(kind)}"


def _error(value: float) -> str:
    return f"{value:.3f}" if value == value else "–"
