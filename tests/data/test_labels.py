"""A column of a table as labels."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checks import identical, refusal

from ppvae.data.dataset import Data
from ppvae.data.loading import load_data

SPECIES = ["virginica", "setosa", "versicolor"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, rows: list[list[Any]]) -> None:
    with Path(name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def flowers(size: int = 40) -> list[list[Any]]:
    """Row i is (i, its species, -i / 8): what rows and labels belong together shows."""
    return [[i, SPECIES[i % 3], -i / 8] for i in range(size)]


def labelled(data: Data) -> dict[int, int]:
    """First value → label, of all splits."""
    assert data.labels is not None
    return {
        int(x[0]): int(y) for split, rows in data.splits.items() for x, y in zip(rows, data.labels[split], strict=True)
    }


@pytest.mark.parametrize("labels", ["species", " species", 1, -2, np.int64(1)])
def test_words_become_their_places_in_the_alphabet(labels: Any) -> None:
    write("x.csv", [["long", " species ", "wide"], *flowers()])
    data = load_data("x.csv", labels=labels)
    assert [tuple(x.shape) for x in data.splits.values()] == [(28, 2), (6, 2), (6, 2)]
    assert data.labels is not None
    assert all(y.dtype == torch.int64 for y in data.labels.values())
    assert labelled(data) == {i: [2, 0, 1][i % 3] for i in range(40)}
    write("bare.csv", [[a, c] for a, _, c in flowers()])
    assert identical(load_data("bare.csv"), data)
    assert data.source == {
        "name": str(Path("x.csv").absolute()),
        "treatment": "real",
        "labels": int(labels) if not isinstance(labels, str) else labels,
    }
    again: Any = data.source
    assert labelled(load_data(**again)) == labelled(data)


def test_a_table_without_header_is_labelled_by_number() -> None:
    write("x.csv", flowers())
    assert labelled(load_data("x.csv", labels=1)) == {i: [2, 0, 1][i % 3] for i in range(40)}
    assert load_data("x.csv", labels=1, num_train=5).source == {
        "name": str(Path("x.csv").absolute()), "treatment": "real", "num_train": 5, "labels": 1
    }  # fmt: skip


@pytest.mark.parametrize(
    ("cells", "codes"),
    [
        (["10", "9", "-1"], [2, 1, 0]),  # as numbers: as words, 10 comes before 9
        (["10.0", "9", "-1.0"], [2, 1, 0]),
        (["3", " 3.0", "7 "], [0, 0, 1]),
        (["9007199254740993", "9007199254740992", "1"], [2, 1, 0]),  # the same as floats
        (["0.5", "-0.5", "0.25"], [2, 0, 1]),
        (["10", "9", "9a"], [0, 1, 2]),  # a word among them: all are words
        (["b", "a b", "B"], [2, 1, 0]),
        (["NA", "EU", "none"], [1, 0, 2]),
        (["only", "only", "only"], [0, 0, 0]),
    ],
)
def test_order_of_labels(cells: list[str], codes: list[int]) -> None:
    write("x.csv", [["x", "class"], *([i, cells[i % 3]] for i in range(21))])
    assert labelled(load_data("x.csv", labels="class")) == {i: codes[i % 3] for i in range(21)}


def test_labels_may_differ_in_every_row() -> None:
    write("x.csv", [[i, f"row {i:02}"] for i in range(20)])
    assert labelled(load_data("x.csv", labels=-1)) == {i: i for i in range(20)}


def test_binary_is_told_without_the_labels() -> None:
    write("x.csv", [[i % 2, 7 + i % 3] for i in range(20)])
    assert load_data("x.csv", labels=1).treatment == "binary"
    assert load_data("x.csv").treatment == "real"


def test_labels_stay_with_treated_data() -> None:
    write("x.csv", [["long", "species", "wide"], *flowers()])
    data = load_data("x.csv", labels="species")
    again = load_data(data, treatment="standardised")
    assert again.labels is data.labels
    assert again.source == {**(data.source or {}), "treatment": "standardised"}


HEADER = [["long", "species", "wide"]]


@pytest.mark.parametrize(
    ("rows", "labels", "fragment"),
    [
        (HEADER + flowers(), "speces", "unknown column of 'x.csv' 'speces': did you mean 'species'? known: long, spe"),
        (HEADER + flowers(), "", "unknown column of 'x.csv' '': known: long, species, wide"),
        (HEADER + flowers(), 3, "'x.csv' has columns 0 to 2, or -3 to -1: labels=3 is none of them"),
        (HEADER + flowers(), -4, "labels=-4 is none of them"),
        (HEADER + flowers(), True, "labels must be the name or the number of a column, got True"),
        (HEADER + flowers(), 1.0, "got 1.0"),
        (HEADER + flowers(), ["species"], "got ['species']"),
        (flowers(), "species", "has no header line, so labels='species' names no column: give its number, from 0 on"),
        ([["a", "b", "b"], *flowers()], "b", "has several columns 'b': give the number of one"),
        ([[f"c{i}" for i in range(900)]], "d", "unknown column of 'x.csv' 'd'"),
        ([[i] for i in range(20)], 0, "has one column only: labels=0 leaves none for x"),
        ([*flowers(), [1, "", 2]], 1, "row 41, column 2 is '': the label is missing: fill it in or drop the row"),
        ([*flowers(), [1, " ", 2]], 1, "row 41, column 2 is ' ': the label is missing"),
        ([*flowers(), [1, "NaN", 2]], 1, "row 41, column 2 is 'NaN': the label is missing"),
        ([[i, "NA" if i == 9 else i % 2] for i in range(20)], 1, "a label is 'NA' among numbers"),
        ([*flowers(), [1, "setosa"]], 1, "row 41 has 2 columns"),
        ([*flowers(), [1, "setosa", ""]], 1, "row 41, column 3 is ''"),
        ([*flowers(), ["two", "setosa", 3]], 1, "row 41, column 1 is 'two': only numbers are supported"),
        (flowers()[:9], 1, "9 rows"),
        (HEADER, 1, "holds no values"),
        ([], 1, "holds no values"),
    ],
)
def test_bad_labels(rows: list[list[Any]], labels: Any, fragment: str) -> None:
    write("x.csv", rows)
    message = refusal(lambda: load_data("x.csv", labels=labels))
    assert fragment in message
    assert len(message) < 400


def test_a_column_of_words_suggests_labels() -> None:
    write("named.csv", HEADER + flowers())
    write("bare.csv", flowers())
    for name, labels in (("named.csv", "species"), ("bare.csv", 1)):
        message = refusal(lambda name=name: load_data(name))
        assert "column 2 is 'virginica': only numbers are supported" in message
        assert message.endswith(f"if the column holds labels, give labels={labels!r}")
        load_data(name, labels=labels)  # and the suggestion works
    for rows in ([[1, 2]] * 20 + [[1, ""]], [[1]] * 20 + [["a"]], [*flowers(), ["a", "b", 1]]):
        write("x.csv", rows)
        labels = 1 if len(rows[0]) == 3 else None
        assert "labels=" not in refusal(lambda labels=labels: load_data("x.csv", labels=labels))


def test_labels_are_for_tables_only() -> None:
    np.save("x.npy", np.eye(20))
    np.savez("x.npz", x=np.eye(20), y=np.arange(20))
    for data, what in (
        ("x.npy", "'x.npy'"),
        ("x.npz", "'x.npz'"),
        ("iris", "'iris'"),
        (load_data("iris"), "a Data"),
        (list(torch.eye(20)), "a list"),
    ):
        message = refusal(lambda data=data: load_data(data, labels="species"))
        assert message.startswith(f"labels='species' names a column of a .csv file, and {what} is not one")
