"""What each command of the command line does; `cli` reads their options off these signatures."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from ppvae.errors import PpvaeError

Treatment = Literal["static", "dynamic", "threshold", "real", "standardised", "binary"]
Split = Literal["train", "valid", "test", "all"]
console = Console(width=None if sys.stdout.isatty() else 160)


def first_line(thing: object) -> str:
    """Of its docstring."""
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def column_of(labels: str | int | None) -> str | int | None:
    """A column given by its number is a number."""
    try:
        return None if labels is None else int(labels)
    except ValueError:
        return labels


def trained_fit(place: Path) -> Any:
    """The fit in a folder; a comparison holds several."""
    from ppvae.runs.folder import FITS
    from ppvae.training.loading import load

    if (place / FITS).is_dir():
        first = next(iter(sorted(path.name for path in (place / FITS).iterdir())), "…")
        raise PpvaeError(f"{place} is a comparison: name one of its fits, such as {place / FITS / first}")
    return load(place)


def name_of_run(place: Path) -> str:
    from ppvae.runs.folder import read_config

    return str(read_config(place)["name"])
