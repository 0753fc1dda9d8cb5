"""A user's files of data as arrays: .npy, .npz and .csv."""

from __future__ import annotations

import csv
import math
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ppvae import require
from ppvae.errors import PpvaeError

SPLITS: tuple[str, ...] = ("train", "valid", "test")
_MISSING = {"na", "n/a", "null", "none", "-", "?"}  # words for a missing value in a column of numbers

Arrays = dict[str, np.ndarray]
#: a value in a column of labels
Label = str | int | float


@dataclass(frozen=True, eq=False)
class Table:
    """What a file holds.

    Attributes:
        arrays: `x` [N, *event] with or without `y` [N], or `train`, `valid` and `test`.
        columns: the names of the columns of x in a .csv, or None.
        labels: the column of y in a .csv: its name, or its number where there are no names.
        classes: the labels that are 0 … K − 1 in y.
    """

    arrays: Arrays
    columns: tuple[str, ...] | None = None
    labels: str | int | None = None
    classes: tuple[Label, ...] | None = None


def read_file(path: Path, labels: str | int | None = None, like: Table | None = None) -> Table:
    """The content of a file.

    Args:
        path: a file whose ending is in `READERS`.
        labels: the column of a .csv that becomes `y`: the name in its header, or the number, from 0 on, or from -1
            backwards. Its words or numbers are numbered 0 to K - 1 in their order.
        like: the file, without its arrays, that this one must match: columns are put into its order by their names, and
            labels get its numbers, or -1 where it does not have them. Its column of labels may be absent here.

    Raises:
        PpvaeError: the file does not exist or is damaged, a .csv is not a table of numbers, labels name no column, or
            the columns are not those of `like`.
    """
    if labels is not None:
        labels = label_column(labels)
        if path.suffix.lower() != ".csv":
            raise no_column(labels, repr(path.name))
    if not os.path.isfile(path):
        raise PpvaeError(f"no such file: {str(path)!r}: check the path")
    try:
        return READERS[path.suffix.lower()](path, labels, like)
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


def _read_npy(path: Path, labels: str | int | None, like: Table | None) -> Table:
    _refuse_unnamed(path, like)
    with path.open("rb") as file:
        return Table({"x": np.lib.format.read_array(file, allow_pickle=False)})


def _read_npz(path: Path, labels: str | int | None, like: Table | None) -> Table:
    _refuse_unnamed(path, like)
    if not zipfile.is_zipfile(path):
        raise PpvaeError(f"{str(path)!r} is not a complete .npz archive: write it with numpy.savez")
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        if set(archive.files) not in ({"x"}, {"x", "y"}, set(SPLITS)):
            held = require.show(sorted(archive.files))
            raise PpvaeError(f"{str(path)!r} holds {held}: it needs train, valid and test, or x, or x and y")
        return Table({key: np.asarray(archive[key]) for key in archive.files})


def _refuse_unnamed(path: Path, like: Table | None) -> None:
    if like is not None and like.columns is not None:
        raise PpvaeError(
            f"{str(path)!r} has no names of columns, by which it is matched with the training data: save it as a .csv "
            f"with the header line {_line(like.columns)}"
        )


def _read_csv(path: Path, labels: str | int | None, like: Table | None) -> Table:
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
                column = _labels_like(path, labels, like, names, width)
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
    columns = None if names is None else tuple(name for k, name in enumerate(names) if k != column)
    if like is not None:
        order = _order(path, columns, width - (column is not None), like.columns)
        x, columns = x[:, order], like.columns
    if column is None:
        return Table({"x": x}, columns)
    classes, y = _numbered(path, words, None if like is None else like.classes)
    return Table({"x": x, "y": y}, columns, column if names is None else names[column], classes)


def _labels_like(path: Path, labels: str | int | None, like: Table | None, names: list[str] | None, width: int) -> Any:
    """The number of the column of labels: of the one that is named, or else the one in the file to be matched."""
    if labels is not None:
        return _column(path, labels, names, width)
    if like is None or like.labels is None:
        return None
    if isinstance(like.labels, str):
        return names.index(like.labels) if names and names.count(like.labels) == 1 else None
    return None


def _order(path: Path, names: tuple[str, ...] | None, width: int, like: tuple[str, ...] | None) -> Sequence[int]:
    """The columns of a file in the order of those of another."""
    if like is None or names == like:
        return range(width)
    if names is None:
        raise PpvaeError(
            f"{str(path)!r} has no header line, by which its columns are matched with those of the training data: add "
            f"{_line(like)}"
        )
    for what, these, those in (("no column", like, names), ("an unknown column", names, like)):
        for name in these:
            if name not in those:
                raise PpvaeError(
                    f"{str(path)!r} has {what} {name!r}, and the training data have {_line(like)}: rename or remove "
                    "columns; a column of labels is named by labels="
                )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise PpvaeError(f"{str(path)!r} has several columns {twice!r}: give each its own name")
    return [names.index(name) for name in like]


def _line(names: Sequence[str]) -> str:
    return require.shorten(",".join(names), 200)


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


def _numbered(path: Path, words: list[str], like: tuple[Label, ...] | None) -> tuple[tuple[Label, ...], np.ndarray]:
    """The classes, in their sorted order, and the position of each word [N]; all are numbers if all can be.

    Where `like` gives the classes, a word that is not among them is at -1.
    """
    numbers = [_number(word) for word in words]
    others = {word for word, number in zip(words, numbers, strict=True) if number is None}
    if len(others) < len(set(words)) and others and {word.lower() for word in others} <= _MISSING:
        missing = next(word for word in words if word in others)
        raise PpvaeError(
            f"{str(path)!r}: a label is {missing!r} among numbers: fill it in or drop the row if it is missing"
        )
    as_words = others if like is None else any(isinstance(label, str) for label in like)
    keys: list[Any] = words if as_words else numbers
    classes = tuple(sorted(set(keys))) if like is None else like
    position = {key: k for k, key in enumerate(classes)}
    return classes, np.array([position.get(key, -1) for key in keys], dtype=np.int64)


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


READERS: dict[str, Callable[[Path, str | int | None, Table | None], Table]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".csv": _read_csv,
}
