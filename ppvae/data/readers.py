"""A user's files of data as arrays: .npy, .npz and .csv."""

from __future__ import annotations

import csv
import math
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ppvae import require
from ppvae.errors import PpvaeError

SPLITS: tuple[str, ...] = ("train", "valid", "test")
_MISSING = {"na", "n/a", "null", "none", "-", "?"}  # words for a missing value in a column of numbers

Arrays = dict[str, np.ndarray]


def read_file(path: Path, labels: str | int | None = None) -> Arrays:
    """The arrays of a file: `x` [N, *event] with or without `y` [N], or `train`, `valid` and `test`.

    Args:
        path: a file whose ending is in `READERS`.
        labels: the column of a .csv that becomes `y`: the name in its header, or the number, from 0 on, or from -1
            backwards. Its words or numbers are numbered 0 to K - 1 in their order.

    Raises:
        PpvaeError: the file does not exist or is damaged, a .csv is not a table of numbers, or labels name no column.
    """
    if labels is not None:
        labels = label_column(labels)
        if path.suffix.lower() != ".csv":
            raise no_column(labels, repr(path.name))
    if not os.path.isfile(path):
        raise PpvaeError(f"no such file: {str(path)!r}: check the path")
    try:
        return READERS[path.suffix.lower()](path, labels)
    except PpvaeError:
        raise
    except Exception as error:  # damaged bytes make numpy, zipfile and csv raise many kinds of errors
        raise PpvaeError(f"cannot read {str(path)!r}, {require.show(error)}: save plain numbers again") from error


def label_column(labels: object) -> str | int:
    """The name or number of a column, as a plain str or int."""
    if isinstance(labels, str):
        return str(labels)
    if isinstance(labels, int | np.integer) and not isinstance(labels, bool):
        return int(labels)
    raise PpvaeError(f"labels must be the name or the number of a column, got {require.show(labels)}")


def no_column(labels: str | int, what: str) -> PpvaeError:
    """The error for labels where the data are not a .csv file."""
    given = require.show(labels)
    return PpvaeError(f"labels={given} names a column of a .csv file, and {what} is not one: remove labels")


def _read_npy(path: Path, labels: str | int | None) -> Arrays:
    with path.open("rb") as file:
        return {"x": np.lib.format.read_array(file, allow_pickle=False)}


def _read_npz(path: Path, labels: str | int | None) -> Arrays:
    if not zipfile.is_zipfile(path):
        raise PpvaeError(f"{str(path)!r} is not a complete .npz archive: write it with numpy.savez")
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        if set(archive.files) not in ({"x"}, {"x", "y"}, set(SPLITS)):
            held = require.show(sorted(archive.files))
            raise PpvaeError(f"{str(path)!r} holds {held}: it needs train, valid and test, or x, or x and y")
        return {key: np.asarray(archive[key]) for key in archive.files}


def _read_csv(path: Path, labels: str | int | None) -> Arrays:
    rows, words, width = [], [], 0
    column, names = None, None
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        for cells in filter(None, reader):
            where = f"{str(path)!r}, row {reader.line_num}"
            values = [_float(cell) for cell in cells]
            if not width:  # the first row that is not empty defines the columns
                width = len(cells)
                names = [cell.strip() for cell in cells] if values.count(None) == width else None
                column = None if labels is None else _column(path, labels, names, width)
                if names is not None:
                    continue
            if len(cells) != width:
                raise PpvaeError(f"{where} has {len(cells)} columns, the first has {width}: make rows alike")
            if column is not None:
                words.append(_label(where, column, cells[column]))
                values[column] = 0.0
            if None in values:
                bad = values.index(None)
                raise PpvaeError(_no_number(where, bad, cells[bad], names, width > 1 and labels is None))
            if column is not None:
                del values[column]
            rows.append(np.array(values))
    x = np.array(rows).reshape(len(rows), width - (column is not None))
    return {"x": x} if column is None else {"x": x, "y": _numbered(path, words)}


def _column(path: Path, labels: str | int, names: list[str] | None, width: int) -> int:
    """The number, from 0 on, of the column of labels."""
    what = f"{str(path)!r}"
    if width == 1:
        raise PpvaeError(f"{what} has one column only: labels={require.show(labels)} leaves none for x")
    if isinstance(labels, int):
        if not -width <= labels < width:
            raise PpvaeError(f"{what} has columns 0 to {width - 1}, or {-width} to -1: labels={labels} is none of them")
        return labels % width
    if names is None:
        given = require.show(labels)
        raise PpvaeError(f"{what} has no header line, so labels={given} names no column: give its number, from 0 on")
    try:
        require.one_of(f"column of {path.name!r}", labels.strip(), names)
    except PpvaeError as error:  # a wide table has many names
        raise PpvaeError(require.shorten(str(error))) from None
    if names.count(labels.strip()) > 1:
        raise PpvaeError(f"{what} has several columns {require.show(labels)}: give the number of one, from 0 on")
    return names.index(labels.strip())


def _label(where: str, column: int, cell: str) -> str:
    word = cell.strip()
    if not word or math.isnan(_float(word) or 0.0):
        raise PpvaeError(f"{where}, column {column + 1} is {cell!r}: the label is missing: fill it in or drop the row")
    return word


def _no_number(where: str, column: int, cell: str, names: list[str] | None, suggest: bool) -> str:
    message = f"{where}, column {column + 1} is {require.show(cell)}: only numbers are supported, and no missing values"
    if not (suggest and cell.strip()):
        return f"{message} yet"
    own = require.show(column if names is None else names[column])
    return f"{message} yet; if the column holds labels, give labels={own}"


def _numbered(path: Path, words: list[str]) -> np.ndarray:
    """The words [N], or numbers if all of them are, as positions in their sorted order."""
    numbers = [_number(word) for word in words]
    others = {word for word, number in zip(words, numbers, strict=True) if number is None}
    if len(others) < len(set(words)) and others and {word.lower() for word in others} <= _MISSING:
        missing = next(word for word in words if word in others)
        raise PpvaeError(
            f"{str(path)!r}: a label is {missing!r} among numbers: fill it in or drop the row if it is missing"
        )
    keys: list[Any] = words if others else numbers
    position = {key: k for k, key in enumerate(sorted(set(keys)))}
    return np.array([position[key] for key in keys], dtype=np.int64)


def _number(cell: str) -> float | None:
    try:
        return int(cell)  # exact, where a float stops at 2^53
    except ValueError:
        return _float(cell)


def _float(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


READERS: dict[str, Callable[[Path, str | int | None], Arrays]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".csv": _read_csv,
}
