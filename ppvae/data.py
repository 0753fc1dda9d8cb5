"""Data sets: named ones, a user's own files, and the treatment that turns raw values into observations."""

import csv
import os
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from ppvae import require
from ppvae.errors import PpvaeError

SPLITS: tuple[str, ...] = ("train", "valid", "test")
LIKELIHOODS = {  # treatment → the observation model that fits the values it leaves
    **dict.fromkeys(("static", "dynamic", "threshold", "binary"), "bernoulli"),
    **dict.fromkeys(("real", "standardised"), "gaussian"),
}
_BINARY, _UNIT = "0 and 1", "in [0, 1]"  # ranges of values
_SIZES = [700, 150, 150]  # of generated data: rows are independent, so blocks are fair splits
_WEIGHTS = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
_MEANS = torch.tensor([[0.0, 0.0], [4.0, 1.0], [-3.0, 3.0], [1.0, -4.0]], dtype=torch.float64)
_TRILS = torch.tensor(
    [[[1.0, 0.0], [0.8, 0.6]], [[0.6, 0.0], [-0.5, 1.2]], [[1.2, 0.0], [0.4, 0.4]], [[0.5, 0.0], [0.0, 0.5]]],
    dtype=torch.float64,
)

LogProb = Callable[[Tensor], Tensor]
Parts = Iterable[Tensor]


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in three splits, with the observation model that fits it.

    Attributes:
        name: what results call it.
        train, valid, test: [N, *event] of one floating dtype and one event shape.
        likelihood: "bernoulli" or "gaussian".
        treatment: how values became observations; results name it, as log p(x) differs by nats between them.
        labels: split → [N] int64, or None.
        log_prob: the exact log density in nats, [B, *event] → [B], where the distribution is known.
        source: the arguments of `load_data` that give it again, or None.

    Raises:
        PpvaeError: an unknown likelihood or treatment; parts that do not fit together or the likelihood.
    """

    name: str
    train: Tensor
    valid: Tensor
    test: Tensor
    likelihood: str
    treatment: str
    labels: dict[str, Tensor] | None = None
    log_prob: LogProb | None = None
    source: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        require.one_of("likelihood", self.likelihood, sorted(set(LIKELIHOODS.values())))
        require.one_of("treatment", self.treatment, sorted(LIKELIHOODS))
        for split, x in self.splits.items():
            where = f"data {self.name!r}, {split}"
            _check_values(where, x)
            if (x.shape[1:], x.dtype, x.device) != (self.event_shape, self.train.dtype, self.train.device):
                raise PpvaeError(f"{where}: {_kind(x)} is unlike train, {_kind(self.train)}: make rows agree")
            needed = _UNIT if self.dynamic and split == "train" else _BINARY
            if self.likelihood == "bernoulli" and not _holds(x, needed):
                raise PpvaeError(f"{where}: 'bernoulli' needs values {needed}: binarise, or use 'gaussian'")
        if self.dynamic and self.likelihood != "bernoulli":
            raise PpvaeError(f"data {self.name!r}: treatment 'dynamic' goes with likelihood 'bernoulli' only")
        if self.labels is not None and (not isinstance(self.labels, dict) or set(self.labels) != set(SPLITS)):
            raise PpvaeError(f"data {self.name!r}: labels must be None or a dict of {', '.join(SPLITS)}")
        for split, y in (self.labels or {}).items():
            size = len(self.splits[split])
            if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.shape != (size,):
                where = f"data {self.name!r}, {split}"
                raise PpvaeError(f"{where}: labels must be a torch.int64 tensor [{size}], not {_kind(y)}")

    def __repr__(self) -> str:
        sizes = ", ".join(f"{split} {list(x.shape)}" for split, x in self.splits.items())
        return f"Data({self.name!r}, {sizes}, {self.likelihood}, {self.treatment})"

    @property
    def splits(self) -> dict[str, Tensor]:
        """Split name → [N, *event], in the order train, valid, test."""
        return {split: getattr(self, split) for split in SPLITS}

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one datum."""
        return self.train.shape[1:]

    @property
    def dynamic(self) -> bool:
        """Whether each visit redraws training data: then `train` holds intensities, not observations."""
        return self.treatment == "dynamic"

    def draw(self, x: Tensor) -> Tensor:
        """What a step sees of rows x [B, *event] of `train`: fresh Bernoulli(x) draws if dynamic, else x."""
        return torch.bernoulli(x) if self.dynamic else x


