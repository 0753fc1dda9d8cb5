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
from ppvae.data.readers import READERS, SPLITS, Arrays, label_column, no_column, read_file
from ppvae.data.source import LogProb, Raw, generator, permutation
from ppvae.data.torch_datasets import from_datasets, is_dataset
from ppvae.data.treatment import DRAWN, TREATMENTS, VALUES, as_they_are, check_values, holds, likelihood_for, treatments
from ppvae.errors import PpvaeError
from ppvae.randomness import seeded

# arguments of `load_data`: a name or a file, data, a torch data set, or several of these in a mapping or tuple
DataLike = str | os.PathLike[str] | Data | Dataset | Mapping[str, Any] | Sequence[Any]


def load_data(
    name: DataLike,
    *,
    treatment: str | None = None,
    root: str | os.PathLike[str] | None = None,
    seed: int = 0,
    num_train: int | None = None,
    labels: str | int | None = None,
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

    Returns:
        Data of float32 tensors (a `Data` keeps its dtype). Global random states do not change.

    Raises:
        PpvaeError: unknown name or treatment, unreadable file, unsuitable values or arguments, no download.
    """
    seed = require.count("seed", seed, least=0)
    if treatment is not None:
        require.one_of("treatment", treatment, treatments())
    size = None if num_train is None else require.count("num_train", num_train)
    column = None if labels is None else label_column(labels)
    path = _data_root(root)
    data, default = _find(name, path, seed, column)
    data = _treat(data, treatment or default, seed)
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


def _treat(data: Data, treatment: str, seed: int) -> Data:
    if treatment == data.treatment:
        return data
    if data.treatment != "real":
        raise PpvaeError(f"{data.name!r} is {data.treatment!r} already: load it as {treatment!r} instead")
    splits, log_prob = data.splits, None
    if treatment == "standardised":
        constant = data.train.amin(0) == data.train.amax(0)  # whose deviation may be slightly above 0 by rounding
        mean = data.train.double().mean(0)
        std = data.train.double().std(0, correction=0).masked_fill(constant, 1.0)
        splits = {split: ((x.double() - mean) / std).to(x.dtype) for split, x in splits.items()}
        if data.log_prob is not None:
            log_prob = partial(_standardised_log_prob, data.log_prob, mean, std)
    else:
        needed, _ = TREATMENTS[treatment]
        if not all(holds(x, needed) for x in splits.values()):
            low, high = map(float, torch.cat([*splits.values()]).aminmax())
            has = f"has others between {low:g} and {high:g}: use 'real' or 'standardised'"
            raise PpvaeError(f"treatment {treatment!r} needs values {VALUES[needed].words}, but {data.name!r} {has}")
    if treatment == "threshold":
        splits = {split: (x > 0.5).to(x.dtype) for split, x in splits.items()}
    elif treatment in DRAWN:
        # each split has a stream, so that test does not depend on train
        drawn = {s: torch.bernoulli(x, generator=generator(seed, s)) for s, x in splits.items()}
        splits = drawn if treatment == "static" else drawn | {"train": data.train}
    return replace(data, **splits, likelihood=likelihood_for(treatment), treatment=treatment, log_prob=log_prob)


def _standardised_log_prob(log_prob: LogProb, mean: Tensor, std: Tensor, x: Tensor) -> Tensor:
    return log_prob(x * std.to(x) + mean.to(x)) + std.log().sum().to(x)


def _data_root(root: str | os.PathLike[str] | None) -> Path:
    root = os.environ.get("PPVAE_DATA") or "~/.cache/ppvae" if root is None else root
    if not isinstance(root, str | os.PathLike):
        raise PpvaeError(f"data root must be a path, not {require.show(root)}")
    path = Path(os.path.expanduser(root))
    if os.path.exists(path) and not os.path.isdir(path):
        raise PpvaeError(f"data root {str(path)!r} is a file: name a folder by root= or PPVAE_DATA")
    return path


def _find(name: DataLike, root: Path, seed: int, labels: str | int | None) -> tuple[Data, str]:
    """The untreated data, and the default treatment."""
    if isinstance(name, str | os.PathLike):
        name = os.fspath(name)
        if name in SOURCES:
            if labels is not None:
                raise no_column(labels, repr(name))
            return _data(name, SOURCES[name](root, seed)), SOURCES.facts(name)["treatment"]
        path = Path(os.path.expanduser(name))
        if path.suffix.lower() not in READERS:
            require.one_of("data", name, list_data(), f", or a file ending in {', '.join(READERS)}")
        data = _data(path.name, _from_arrays(path.name, read_file(path, labels)))
    elif labels is not None:
        raise no_column(labels, f"a {type(name).__name__}")
    elif isinstance(name, Data):
        return name, name.treatment
    elif is_dataset(name):
        with seeded(seed, device=torch.device("cpu")):  # transforms draw from torch's global generator
            data = _data(*from_datasets(name))
    else:
        kinds = "a name, a file, a torch data set or a ppvae.Data"
        build = "build ppvae.Data(name=, train=, valid=, test=, likelihood=, treatment=) from tensors"
        raise PpvaeError(f"data must be {kinds}, not {type(name).__name__}: {build}")
    return data, as_they_are(*data.splits.values())


def _from_arrays(name: str, arrays: Arrays) -> Raw:
    y, xs = arrays.pop("y", None), {}
    for key, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise PpvaeError(f"data {name!r}, {key}: needs real numbers, not {array.dtype}: save float32")
        with np.errstate(over="ignore"):  # overflow becomes infinite, which check_values refuses
            xs[key] = torch.from_numpy(np.array(array, dtype=np.float32, order="C"))
        check_values(f"data {name!r}, {key}", xs[key])
    if "x" not in xs:
        return Raw(xs)
    size = len(xs["x"])
    if y is not None and (y.dtype.kind not in "biu" or y.shape != (size,)):
        raise PpvaeError(f"data {name!r}: y must be integers [{size}], not {y.dtype} {list(y.shape)}")
    return Raw({"all": xs["x"]}, None if y is None else {"all": torch.tensor(y.astype(np.int64))})


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
    )
