"""`ppvae compare`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ppvae import require
from ppvae.catalogue import COMMANDS
from ppvae.cli.printing import Treatment, column_of, console
from ppvae.errors import PpvaeError


@COMMANDS.register("compare", order=7)
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
    from ppvae.comparison.plan import option_names_of_fit
    from ppvae.comparison.run import compare
    from ppvae.report.table import tables
    from ppvae.report.write import write_report
    from ppvae.runs.files import new_run_path
    from ppvae.runs.folder import RESULTS, read_config
    from ppvae.runs.results import label

    settings = require.mapping("fit", fit)
    if max_seconds is not None:
        settings["max_seconds"] = max_seconds
    for option in settings:
        require.one_of("option of fit", option, option_names_of_fit())
    arguments: dict[str, Any] = {
        "models": models, "inference": inference, "data": data, "seeds": seeds, "families": families,
        "treatment": treatment, "root": root, "num_train": num_train, "labels": column_of(labels), "num_test": num_test,
        "num_samples": num_samples, "method": method, "method_options": method_options, "num_gaps": num_gaps,
        "model_options": model, "inference_options": inference_options, "tune": tune, "tune_seconds": tune_seconds,
        **settings,
    }  # fmt: skip
    where = Path(run_dir) if run_dir is not None else new_run_path("compare")
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
        console.print(table)
    for trial in found.tuning:
        if trial.chosen:
            tried = [t for t in found.tuning if t.key == trial.key]
            spent = sum(t.seconds for t in tried)
            how = label(trial.inference, trial.family)
            print(f"tuned {trial.model} {how}: {trial.options} of {len(tried)} tried in {spent:.0f} s")
    print(f"{found.run_dir / RESULTS}  {report}  ({time.perf_counter() - started:.0f} s)")