def load_data(
    name: str | os.PathLike[str] | Data,
    *,
    treatment: str | None = None,
    root: str | os.PathLike[str] | None = None,
    seed: int = 0,
    num_train: int | None = None,
) -> Data:
    """Load a named data set or a user's file, and treat its values.

    Files: `.npy` with one array [N, *event]; `.npz` with arrays `train`, `valid`, `test`, or one array `x`
    with optional integer labels `y` [N]; `.csv` of comma-separated numbers, with or without one header line
    (one that holds no number). What is not split already is split 70/15/15 by a fixed permutation.

    Treatments: "static" draws each value once from Bernoulli(intensity) (Salakhutdinov & Murray 2008, "On the
    quantitative analysis of deep belief networks"); "dynamic" redraws training data at each visit, with valid
    and test the very same as under "static"; "threshold" is x > 0.5; these need values in [0, 1]. "binary" is
    for values that are 0 and 1 already, "real" leaves values as they are, "standardised" subtracts train's
    mean and divides by its standard deviation (by 1 in a constant column).

    Args:
        name: one of `list_data()`, a file, or a `Data` (which takes another treatment only if it is "real").
        treatment: default: the data set's own; for a file "binary" if it holds 0 and 1 only, else "real".
        root: folder of downloaded data; default: the environment variable PPVAE_DATA, else ~/.cache/ppvae.
        seed: seed of the static binarisation and of generated data. Splits never depend on it.
        num_train: keep the first so many training rows; all else is as it is with all of them.

    Returns:
        Data of float32 tensors (a `Data` keeps its dtype). Global random states are left alone.

    Raises:
        PpvaeError: unknown name or treatment, unreadable file, unsuitable values or arguments, no download.
    """
    seed = require.count("seed", seed, least=0)
    if treatment is not None:
        require.one_of("treatment", treatment, sorted(LIKELIHOODS))
    size = None if num_train is None else require.count("num_train", num_train)
    path = _data_root(root)
    data, default = (name, name.treatment) if isinstance(name, Data) else _find(name, path, seed)
    data = _treat(data, treatment or default, seed)
    if size is not None:
        if size > len(data.train):
            raise PpvaeError(f"num_train is {size}, but {data.name!r} has only {len(data.train)} training rows")
        labels = data.labels and data.labels | {"train": data.labels["train"][:size]}
        data = replace(data, train=data.train[:size].clone(), labels=labels)  # a view keeps all rows alive
    return replace(data, source=_source(name, data.treatment, root, seed, size))


def _source(
    name: str | os.PathLike[str] | Data, treatment: str, root: str | os.PathLike[str] | None, seed: int, size: int | None
) -> dict[str, Any] | None:
    """The arguments that give the same data again, None at their defaults left out."""
    if isinstance(name, Data):
        if name.source is None:
            return None
        again = {**name.source, "treatment": treatment}
    else:
        given = os.fspath(name)
        again = {"name": given if given in SOURCES else os.path.abspath(os.path.expanduser(given)),
                 "treatment": treatment}  # fmt: skip
        if root is not None:
            again["root"] = os.path.abspath(os.path.expanduser(root))
    return again | ({"seed": seed} if seed else {}) | ({} if size is None else {"num_train": size})


def list_data() -> list[str]:
    """The names `load_data` knows, sorted."""
    return sorted(SOURCES)


def _treat(data: Data, treatment: str, seed: int) -> Data:
    if treatment == data.treatment:
        return data
    if data.treatment != "real":
        raise PpvaeError(f"{data.name!r} is {data.treatment!r} already: load it as {treatment!r} instead")
    splits, log_prob = data.splits, None
    if treatment == "standardised":
        constant = data.train.amin(0) == data.train.amax(0)  # rounding may leave these a tiny deviation
        mean = data.train.double().mean(0)
        std = data.train.double().std(0, correction=0).masked_fill(constant, 1.0)
        splits = {split: ((x.double() - mean) / std).to(x.dtype) for split, x in splits.items()}
        if data.log_prob is not None:
            log_prob = partial(_standardised_log_prob, data.log_prob, mean, std)
    else:
        needed = _BINARY if treatment == "binary" else _UNIT
        if not all(_holds(x, needed) for x in splits.values()):
            low, high = map(float, torch.cat([*splits.values()]).aminmax())
            has = f"has others between {low:g} and {high:g}: use 'real' or 'standardised'"
            raise PpvaeError(f"treatment {treatment!r} needs values {needed}, but {data.name!r} {has}")
    if treatment == "threshold":
        splits = {split: (x > 0.5).to(x.dtype) for split, x in splits.items()}
    elif treatment in ("static", "dynamic"):
        # a stream for each split: test must not depend on what happens to train
        drawn = {s: torch.bernoulli(x, generator=_generator(seed, s)) for s, x in splits.items()}
        splits = drawn if treatment == "static" else drawn | {"train": data.train}
    return replace(data, **splits, likelihood=LIKELIHOODS[treatment], treatment=treatment, log_prob=log_prob)


