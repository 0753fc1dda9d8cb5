"""Data sets: named ones, a user's files and torch data sets, with the treatment that turns values into observations."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ppvae import require
from ppvae.catalogue import SOURCES
from ppvae.data.dataset import Data
from ppvae.data.preparation import Preparation, alike, in_single_precision
from ppvae.data.readers import READERS, SPLITS, Table, label_column, no_column, read_file
from ppvae.data.source import LogProb, Raw, binarised, permutation
from ppvae.data.torch_datasets import from_datasets, is_dataset, wide_enough
from ppvae.data.treatment import DRAWN, as_they_are, check_values, likelihood_for, treatments
from ppvae.entry import entry
from ppvae.errors import PpvaeError
from ppvae.randomness import seeded

# arguments of `load_data`: a name or a file, data, a torch data set, or several of these in a mapping or tuple
DataLike = str | os.PathLike[str] | Data | Dataset | Mapping[str, Any] | Sequence[Any]


@entry
def load_data(
    name: DataLike,
    *,
    treatment: str | None = None,
    root: str | os.PathLike[str] | None = None,
    seed: int = 0,
    num_train: int | None = None,
    labels: str | int | None = None,
    like: Preparation | None = None,
) -> Data:
    """Load a named data set, a user's file or a torch data set, and treat its values.

    Files: `.npy` with one array [N, *event]; `.npz` with arrays `train`, `valid`, `test`, or one array `x`
    with optional integer labels `y` [N]; `.csv` of comma-separated numbers, with or without one header line
    (a line without a number). Data without splits are split 70/15/15 by a fixed permutation.

    Torch data sets: an object with `__len__` and `__getitem__`; or train and test, or train, valid and test of
    these in a tuple or mapping (where valid is absent, it is 15% of train, by a fixed permutation). Items are
    tensors, NumPy arrays, PIL images or numbers, or (item, label); labels are kept if all are whole numbers.
    Images — PIL's, 8-bit ones and [1, 3 or 4, height, width] — become vectors, channels first, and 8-bit
    intensities are divided by 255. Random transforms are drawn once, from `seed`.

    Treatments: "static" draws each value once from Bernoulli(intensity) (Salakhutdinov & Murray 2008, "On the
    quantitative analysis of deep belief networks"); "dynamic" redraws training data at each visit, with valid
    and test the same as under "static"; "threshold" is x > 0.5; these need values in [0, 1]. "binary" is
    for values that already are 0 and 1, "real" does not change values, "standardised" subtracts train's
    mean and divides by its standard deviation (by 1 in a constant column). "counts" (whole numbers), "unit" (in
    [0, 1]) and "positive" do not change values either; they need a likelihood for such values.

    Args:
        name: one of `list_data()`, a file, a torch data set or several, or a `Data` (which takes another treatment
            only if it is "real").
        treatment: default: a named set's own; else "binary" if all values are 0 and 1, else "real".
        root: folder of downloaded data; default: the environment variable PPVAE_DATA, else ~/.cache/ppvae.
        seed: seed of the static binarisation and of generated data. Splits never depend on it.
        num_train: keep this number of training rows, the first ones; valid, test and labels do not change.
        labels: the column of a .csv that is not part of x and becomes labels: the name in its header, or its
            number, from 0 on, or from -1 backwards. Words or numbers become 0 to K - 1 in their sorted order.
        like: how other data were prepared, such as `fit.data.preparation`: these are prepared by the same means, scales
            and labels, and the columns of a .csv matched by name. (`fit.read` does so and does not split them.)

    Returns:
        Data of float32 tensors, or of float64 ones where single precision would round them by more than a hundredth of
        a column's standard deviation (a `Data` keeps its dtype). Global random states do not change.

    Raises:
        PpvaeError: unknown name or treatment, unreadable file, unsuitable values or arguments, no download.
    """
    seed = require.count("seed", seed, least=0)
    if treatment is not None:
        require.one_of("treatment", treatment, treatments())
    size = None if num_train is None else require.count("num_train", num_train)
    column = None if labels is None else label_column(labels)
    path = data_root(root)
    if like is not None and isinstance(name, Data) and name.treatment != "real":
        like.refuse_other(f"data {name.name!r}", name.prepared)
    elif like is not None:
        treatment = treatment_like(like, treatment)
    if isinstance(name, Data):
        if column is not None:
            raise no_column(column, "a Data")
        data = _treat(name, treatment or name.treatment, seed, like)
    else:
        kind, raw, default = read(name, path, seed, column, like)
        data = treated(kind, raw, treatment or default, seed, like)
    if size is not None:
        if size > len(data.train):
            raise PpvaeError(f"num_train is {size}, but {data.name!r} has only {len(data.train)} training rows")
        kept = data.labels and data.labels | {"train": data.labels["train"][:size]}
        rows = data.rows and data.rows | {"train": data.rows["train"][:size]}
        data = replace(
            data, train=data.train[:size].clone(), labels=kept, rows=rows
        )  # a view would keep all rows in memory
    source = _source(name, data.treatment, root, seed, size, column)
    return data if source == data.source else replace(data, source=source)


def _source(
    name: DataLike,
    treatment: str,
    root: str | os.PathLike[str] | None,
    seed: int,
    size: int | None,
    labels: str | int | None,
) -> dict[str, Any] | None:
    """The arguments that load the same data again, without those at None; None where no arguments do."""
    if isinstance(name, Data):
        again = dict(name.source or {})
        if treatment != name.treatment:
            if "num_train" in again:
                return None  # loading by name treats the data before it cuts rows, here it was the reverse
            again["treatment"] = treatment
            if treatment in DRAWN:
                again["seed"] = seed
        again |= {} if size is None else {"num_train": size}
        if not again.get("seed"):
            again.pop("seed", None)
        return again if name.source else None
    if not isinstance(name, str | os.PathLike):
        return None
    given = os.fspath(name)
    again = {
        "name": given if given in SOURCES else os.path.abspath(os.path.expanduser(given)),
        "treatment": treatment,
        "root": None if root is None else os.path.abspath(os.path.expanduser(root)),
        "seed": seed or None,
        "num_train": size,
        "labels": labels,
    }
    return {key: value for key, value in again.items() if value is not None}


def list_data() -> list[str]:
    """The names that `load_data` knows, sorted."""
    return SOURCES.names()


def treatment_like(like: Preparation, treatment: str | None) -> str:
    """The treatment of data that are to be like others; raises PpvaeError where another one is requested."""
    if treatment is not None and not alike(treatment, like.treatment):
        raise PpvaeError(
            f"treatment {treatment!r} makes other values than {like.treatment!r}, that of the training data: remove it"
        )
    return treatment or like.treatment


def treated(name: str, raw: Raw, treatment: str | None, seed: int, like: Preparation | None) -> Data:
    """Untreated values as data in three splits; where treatment is None, their values decide it."""
    data = _data(name, raw)
    data = _treat(data, treatment or as_they_are(*data.splits.values()), seed, like)
    return replace(data, **dict(zip(SPLITS, in_single_precision(*data.splits.values()), strict=True)))


def _treat(data: Data, treatment: str, seed: int, like: Preparation | None) -> Data:
    if treatment == data.treatment:
        return data
    if data.treatment != "real":
        raise PpvaeError(f"{data.name!r} is {data.treatment!r} already: load it as {treatment!r} instead")
    untreated, log_prob = data.splits, None
    preparation = replace(like or data.prepared, treatment=treatment)
    if like is None:
        preparation = preparation.learned(data.train)
    preparation.require_values(repr(data.name), *untreated.values())
    splits = {split: preparation.apply(x) for split, x in untreated.items()}
    if data.log_prob is not None and (units := preparation.units(data.event_shape)) is not None:
        log_prob = partial(_standardised_log_prob, data.log_prob, *units)
    if treatment in DRAWN:
        drawn = {split: binarised(x, seed, split) for split, x in splits.items()}
        splits = drawn if treatment == "static" else drawn | {"train": data.train}
    return replace(
        data,
        **splits,
        likelihood=likelihood_for(treatment),
        treatment=treatment,
        log_prob=log_prob,
        preparation=preparation,
    )


def _standardised_log_prob(log_prob: LogProb, mean: Tensor, std: Tensor, x: Tensor) -> Tensor:
    return log_prob(x * std.to(x) + mean.to(x)) + std.log().sum().to(x)


def data_root(root: str | os.PathLike[str] | None) -> Path:
    root = os.environ.get("PPVAE_DATA") or "~/.cache/ppvae" if root is None else root
    if not isinstance(root, str | os.PathLike):
        raise PpvaeError(f"data root must be a path, not {require.show(root)}")
    path = Path(os.path.expanduser(root))
    if os.path.exists(path) and not os.path.isdir(path):
        raise PpvaeError(f"data root {str(path)!r} is a file: name a folder by root= or PPVAE_DATA")
    return path


def read(
    name: DataLike, root: Path, seed: int, labels: str | int | None, like: Preparation | None
) -> tuple[str, Raw, str | None]:
    """The name of data, their untreated values, and the default treatment, where the values do not decide it."""
    if isinstance(name, str | os.PathLike):
        name = os.fspath(name)
        if name in SOURCES:
            if labels is not None:
                raise no_column(labels, repr(name))
            return name, SOURCES[name](root, seed), SOURCES.facts(name)["treatment"]
        path = Path(os.path.expanduser(name))
        if path.suffix.lower() not in READERS:
            require.one_of("data", name, list_data(), f", or a file ending in {', '.join(READERS)}")
        matched = None if like is None else Table({}, like.columns, like.labels, like.classes)
        return path.name, _from_table(path.name, read_file(path, labels, matched)), None
    if labels is not None:
        raise no_column(labels, f"a {type(name).__name__}")
    if is_dataset(name):
        with seeded(seed, device=torch.device("cpu")):  # transforms draw from torch's global generator
            return *from_datasets(name, None if like is None else like.divisor), None
    kinds = "a name, a file, a torch data set or a ppvae.Data"
    build = "build ppvae.Data(name=, train=, valid=, test=, likelihood=, treatment=) from tensors"
    raise PpvaeError(f"data must be {kinds}, not {type(name).__name__}: {build}")


def _from_table(name: str, table: Table) -> Raw:
    arrays = dict(table.arrays)
    y, xs = arrays.pop("y", None), {}
    for key, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise PpvaeError(f"data {name!r}, {key}: needs real numbers, not {array.dtype}: save float32")
        with np.errstate(over="ignore"):  # overflow becomes infinite, which check_values refuses
            xs[key] = torch.from_numpy(np.array(array, dtype=wide_enough(array.dtype), order="C"))
        check_values(f"data {name!r}, {key}", xs[key].float())  # no sum of squares of larger ones has a value
    learned = Preparation("real", table.columns, table.labels, table.classes)
    if "x" not in xs:
        return Raw(xs, learned=learned)
    size = len(xs["x"])
    if y is not None and (y.dtype.kind not in "biu" or y.shape != (size,)):
        raise PpvaeError(f"data {name!r}: y must be integers [{size}], not {y.dtype} {list(y.shape)}")
    return Raw({"all": xs["x"]}, None if y is None else {"all": torch.tensor(y.astype(np.int64))}, learned=learned)


def _data(name: str, raw: Raw) -> Data:
    """The values as data; without splits they are split 70/15/15, and without valid it is 15% of train."""
    size = sum(len(x) for x in raw.x.values())
    if size < 10:
        raise PpvaeError(f"data {name!r} has {size} rows: three splits need at least 10")
    x, y, index = raw.x, raw.y, None
    if "valid" not in x:
        key = "all" if "all" in x else "train"
        check_values(f"data {name!r}{'' if key == 'all' else ', train'}", x[key])
        size = len(x[key]) * 15 // 100
        if not size:
            raise PpvaeError(f"data {name!r}, train has {len(x[key])} rows: valid is taken from it and needs 7")
        rest = {} if key == "train" else {"test": size}
        sizes = {"train": len(x[key]) - size - sum(rest.values()), "valid": size, **rest}
        index = dict(zip(sizes, permutation(len(x[key])).split([*sizes.values()]), strict=True))
        x = x | {split: raw.x[key][rows] for split, rows in index.items()}
        y = y and y | {split: y[key][rows] for split, rows in index.items()}
    labels = y and {split: y[split] for split in SPLITS}
    train, valid, test = (x[split] for split in SPLITS)
    return Data(
        name,
        train,
        valid,
        test,
        likelihood_for("real"),
        "real",
        labels,
        raw.log_prob,
        rows=index if "all" in raw.x else None,
        preparation=raw.learned,
    )
