"""The run directory of a comparison."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ppvae import require
from ppvae.comparison.job import Job
from ppvae.data.dataset import Data
from ppvae.errors import PpvaeError
from ppvae.runs.files import empty_directory, remove_empty
from ppvae.runs.folder import CONFIG, FITS, plain, read_config, write_config


def open_place(run_dir: Path, arguments: Mapping[str, Any], resume: bool) -> None:
    """Write the configuration of the run into its directory, or find it to be the same."""
    config = plain_arguments(arguments)
    if not (resume and (run_dir / CONFIG).is_file()):
        empty_directory(run_dir)
        write_config(run_dir, "compare", config)
        return
    before = read_config(run_dir)
    for name in (*config, *before):
        if before.get(name) != config.get(name):
            raise PpvaeError(
                f"{run_dir} holds a comparison with {name} {require.show(before.get(name))}, not "
                f"{require.show(config.get(name))}: go on with the same arguments, or choose another run directory"
            )


def discard(where: Path, made: list[Path]) -> None:
    """Remove a run whose first fit failed before anything was worth keeping."""
    remove_empty([where / FITS])
    if not (where / FITS).exists():
        (where / CONFIG).unlink(missing_ok=True)
        remove_empty(made)


def plain_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that were given, in terms of what YAML holds; classes and data made in Python by name."""

    def word(value: Any) -> Any:
        if isinstance(value, type):
            return value.__name__
        if isinstance(value, Data):
            return value.name
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if isinstance(value, torch.nn.Module):
            return type(value).__name__
        if isinstance(value, Mapping):
            return {str(k): word(v) for k, v in value.items()}
        return [word(v) for v in value] if isinstance(value, list | tuple | range) else value

    given = {name: word(value) for name, value in arguments.items() if value is not None and value != {}}
    return {name: plain(value, name) for name, value in given.items()}


def folder_names(jobs: Sequence[Job]) -> list[str]:
    """A folder name for each row."""
    names = []
    for job in jobs:
        stem = re.sub(r"[^\w.-]+", "-", Path(job.model).name.replace(".py:", "-"))
        name = "-".join([stem, *job.how.split(" · "), str(job.seed)])
        names.append(f"{name}-{len(names)}" if name in names else name)
    return names