def _standardised_log_prob(log_prob: LogProb, mean: Tensor, std: Tensor, x: Tensor) -> Tensor:
    return log_prob(x * std.to(x) + mean.to(x)) + std.log().sum().to(x)


def _generator(seed: int, stream: str) -> torch.Generator:
    # SeedSequence keeps the streams of neighbouring seeds apart, and takes seeds of any size
    sequence = np.random.SeedSequence(seed, spawn_key=((*SPLITS, "source").index(stream),))
    return torch.Generator().manual_seed(int(sequence.generate_state(1)[0]))


def _real(name: str, xs: Parts, ys: Parts | None, log_prob: LogProb | None = None) -> Data:
    train, valid, test = xs
    labels = None if ys is None else dict(zip(SPLITS, ys, strict=True))
    return Data(name, train, valid, test, "gaussian", "real", labels, log_prob)


def _split(name: str, x: Tensor, y: Tensor | None) -> Data:
    """70/15/15 by a fixed permutation: results on the same data are comparable, whatever their seeds."""
    size = len(x) * 15 // 100  # and RandomState, as NumPy has frozen its stream for good
    order = torch.from_numpy(np.random.RandomState(20131220).permutation(len(x)))
    index = order.split([len(x) - 2 * size, size, size])
    return _real(name, [x[rows] for rows in index], None if y is None else [y[rows] for rows in index])


def _sklearn(load: str, scale: float, name: str, root: Path, seed: int) -> Data:
    from sklearn import datasets  # takes a second, which only these sources need

    x, y = getattr(datasets, load)(return_X_y=True)
    return _split(name, torch.tensor(x / scale, dtype=torch.float32), torch.tensor(y, dtype=torch.int64))


def _pinwheel(name: str, root: Path, seed: int) -> Data:
    """Five bent arms (Johnson et al. 2016, "Composing graphical models with neural networks for structured
    representations and fast inference"), with the parameters of the authors' code. Labels are the arms."""
    generator = _generator(seed, "source")
    arm = torch.randint(5, (1000,), generator=generator)
    radial, tangential = torch.randn(2, 1000, generator=generator, dtype=torch.float64)
    radial, tangential = 1 + 0.3 * radial, 0.05 * tangential
    angle = 2 * torch.pi / 5 * arm + 0.25 * radial.exp()
    x = radial * angle.cos() + tangential * angle.sin()
    y = tangential * angle.cos() - radial * angle.sin()
    return _real(name, (10 * torch.stack([x, y], -1)).float().split(_SIZES), arm.split(_SIZES))


def _mixture(name: str, root: Path, seed: int) -> Data:
    """A fixed mixture of four Gaussians with its exact density. Labels are the components."""
    generator = _generator(seed, "source")
    k = torch.multinomial(_WEIGHTS, 1000, replacement=True, generator=generator)
    noise = torch.randn(1000, 2, 1, generator=generator, dtype=torch.float64)
    x = _MEANS[k] + (_TRILS[k] @ noise).squeeze(-1)
    return _real(name, x.float().split(_SIZES), k.split(_SIZES), _mixture_log_prob)


def _mixture_log_prob(x: Tensor) -> Tensor:
    components = MultivariateNormal(_MEANS.to(x), scale_tril=_TRILS.to(x))
    return MixtureSameFamily(Categorical(_WEIGHTS.to(x)), components).log_prob(x)


def _images(folder: str, name: str, root: Path, seed: int) -> Data:
    """MNIST or a set in its format: intensities / 255, flattened; the last 10,000 of train are valid."""
    from ppvae._torchvision import images  # torchvision is slow to import, and only these sources need it

    x, y = images(folder, root)
    xs, ys = (t.split([50000, 10000, 10000]) for t in (x.flatten(1).float().div_(255), y))
    return _real(name, xs, ys)


# a named source: a function to the data with their values as they are, and the default treatment
SOURCES: dict[str, tuple[Callable[[str, Path, int], Data], str]] = {
    "digits": (partial(_sklearn, "load_digits", 16), "static"),
    "iris": (partial(_sklearn, "load_iris", 1), "real"),
    "pinwheel": (_pinwheel, "real"),
    "mixture": (_mixture, "real"),
    "mnist": (partial(_images, "MNIST"), "static"),
    "fashion-mnist": (partial(_images, "FashionMNIST"), "static"),
}


def _data_root(root: str | os.PathLike[str] | None) -> Path:
    root = os.environ.get("PPVAE_DATA") or "~/.cache/ppvae" if root is None else root
    if not isinstance(root, str | os.PathLike):
        raise PpvaeError(f"data root must be a path, not {require.show(root)}")
    path = Path(os.path.expanduser(root))
    if os.path.exists(path) and not os.path.isdir(path):
        raise PpvaeError(f"data root {str(path)!r} is a file: name a folder by root= or PPVAE_DATA")
    return path


