"""Rows of a comparison one after another, or side by side in processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ppvae.comparison.job import Job, run
from ppvae.comparison.options import JudgeOptions
from ppvae.runs.results import Row


def finished_rows(
    jobs: Sequence[Job], places: Sequence[Path | None], workers: int, judge: JudgeOptions
) -> Iterator[Row]:
    """The rows in their order, as soon as each is there."""
    if workers == 1 or len(jobs) == 1:
        for job, place in zip(jobs, places, strict=True):
            yield run(job, judge, place)
        return
    from joblib import Parallel, delayed, parallel_config

    with parallel_config("loky", inner_max_num_threads=1):
        made: Any = Parallel(workers, return_as="generator", pre_dispatch=str(workers))(
            delayed(run)(job, judge, place) for job, place in zip(jobs, places, strict=True)
        )
        yield from made
