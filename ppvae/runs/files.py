"""Files that are written completely or not at all, and checks of their paths."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from ppvae import require
from ppvae.errors import PpvaeError


@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """A scratch path beside `path`, which replaces `path` when the block ends without an error.

    A reader never finds half a file. Without `sync` that holds if the process is killed, but not if the machine stops.

    Raises:
        PpvaeError: the file cannot be written.
    """
    scratch = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield scratch
        if sync:
            with scratch.open("rb") as file:  # the content must reach the disk before the name
                os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        raise PpvaeError(f"cannot write {path}, {error.strerror or error}: choose another place") from error
    finally:
        scratch.unlink(missing_ok=True)


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Let a library write the file, in place of what was there; each has errors of its own where the disk refuses.

    Raises:
        PpvaeError: the disk refuses.
    """
    from safetensors import SafetensorError

    with replacing(path) as scratch:
        try:
            write(scratch)
        except (RuntimeError, SafetensorError) as error:
            raise OSError(require.shorten(" ".join(str(error).split()))) from error


def write_text(path: Path, text: str, *, sync: bool = True) -> None:
    """Write the text to a file, in place of its content."""
    with replacing(path, sync=sync) as scratch:
        scratch.write_text(text, encoding="utf-8")


def as_folder(path: str | os.PathLike[str]) -> Path:
    """The path, if a directory can have it; the directory need not exist.

    Raises:
        PpvaeError: it is not a path, or not one that the disk allows.
    """
    try:
        target = Path(path)
        os.stat(target)
    except (FileNotFoundError, NotADirectoryError):
        return Path(path)
    except (OSError, TypeError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise PpvaeError(f"{require.show(path)} cannot be a run directory: {why}") from error
    return target


def empty_directory(path: str | os.PathLike[str]) -> Path:
    """A directory that is empty, or does not exist and can be made; it is not made here.

    Raises:
        PpvaeError: the path is not empty, or a directory cannot be made there.
    """
    target = as_folder(path)
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise PpvaeError(f"{target} exists and is not an empty folder: choose another run directory")
        above = next(folder for folder in (target.absolute(), *target.absolute().parents) if folder.exists())
    except OSError as error:
        raise PpvaeError(f"{require.show(path)} cannot be a run directory: {error.strerror}") from error
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise PpvaeError(
            f"cannot make the run directory {target}: {above} is not a folder that you may write to: choose another"
        )
    return target


def missing_parents(directory: Path) -> list[Path]:
    """The directory and its parents that do not exist yet, innermost first."""
    return [folder for folder in (directory, *directory.parents) if not folder.exists()]


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove the directories that are empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def free_file(path: str | os.PathLike[str], *suffixes: str) -> Path:
    """A path for a new file in an existing folder.

    Raises:
        PpvaeError: it exists, its folder does not, or its name ends in none of the suffixes.
    """
    target = Path(path)
    if target.exists() or not target.absolute().parent.is_dir():
        raise PpvaeError(f"out: {str(path)!r} exists, or its folder does not: choose another file")
    if suffixes and target.suffix.lower() not in suffixes:
        raise PpvaeError(f"out: {str(path)!r} must end in {', '.join(suffixes)}")
    return target


def new_run_path(kind: str) -> Path:
    """runs/<kind>-<date>-<time>, with a number added if it exists; it is not made here."""
    stem = f"{kind}-{datetime.now():%Y%m%d-%H%M%S}"
    for number in range(1000):
        path = Path("runs") / (stem if number == 0 else f"{stem}-{number}")
        if not path.exists():
            return path
    raise PpvaeError("runs/ has no free name for this second: choose one with run_dir")
