"""The main job: models × strategies × seeds on the same data, and what each costs and gives."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ppvae import require
from ppvae.comparison.executors.processes import finished_rows
from ppvae.comparison.place import discard, folder_names, open_place
from ppvae.comparison.plan import Models, plan
from ppvae.comparison.tuning import Trial
from ppvae.comparison.tuning import tune as choose
from ppvae.data.dataset import Data
from ppvae.errors import Interrupted, PpvaeError
from ppvae.evidence.escalation import AUTO
from ppvae.evidence.marginal import check_method
from ppvae.progress import Progress
from ppvae.runs.files import as_folder, missing_parents
from ppvae.runs.folder import CONFIG, FITS, RESULTS, TUNING
from ppvae.runs.results import Row, has_rows, read_seconds, write_results

#: rows of the main job side by side at most: they share the memory
_MOST_WORKERS = 4
#: more of the ladder would take longer than the whole main job may
_MAIN_JOB: Mapping[str, Any] = {"methods": ("refined",), "pilot": 250, "max_seconds": 5.0}


@dataclass(frozen=True)
class Comparison:
    """What `compare` found: its rows, the directory that keeps them, and the learning rates that were tried."""

    rows: list[Row]
    run_dir: Path | None
    tuning: list[Trial] = field(default_factory=list)


def compare(
    models: Models | None = None,
    inference: Sequence[str] | str | None = None,
    data: str | os.PathLike[str] | Data | None = None,
    seeds: Sequence[int] | int = (0, 1, 2),
    families: Sequence[str] | str | None = None,
    *,
    treatment: str | None = None,
    root: str | os.PathLike[str] | None = None,
    num_train: int | None = None,
    labels: str | int | None = None,
    num_test: int | None = None,
    num_samples: int = 1000,
    method: str = AUTO,
    method_options: Mapping[str, Any] | None = None,
    num_gaps: int = 0,
    model_options: Mapping[str, Any] | None = None,
    inference_options: Mapping[str, Any] | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    tune: bool = False,
    tune_seconds: float = 5.0,
    workers: int | None = None,
    progress: bool | None = None,
    **fit_options: Any,
) -> Comparison:
    """Fit every model under every strategy that applies, and judge each on the same test data.

    Args:
        models: zoo names, path/to/file.py:ClassName or classes, several or one; or a mapping of what results call
            each to its own options, with "model" for its name or class where that is another:
            {"vae": {"latent_dim": 5}, "large": {"model": "vae", "latent_dim": 50}}. Where None, the main job's.
        inference: strategies, several or one; where None, each that the model allows (without models: of
            per-datapoint, amortized and exact).
        data: a name, a file or a `Data`; where None, each model's own of the main job, else digits.
        seeds: of initialisation, training and evaluation.
        families: of `ppvae.families.FAMILIES`, or "own" for the model's own guide; each goes with every strategy that
            takes it. Where None, the model's own.
        treatment, root, num_train, labels: as `load_data` has them.
        num_test: only the first so many test data.
        num_samples: importance samples a datum.
        method, method_options: of `log_marginal`: how log p(x) is estimated.
        num_gaps: of so many test data, what the family and what the encoder (or the rows) lose besides: see
            `ppvae.gaps`.
        model_options: constructor arguments, for every model.
        inference_options: {strategy: its options}.
        run_dir: a new directory: results.json is written anew after each row, fits/ keeps every fit with its
            evidence, figures/ and report.html come with the last.
        resume: go on with the comparison in run_dir, which must be of these same arguments: rows that are finished
            are read, a fit that was stopped goes on where it was.
        tune: choose each strategy's learning rates first, on the validation bound and at equal wall-clock, from the
            grid of `ppvae.tuning`; what was tried is in `tuning` and in tuning.json.
        tune_seconds: of training for each point of that grid.
        workers: rows made side by side, each in a process of its own with one thread; 1 makes them here, one after
            another, with all threads. Numbers differ by rounding at most. Where None, 1; of the main job one a core, 4
            at most.
        progress: show progress bars; None only on a terminal.
        fit_options: of `fit`: max_epochs, max_seconds, lr, batch_size, …

    Raises:
        PpvaeError: before anything runs, for a name, option or data that does not fit.
        Interrupted: Ctrl-C, where run_dir keeps what there is.
    """
    started = time.perf_counter()
    jobs = plan(
        models, inference, data, seeds, families, treatment=treatment, root=root, num_train=num_train, labels=labels,
        model_options=model_options, inference_options=inference_options, fit_options=fit_options,
    )  # fmt: skip
    require.count("num_samples", num_samples)
    if num_test is not None:
        require.count("num_test", num_test)
    require.positive("tune_seconds", tune_seconds)
    require.count("num_gaps", num_gaps, least=0)
    if workers is None:
        workers = min(os.cpu_count() or 1, _MOST_WORKERS) if models is None else 1
    require.count("workers", workers)
    check_method(method, method_options)
    if resume and run_dir is None:
        raise PpvaeError("resume needs run_dir: the folder of the comparison to go on with")
    arguments = {
        "models": models, "inference": inference, "data": data, "seeds": seeds, "families": families,
        "treatment": treatment, "root": root, "num_train": num_train, "labels": labels, "num_test": num_test,
        "num_samples": num_samples, **({"method": method} if method != AUTO else {}), "method_options": method_options,
        **({"num_gaps": num_gaps} if num_gaps else {}), "model": model_options, "inference_options": inference_options,
        "fit": fit_options,
        **({"tune": True, "tune_seconds": tune_seconds} if tune else {}),
    }  # fmt: skip
    where = None if run_dir is None else as_folder(run_dir)
    made = [] if where is None else missing_parents(where)
    begun = resume and where is not None and (where / CONFIG).is_file()
    if where is not None:
        open_place(where, arguments, resume)
    places = folder_names(jobs)
    if models is None and method == AUTO and method_options is None:
        method_options = _MAIN_JOB
    judged: dict[str, Any] = {
        "num_samples": num_samples, "num_test": num_test, "method": method, "method_options": method_options,
        "num_gaps": num_gaps,
    }  # fmt: skip
    if begun and where is not None:
        started -= read_seconds(where / RESULTS)
    rows: list[Row] = []
    trials: list[Trial] = []
    with Progress(progress, len(jobs), "compare") as bar:
        if tune:
            file = None if where is None else where / TUNING
            try:
                jobs, trials = choose(jobs, tune_seconds, file, lambda what: bar.update(0, what=what))
            except Exception:
                if where is not None and not begun:
                    discard(where, made)
                raise
        finished = finished_rows(
            jobs, [None if where is None else where / FITS / name for name in places], workers, judged
        )
        for done, job in enumerate(jobs):
            bar.update(done, what=f"{Path(job.model).name} · {job.how} · seed {job.seed}")
            try:
                rows.append(next(finished))
            except KeyboardInterrupt as error:
                if where is None:
                    raise
                raise Interrupted(
                    f"interrupted at row {done + 1} of {len(jobs)}; the run is kept: ppvae compare --resume {where}"
                ) from error
            except Exception:
                if where is not None and not begun:
                    discard(where, made)
                raise
            if where is not None and not has_rows(where / RESULTS, rows):
                write_results(where / RESULTS, rows, time.perf_counter() - started)
    return Comparison(rows, where, trials)
