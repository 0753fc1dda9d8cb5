"""The run directory of a comparison."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ppvae import require
from ppvae.comparison.job import Job
from ppvae.comparison.options import CompareOptions, from_earlier_comparison
from ppvae.errors import PpvaeError
from ppvae.runs.files import as_folder, empty_directory, missing_parents, remove_empty
from ppvae.runs.folder import CONFIG, FITS, RESULTS, TUNING, read_config, write_config
from ppvae.runs.results import Row, has_rows, read_seconds, write_results


class Place:
    """The directory of a comparison, or none; it is removed if an error occurs before a fit can be kept.

    Args:
        run_dir: an empty directory, one that does not exist yet, or None for no directory.
        options: of the comparison.
        resume: continue the comparison in the directory.

    Attributes:
        seconds: the time of the rows that were computed before.

    Raises:
        PpvaeError: the directory holds something else, or a comparison of other options.
    """

    def __init__(self, run_dir: str | os.PathLike[str] | None, options: CompareOptions, resume: bool) -> None:
        require.flag("resume", resume)
        if resume and run_dir is None:
            raise PpvaeError("resume needs run_dir: the folder of the comparison to continue")
        self.folder = None if run_dir is None else as_folder(run_dir)
        self.made = [] if self.folder is None else missing_parents(self.folder)
        self.started = resume and self.folder is not None and (self.folder / CONFIG).is_file()
        self.seconds = 0.0
        if self.folder is None:
            return
        if self.started:
            _refuse_other_options(self.folder, options)
            self.seconds = read_seconds(self.folder / RESULTS)
        else:
            empty_directory(self.folder)
            write_config(self.folder, "compare", _config(options))

    @property
    def tuning(self) -> Path | None:
        """The file of the learning rates that were tried."""
        return None if self.folder is None else self.folder / TUNING

    def fits(self, jobs: Sequence[Job]) -> list[Path | None]:
        """The folder of each row's fit."""
        return [None if self.folder is None else self.folder / FITS / name for name in folder_names(jobs)]

    def keep(self, rows: list[Row], seconds: float) -> None:
        """Write results.json, unless it already has these rows."""
        if self.folder is not None and not has_rows(self.folder / RESULTS, rows):
            write_results(self.folder / RESULTS, rows, seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        failed = isinstance(error, Exception)  # Interrupted is not an Exception
        if self.folder is None or self.started or not failed:
            return
        remove_empty([self.folder / FITS])
        if not (self.folder / FITS).exists():
            (self.folder / CONFIG).unlink(missing_ok=True)
            remove_empty(self.made)


def _config(options: CompareOptions) -> dict[str, Any]:
    """The options that repeat the comparison; workers does not change its results."""
    return {name: value for name, value in options.plain().items() if name != "workers"}


def _refuse_other_options(folder: Path, options: CompareOptions) -> None:
    written = from_earlier_comparison(read_config(folder))
    data = {"data": written.pop("data", None)}  # the name of a `Data` made in Python is not one that can be loaded
    before = _config(CompareOptions.of(written)) | data
    now = _config(options)
    for name in (*now, *before):
        one, other = before.get(name), now.get(name)
        if one != other:
            raise PpvaeError(
                f"{folder} holds a comparison with {name} {require.show(one)}, not {require.show(other)}: continue "
                "with the same arguments, or choose another run directory"
            )


def folder_names(jobs: Sequence[Job]) -> list[str]:
    """A folder name for each row."""
    names = []
    for job in jobs:
        stem = re.sub(r"[^\w.-]+", "-", Path(job.model).name.replace(".py:", "-"))
        name = "-".join([stem, *job.how.split(" · "), str(job.settings.seed)])
        names.append(f"{name}-{len(names)}" if name in names else name)
    return names
