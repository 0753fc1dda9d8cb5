"""The main job: models × strategies × seeds on the same data, with their results and costs."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ppvae import require
from ppvae.comparison.executor import finished_rows
from ppvae.comparison.job import run
from ppvae.comparison.options import AUTO, CompareOptions, JudgeOptions
from ppvae.comparison.place import Place
from ppvae.comparison.plan import plan
from ppvae.comparison.tuning import Trial, tuned
from ppvae.entry import entry
from ppvae.errors import Interrupted
from ppvae.evidence.marginal import check_method
from ppvae.options import given, with_options
from ppvae.progress import Progress
from ppvae.runs.results import Row

#: the most rows of the main job in parallel, as they share the memory
_MOST_WORKERS = 4
#: options of auto in the main job: more methods would take too long
_MAIN_JOB: Mapping[str, Any] = {"methods": ("refined",), "pilot": 250, "max_seconds": 5.0}


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`: its rows, the directory that keeps them, and the learning rates that were tried."""

    rows: list[Row]
    run_dir: Path | None
    tuning: list[Trial] = field(default_factory=list)


@entry
@with_options(CompareOptions)
def compare(
    models: Any = None,
    inference: Sequence[str] | str | None = None,
    data: Any = None,
    seeds: Sequence[int] | int | None = None,
    families: Sequence[str] | str | None = None,
    *,
    options: CompareOptions | Mapping[str, Any] | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool | None = None,
    checkpoint_seconds: float = 60.0,
    **changes: Any,
) -> Comparison:
    """Fit every model under every strategy that applies, and judge each on the same test data.

    Args:
        options: a `CompareOptions`, or a mapping of its options; single options in the call replace those in it.
        run_dir: a new directory: results.json is written again after each row, fits/ keeps every fit with its
            evidence; figures/ and report.html are written last.
        resume: continue the comparison in run_dir, which must have the same arguments: finished rows are read, a
            stopped fit continues where it stopped.
        progress: show progress bars; where None, only on a terminal.
        checkpoint_seconds: the time between two checkpoints of a fit.
        changes: options of `CompareOptions`; a setting of every fit, such as epochs=5, goes into `fit`.

    Raises:
        PpvaeError: a name, an option or data are invalid; it is raised before anything runs.
        Interrupted: Ctrl-C arrived, and run_dir keeps the finished rows.
    """
    named = given(models=models, inference=inference, data=data, seeds=seeds, families=families)
    options = CompareOptions.of(options, **named, **changes)
    require.positive("checkpoint_seconds", checkpoint_seconds, zero=True)
    started = time.perf_counter()
    jobs = plan(options)
    check_method(options.method, options.method_options)
    judge = JudgeOptions.of({name: getattr(options, name) for name in JudgeOptions.options()})
    workers = options.workers
    if workers is None:
        workers = min(os.cpu_count() or 1, _MOST_WORKERS) if options.models is None else 1
    if options.models is None and options.method == AUTO and not options.method_options:
        judge = judge.replace(method_options=dict(_MAIN_JOB))
    rows: list[Row] = []
    trials: list[Trial] = []
    with Place(run_dir, options, resume) as place, Progress(progress, len(jobs), "compare") as bar:
        started -= place.seconds
        if options.tune:
            jobs, trials = tuned(jobs, options.tune_seconds, place.tuning, lambda what: bar.update(0, what=what))
        make = partial(run, judge=judge, checkpoint_seconds=checkpoint_seconds)
        finished = finished_rows(jobs, place.fits(jobs), workers, make)
        for done, job in enumerate(jobs):
            bar.update(done, what=f"{Path(job.model).name} · {job.how} · seed {job.settings.seed}")
            try:
                rows.append(next(finished))
            except KeyboardInterrupt as error:
                if place.folder is None:
                    raise
                raise Interrupted(
                    f"interrupted at row {done + 1} of {len(jobs)}; the run is kept: ppvae compare --resume "
                    f"{place.folder}"
                ) from error
            place.keep(rows, time.perf_counter() - started)
    return Comparison(rows, place.folder, trials)
