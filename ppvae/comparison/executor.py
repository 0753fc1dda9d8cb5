"""Rows of a comparison, computed one after another or in parallel processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ppvae.comparison.job import Job
from ppvae.runs.results import Row


def finished_rows(
    jobs: Sequence[Job], places: Sequence[Path | None], workers: int, make: Callable[[Job, Path | None], Row]
) -> Iterator[Row]:
    """The rows in their order, each as soon as it is computed.

    Args:
        jobs: one per row.
        places: the folder of each row, or None.
        workers: processes of one thread each; with 1, rows are computed in this process.
        make: computes the row of a job, such as `run` of ppvae.comparison.job.
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
