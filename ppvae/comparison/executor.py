"""Rows of a comparison one after another, or side by side in processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ppvae.comparison.job import Job
from ppvae.runs.results import Row


def finished_rows(
    jobs: Sequence[Job], places: Sequence[Path | None], workers: int, make: Callable[[Job, Path | None], Row]
) -> Iterator[Row]:
    """The rows in their order, as soon as each is there.

    Args:
        jobs: one per row.
        places: where each is kept, if anywhere.
        workers: processes of one thread each; with 1, rows are made here.
        make: a row of a job, such as `run` of ppvae.comparison.job.
    """
    if workers == 1 or len(jobs) == 1:
        for job, place in zip(jobs, places, strict=True):
            yield make(job, place)
        return
    from joblib import Parallel, delayed, parallel_config

    with parallel_config("loky", inner_max_num_threads=1):
        made: Any = Parallel(workers, return_as="generator", pre_dispatch=str(workers))(
            delayed(make)(job, place) for job, place in zip(jobs, places, strict=True)
        )
        yield from made
