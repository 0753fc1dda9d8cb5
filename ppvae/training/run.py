"""A run directory that exists already."""

from __future__ import annotations

from pathlib import Path

from ppvae import require
from ppvae.errors import PpvaeError
from ppvae.runs.folder import CHECKPOINT, CONFIG, read_fit_config
from ppvae.training.fitted import Fit


def existing_run(run: Path) -> Path | None:
    """The directory, if a run has begun there, or was cut off before it could."""
    if (run / CONFIG).is_file():
        return run
    found = [part.name for part in run.iterdir()] if run.is_dir() else []
    return run if found and all(name == CHECKPOINT or name.endswith(".partial") for name in found) else None


def refuse_other_settings(run: Path, result: Fit) -> None:
    """Refuse to go on with a run of other settings."""
    before, now = read_fit_config(run), result.config()
    for name in (*now, *before):
        one, other = before.get(name), now.get(name)
        if one != other:
            raise PpvaeError(
                f"{run} holds a run with {name} {require.show(one)}, not {require.show(other)}: go on with the same "
                "arguments, or choose another run directory"
            )