def _read_npy(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        return {"x": np.lib.format.read_array(file, allow_pickle=False)}


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(path):
        raise PpvaeError(f"{str(path)!r} is no .npz archive, or cut short: write it with numpy.savez")
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        if set(archive.files) not in ({"x"}, {"x", "y"}, set(SPLITS)):
            held = require.show(sorted(archive.files))
            raise PpvaeError(f"{str(path)!r} holds {held}: it needs train, valid and test, or x, or x and y")
        return {key: np.asarray(archive[key]) for key in archive.files}


def _read_csv(path: Path) -> dict[str, np.ndarray]:
    rows, width = [], 0
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        for cells in filter(None, reader):
            where = f"{str(path)!r}, row {reader.line_num}"
            values = [_float(cell) for cell in cells]
            header, width = not width and values.count(None) == len(cells), width or len(cells)
            if header:
                continue
            if len(cells) != width:
                raise PpvaeError(f"{where} has {len(cells)} columns, the first has {width}: make rows alike")
            if None in values:
                column = values.index(None)
                where = f"{where}, column {column + 1} is {require.show(cells[column])}"
                raise PpvaeError(f"{where}: only numbers are supported, and no missing values yet")
            rows.append(np.array(values))
    return {"x": np.array(rows).reshape(len(rows), width)}


def _float(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


READERS = {".npy": _read_npy, ".npz": _read_npz, ".csv": _read_csv}


def _find(name: object, root: Path, seed: int) -> tuple[Data, str]:
    """The data as they are, and the default treatment."""
    if not isinstance(name, str | os.PathLike):
        build = "build ppvae.Data(name=, train=, valid=, test=, likelihood=, treatment=) from tensors"
        raise PpvaeError(f"data must be a name, a file or a ppvae.Data, not {type(name).__name__}: {build}")
    name = os.fspath(name)
    if name in SOURCES:
        source, treatment = SOURCES[name]
        return source(name, root, seed), treatment
    path = Path(os.path.expanduser(name))
    if path.suffix.lower() not in READERS:
        require.one_of("data", name, list_data(), f", or a file ending in {', '.join(READERS)}")
    if not os.path.isfile(path):
        raise PpvaeError(f"no such file: {str(path)!r}: check the path")
    try:
        arrays = READERS[path.suffix.lower()](path)
    except PpvaeError:
        raise
    except Exception as error:  # damaged bytes make numpy, zipfile and csv raise nearly anything
        raise PpvaeError(f"cannot read {str(path)!r}, {require.show(error)}: save plain numbers again") from error
    data = _from_arrays(path.name, arrays)
    return data, "binary" if all(_holds(x, _BINARY) for x in data.splits.values()) else "real"


def _from_arrays(name: str, arrays: dict[str, np.ndarray]) -> Data:
    y, xs = arrays.pop("y", None), {}
    for key, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise PpvaeError(f"data {name!r}, {key}: needs real numbers, not {array.dtype}: save float32")
        with np.errstate(over="ignore"):  # becomes infinite, and the check tells
            xs[key] = torch.from_numpy(np.array(array, dtype=np.float32, order="C"))
        _check_values(f"data {name!r}, {key}", xs[key])
    size = sum(len(x) for x in xs.values())
    if size < 10:
        raise PpvaeError(f"data {name!r} has {size} rows: three splits need at least 10")
    if "x" not in xs:
        return _real(name, [xs[split] for split in SPLITS], None)
    if y is not None and (y.dtype.kind not in "biu" or y.shape != (size,)):
        raise PpvaeError(f"data {name!r}: y must be integers [{size}], not {y.dtype} {list(y.shape)}")
    return _split(name, xs["x"], None if y is None else torch.tensor(y.astype(np.int64)))


def _check_values(where: str, x: Tensor) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise PpvaeError(f"{where}: needs a floating tensor, not {_kind(x)}: give torch.as_tensor(x).float()")
    if x.dim() < 2:
        raise PpvaeError(f"{where}: needs shape [N, *event], not {list(x.shape)}: try reshape(-1, 1)")
    if x.numel() == 0:
        raise PpvaeError(f"{where}: shape {list(x.shape)} holds no values: give at least one row and column")
    bad = ~x.isfinite()
    if bad.any():
        found = f"{int(bad.sum())} values are NaN, infinite or too big, first at {bad.nonzero()[0].tolist()}"
        raise PpvaeError(f"{where}: {found}: drop those rows, missing values are not supported yet")


def _holds(x: Tensor, needed: str) -> bool:
    return bool(((x == 0) | (x == 1) if needed == _BINARY else (x >= 0) & (x <= 1)).all())


def _kind(x: object) -> str:
    return f"{x.dtype} {list(x.shape)} on {x.device}" if isinstance(x, Tensor) else type(x).__name__
