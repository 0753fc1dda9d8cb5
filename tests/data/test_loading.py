"""Data: splits, treatments, generated densities, a user's files, and every refusal."""

import math
import os
import pickle
import random
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checks import identical, offline, refusal
from sklearn.datasets import load_digits
from sklearn.utils import check_random_state
from torch import Tensor

from ppvae import vision
from ppvae.data.dataset import Data
from ppvae.data.loading import list_data, load_data
from ppvae.data.readers import SPLITS
from ppvae.data.treatment import likelihood_for, treatments
from ppvae.errors import PpvaeError

ROOT = Path(__file__).resolve().parents[2]
MNIST = Path(os.environ.get("PPVAE_DATA") or ROOT.parent / "shared" / "data")
IDX_FILES = [
    f"{part}-ubyte" for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
]
needs_mnist = pytest.mark.skipif(
    not all((MNIST / "MNIST" / "raw" / file).is_file() for file in IDX_FILES),
    reason="MNIST's files are neither under PPVAE_DATA nor in ../shared/data",
)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test downloads or writes outside its own folder."""
    offline(tmp_path, monkeypatch)


# Named sets


def test_list_data() -> None:
    generated, downloaded = ["mixture", "pinwheel", "two-moons"], ["fashion-mnist", "kmnist", "mnist", "omniglot"]
    assert list_data() == sorted(["digits", "iris", *generated, *downloaded])


@pytest.mark.parametrize(
    ("name", "sizes", "event", "likelihood", "treatment"),
    [
        ("digits", (1259, 269, 269), (64,), "bernoulli", "static"),
        ("iris", (106, 22, 22), (4,), "gaussian", "real"),
        ("pinwheel", (700, 150, 150), (2,), "gaussian", "real"),
        ("mixture", (700, 150, 150), (2,), "gaussian", "real"),
        ("two-moons", (700, 150, 150), (2,), "gaussian", "real"),
    ],
)
def test_named_sets(name: str, sizes: tuple, event: tuple, likelihood: str, treatment: str) -> None:
    data = load_data(name)
    assert (data.name, data.likelihood, data.treatment) == (name, likelihood, treatment)
    assert tuple(len(x) for x in data.splits.values()) == sizes
    assert tuple(data.event_shape) == event
    assert list(data.splits) == list(SPLITS)
    assert data.labels is not None
    for split, x in data.splits.items():
        assert x.dtype == torch.float32
        assert data.labels[split].dtype == torch.int64
        assert len(data.labels[split]) == len(x)
    assert data.draw(data.train) is data.train
    assert (data.log_prob is not None) == (name == "mixture")
    assert name in repr(data)
    assert identical(data, load_data(name))
    assert identical(data, pickle.loads(pickle.dumps(data)))


@pytest.mark.parametrize("name", ["digits", "iris"])
def test_splits_are_fixed_and_together_the_whole_set(name: str) -> None:
    data, other = (load_data(name, treatment="real", seed=seed) for seed in (0, 7))
    assert identical(data, other)
    rows = torch.cat([*data.splits.values()])
    if name == "digits":
        bunch: Any = load_digits()
        source = torch.tensor(bunch.data / 16, dtype=torch.float32)
        assert len(source.unique(dim=0)) == len(source) == 1797  # all distinct, so disjoint splits show
        assert torch.equal(rows.unique(dim=0), source.unique(dim=0))
    assert len(rows) == {"digits": 1797, "iris": 150}[name]


def test_the_permutation_never_changes(tmp_path: Path) -> None:
    # results on a user's file are comparable across versions only as long as these rows stay where they are
    np.save(tmp_path / "x.npy", np.arange(20.0).reshape(-1, 1))
    data = load_data(tmp_path / "x.npy")
    assert data.valid.flatten().tolist() == [4, 18, 12]
    assert data.test.flatten().tolist() == [19, 7, 9]
    assert sorted(torch.cat([*data.splits.values()]).flatten().tolist()) == list(range(20))


def test_num_train_keeps_the_first_rows() -> None:
    for treatment in ("static", "dynamic", "standardised"):
        whole, part = (
            load_data("digits", treatment=treatment),
            load_data("digits", treatment=treatment, num_train=50),
        )
        assert torch.equal(part.train, whole.train[:50])
        assert torch.equal(part.valid, whole.valid)
        assert torch.equal(part.test, whole.test)
        assert part.labels is not None
        assert whole.labels is not None
        assert torch.equal(part.labels["train"], whole.labels["train"][:50])
    assert part.train.untyped_storage().nbytes() == 50 * 64 * 4  # the other rows are let go
    assert len(load_data("iris", num_train=106).train) == 106


# Treatments


def test_static_is_drawn_once_with_probability_intensity() -> None:
    intensity, data = load_data("digits", treatment="real"), load_data("digits", treatment="static")
    assert data.likelihood == "bernoulli"
    for split, p in intensity.splits.items():
        x = data.splits[split]
        assert set(x.unique().tolist()) == {0.0, 1.0}
        # the sum of x is a sum of Bernoullis: 5 standard errors, 3 splits
        z = (x.sum() - p.sum()) / (p * (1 - p)).sum().sqrt()
        assert abs(z) < 5
        assert bool((x[p == 0] == 0).all())
        assert bool((x[p == 1] == 1).all())


def test_static_depends_on_the_seed_alone() -> None:
    a, b, other = load_data("digits", seed=3), load_data("digits", seed=3), load_data("digits", seed=4)
    assert identical(a, b)
    assert not any(torch.equal(a.splits[split], other.splits[split]) for split in SPLITS)
    assert identical(load_data("digits", seed=2**80), load_data("digits", seed=2**80))
    numpy_seed: Any = np.int64(3)
    assert identical(a, load_data("digits", seed=numpy_seed))
    p = load_data("digits", treatment="real")
    # neighbouring seeds and splits draw from unrelated streams: residuals of the same pixels do not correlate
    residuals = [
        ((d.valid - p.valid) / (p.valid * (1 - p.valid)).sqrt())[(p.valid > 0) & (p.valid < 1)] for d in (a, other)
    ]
    correlation = (residuals[0] * residuals[1]).mean() * math.sqrt(len(residuals[0]))
    assert abs(correlation) < 5  # in standard errors


def test_dynamic_redraws_train_only() -> None:
    static, dynamic = load_data("digits"), load_data("digits", treatment="dynamic")
    assert (dynamic.dynamic, static.dynamic) == (True, False)
    assert torch.equal(dynamic.train, load_data("digits", treatment="real").train)
    assert torch.equal(dynamic.valid, static.valid)
    assert torch.equal(dynamic.test, static.test)
    torch.manual_seed(0)
    p = dynamic.train[:20]
    draws = torch.stack([dynamic.draw(p) for _ in range(1000)])
    assert not torch.equal(draws[0], draws[1])
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    inside = (p > 0) & (p < 1)
    assert torch.equal(draws.mean(0)[~inside], p[~inside])
    z = (draws.mean(0) - p)[inside] / (p * (1 - p))[inside].sqrt() * math.sqrt(1000)
    assert z.abs().max() < 5.5  # standard errors; about 600 pixels are compared
    assert abs((z**2).mean() - 1) < 5 * math.sqrt(2 / len(z))
    torch.manual_seed(0)  # the global generator is what a resumed run restores
    assert torch.equal(dynamic.draw(p), draws[0])


def test_threshold() -> None:
    p, data = load_data("digits", treatment="real"), load_data("digits", treatment="threshold", seed=5)
    assert (data.likelihood, data.treatment) == ("bernoulli", "threshold")
    assert torch.equal(data.test, (p.test > 0.5).float())
    assert bool((data.test[p.test == 0.5] == 0).all())


def test_standardised_moments() -> None:
    real, data = load_data("digits", treatment="real"), load_data("digits", treatment="standardised")
    assert (data.likelihood, data.treatment) == ("gaussian", "standardised")
    constant = real.train.amin(0) == real.train.amax(0)
    assert constant.any()
    torch.testing.assert_close(data.train.mean(0), torch.zeros(64), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.train.std(0, correction=0), (~constant).float(), atol=1e-5, rtol=0)
    mean, std = real.train.mean(0), real.train.std(0, correction=0).masked_fill(constant, 1.0)
    torch.testing.assert_close(data.test, (real.test - mean) / std, atol=1e-4, rtol=1e-4)


def test_standardised_keeps_a_column_that_is_constant_up_to_rounding(tmp_path: Path) -> None:
    x = np.column_stack([np.full(30, 0.1), np.arange(30.0)])
    np.save(tmp_path / "x.npy", x)
    assert load_data("x.npy", treatment="standardised").train[:, 0].abs().max() < 1e-6


def test_every_treatment_of_unit_values_is_valid() -> None:
    assert treatments() == ["binary", "dynamic", "real", "standardised", "static", "threshold"]
    for treatment in treatments():
        if treatment != "binary":
            assert load_data("digits", treatment=treatment).likelihood == likelihood_for(treatment)


def test_global_random_states_are_untouched() -> None:
    def states() -> list:
        return [torch.get_rng_state().tolist(), str(check_random_state(None).get_state()), random.getstate()]

    before = states()
    for name in ("digits", "iris", "pinwheel", "mixture", "two-moons"):
        load_data(name, seed=1)
    load_data("digits", treatment="dynamic")
    assert states() == before


# Generated data


def grid(low: float, high: float, step: float) -> tuple[Tensor, float]:
    axis = torch.arange(low, high, step, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis), step**2


def test_mixture_density_integrates_to_one_and_fits_its_samples() -> None:
    data = load_data("mixture")
    assert data.log_prob is not None
    points, area = grid(-12.0, 12.0, 0.05)  # a smooth density that vanishes at the edges: exact to rounding
    log_p = data.log_prob(points)
    assert log_p.shape == (len(points),)
    assert log_p.dtype == torch.float64
    mass = log_p.exp() * area
    assert abs(mass.sum() - 1) < 1e-9
    x = torch.cat([*data.splits.values()]).double()
    # mean log density, both means and the second moments, against quadrature: 6 comparisons at 4.5 standard errors
    statistics = [data.log_prob, lambda x: x[:, 0], lambda x: x[:, 1]]
    statistics += [lambda x: x[:, 0] ** 2, lambda x: x[:, 1] ** 2, lambda x: x[:, 0] * x[:, 1]]
    for statistic in statistics:
        sampled, exact = statistic(x), (statistic(points) * mass).sum()
        assert abs(sampled.mean() - exact) < 4.5 * sampled.std() / math.sqrt(len(x))


def test_mixture_density_follows_standardisation() -> None:
    real, data = load_data("mixture"), load_data("mixture", treatment="standardised")
    assert real.log_prob is not None
    assert data.log_prob is not None
    points, area = grid(-8.0, 8.0, 0.02)
    assert abs(data.log_prob(points).exp().sum() * area - 1) < 1e-9
    shift = (data.log_prob(data.test) - real.log_prob(real.test)).double()
    torch.testing.assert_close(
        shift, real.train.double().std(0, correction=0).log().sum().expand(150), atol=1e-4, rtol=0
    )
    assert identical(data, pickle.loads(pickle.dumps(data)))  # workers of a parallel run get a copy


def test_generated_data_depend_on_the_seed() -> None:
    for name in ("pinwheel", "mixture", "two-moons"):
        a, b = load_data(name, seed=1), load_data(name, seed=2)
        assert identical(a, load_data(name, seed=1))
        assert not identical(a, b)


def test_pinwheel_has_five_arms_of_the_papers_shape() -> None:
    data = load_data("pinwheel")
    assert data.labels is not None
    x = torch.cat([*data.splits.values()]).double() / 10
    arm = torch.cat([*data.labels.values()])
    counts = arm.bincount(minlength=5)
    assert ((counts - 200).abs() < 5 * math.sqrt(1000 * 0.2 * 0.8)).all()  # 5 standard errors
    radius = x.norm(dim=1)
    assert abs(radius.mean() - 1) < 5 * 0.3 / math.sqrt(1000)
    assert abs(radius.std() - 0.3) < 5 * 0.3 / math.sqrt(2000)
    angle = 2 * math.pi / 5 * arm + 0.25 * radius.exp()  # unbend each arm: what is left is the thin direction
    tangential = x[:, 0] * angle.sin() + x[:, 1] * angle.cos()
    assert abs(tangential.mean()) < 5 * 0.05 / math.sqrt(1000)
    assert abs(tangential.std() - 0.05) < 5 * 0.05 / math.sqrt(2000)


# A user's files


def test_npy_round_trip(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 3, 2))
    np.save(tmp_path / "mine.npy", x)
    for name in ("mine.npy", str(tmp_path / "mine.npy"), tmp_path / "mine.npy"):
        data = load_data(name)
        assert (data.name, data.treatment, data.likelihood, data.labels) == (
            "mine.npy",
            "real",
            "gaussian",
            None,
        )
        assert [len(part) for part in data.splits.values()] == [28, 6, 6]
        assert tuple(data.event_shape) == (3, 2)
        rows = torch.cat([*data.splits.values()]).flatten(1)
        assert torch.equal(rows.unique(dim=0), torch.tensor(x).float().flatten(1).unique(dim=0))


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", ">i4", "float16", ">f8", "longdouble"])
def test_numeric_dtypes_become_float32(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "x.npy", np.asfortranarray(np.arange(60).reshape(20, 3) % 2).astype(dtype))
    data = load_data("x.npy")
    assert data.train.dtype == torch.float32
    assert (data.treatment, data.likelihood) == ("binary", "bernoulli")


def test_npz_of_splits(tmp_path: Path) -> None:
    parts: dict[str, Any] = {
        split: np.full((n, 2), value) for split, n, value in (("test", 3, 2), ("train", 9, 5), ("valid", 4, 7))
    }
    np.savez(tmp_path / "a.npz", **parts)
    np.savez_compressed(tmp_path / "b.NPZ.npz", **parts)
    for file in ("a.npz", "b.NPZ.npz"):
        data = load_data(file)
        for split, x in parts.items():
            assert torch.equal(data.splits[split], torch.tensor(x).float())


def test_npz_with_labels_keeps_rows_and_labels_together(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((100, 5))
    np.savez(tmp_path / "x.npz", x=x, y=(x[:, 0] * 10).astype(np.uint8))
    data = load_data("x.npz")
    assert data.labels is not None
    for split, rows in data.splits.items():
        assert torch.equal(data.labels[split], (rows[:, 0] * 10).long())
    np.savez(tmp_path / "x.npz", x=x)
    assert identical(load_data("x.npz"), data)
    assert load_data("x.npz", treatment="static").treatment == "static"


@pytest.mark.parametrize("header", ["", "sepal,petal\n", "\ufeffsepal,petal\n", '"a, b",c\n', ",a\n"])
def test_csv_with_and_without_header(tmp_path: Path, header: str) -> None:
    x = np.arange(40.0).reshape(20, 2) / 7
    body = "".join(f"{float(a)!r}, {float(b)!r}\r\n" for a, b in x)
    (tmp_path / "x.csv").write_text(header + body + "\n", encoding="utf-8", newline="")
    np.save(tmp_path / "x.npy", x)
    assert identical(load_data("x.csv"), load_data("x.npy"))


def test_csv_of_one_column(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("\n".join("01" * 10))
    data = load_data("x.csv")
    assert data.train.shape == (14, 1)
    assert data.treatment == "binary"


def test_files_may_be_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save(tmp_path / "x.npy", np.eye(20))
    assert load_data("~/x.npy").name == "x.npy"


@pytest.mark.parametrize("ending", ["npy", "npz", "csv"])
def test_damaged_files_are_read_or_refused_and_nothing_else(tmp_path: Path, ending: str) -> None:
    rng, x = random.Random(0), np.random.default_rng(0).integers(0, 9, (12, 3))
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    np.savetxt(tmp_path / "x.csv", x, delimiter=",", fmt="%d")
    intact = (tmp_path / f"x.{ending}").read_bytes()
    outcomes = []
    for _ in range(200):
        damaged = bytearray(intact)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        (tmp_path / f"bad.{ending}").write_bytes(damaged[: rng.choice([None, rng.randrange(len(damaged))])])
        try:
            outcomes.append(str(load_data(f"bad.{ending}")))
        except PpvaeError as error:
            outcomes.append(f"refused: {error}")
    assert not any("\n" in outcome for outcome in outcomes)
    assert sum(outcome.startswith("refused") for outcome in outcomes) > 50


# Data by hand


def parts(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {split: torch.rand(n, 3) for split, n in zip(SPLITS, (5, 2, 2), strict=True)}
    return {"name": "mine", "likelihood": "gaussian", "treatment": "real"} | values | changes


def test_data_by_hand_passes_through() -> None:
    data = Data(**parts())
    assert load_data(data) is data
    assert load_data(data, treatment="real") is data
    assert len(load_data(data, num_train=2).train) == 2
    static = load_data(data, treatment="static", seed=1)
    assert static.likelihood == "bernoulli"
    assert static.name == "mine"
    double = Data(**parts(**{split: torch.rand(4, 2, dtype=torch.float64) for split in SPLITS}))
    assert load_data(double, treatment="standardised").test.dtype == torch.float64
    assert hash(data) != hash(double)
    assert data != double


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"train": [[1.0]]}, "mine', train: needs a floating tensor, not list"),
        ({"valid": np.ones((2, 3))}, "valid: needs a floating tensor, not ndarray"),
        ({"valid": torch.ones(2, 3, dtype=torch.int64)}, "torch.int64"),
        ({"test": torch.ones(2, 3, dtype=torch.complex64)}, "torch.complex64"),
        ({"test": torch.ones(2)}, r"reshape\(-1, 1\)"),
        ({"test": torch.ones(0, 3)}, "holds no values"),
        ({"test": torch.ones(2, 4)}, r"\[2, 4\].* unlike train, .*\[5, 3\]"),
        ({"test": torch.ones(2, 3, dtype=torch.float64)}, "torch.float64 .* unlike train, torch.float32"),
        (
            {"test": torch.tensor([[1.0, 2.0, 3.0], [1.0, math.nan, math.inf]])},
            r"2 values are NaN.*first at \[1, 1\]",
        ),
        ({"likelihood": "poisson"}, "unknown likelihood 'poisson': known: bernoulli, gaussian"),
        ({"likelihood": "Gausian"}, "did you mean 'gaussian'"),
        ({"treatment": "statik"}, "did you mean 'static'"),
        ({"treatment": None}, "unknown treatment None"),
        ({"likelihood": "bernoulli"}, "train: 'bernoulli' needs values 0 and 1"),
        ({"treatment": "dynamic"}, "'dynamic' goes with likelihood 'bernoulli'"),
        ({"treatment": "dynamic", "likelihood": "bernoulli"}, "valid: 'bernoulli' needs values 0 and 1"),
        (
            {"treatment": "dynamic", "likelihood": "bernoulli", "train": torch.full((2, 3), 2.0)},
            r"in \[0, 1\]",
        ),
        ({"labels": [1, 2]}, "labels must be None or a dict of train, valid, test"),
        ({"labels": {"train": torch.zeros(5).long()}}, "labels must be None or a dict"),
        (
            {"labels": {s: torch.zeros(2).long() for s in SPLITS}},
            r"train: labels must be a torch.int64 tensor \[5\]",
        ),
        (
            {"labels": {s: torch.zeros(n) for s, n in zip(SPLITS, (5, 2, 2), strict=True)}},
            "not torch.float32",
        ),
    ],
)
def test_data_by_hand_is_checked(changes: dict[str, Any], fragment: str) -> None:
    assert re.search(fragment, refusal(lambda: Data(**parts(**changes))))


# Refusals


@pytest.mark.parametrize(
    ("name", "options", "fragment"),
    [
        ("digit", {}, "unknown data 'digit': did you mean 'digits'\\? known: digits, fashion-mnist"),
        ("MNIST", {}, "did you mean 'mnist'"),
        ("", {}, "unknown data ''"),
        ("a\nb", {}, "unknown data"),
        ("x" * 5000, {}, "unknown data"),
        ("x.txt", {}, "or a file ending in .npy, .npz, .csv"),
        (Path("folder/x.h5"), {}, "x.h5"),
        ("missing.npy", {}, "no such file: 'missing.npy'"),
        ("folder.npy", {}, "no such file"),
        ("x" * 300 + ".npy", {}, "no such file"),
        (b"digits", {}, "not bytes"),
        (None, {}, "not NoneType"),
        (3.0, {}, "not float: build"),
        (torch.zeros(20, 2), {}, r"not Tensor: build ppvae\.Data\(name=, train="),
        (np.zeros((20, 2)), {}, r"not ndarray: build ppvae\.Data"),
        ("digits", {"treatment": "dynamik"}, "unknown treatment 'dynamik': did you mean 'dynamic'"),
        ("digits", {"treatment": ""}, "unknown treatment ''"),
        ("digits", {"treatment": 1}, "unknown treatment 1: known"),
        ("digits", {"treatment": torch.zeros(9, 9)}, "unknown treatment tensor"),
        (
            "digits",
            {"treatment": "binary"},
            r"'binary' needs values 0 and 1, but 'digits' has others between 0 and 1",
        ),
        (
            "iris",
            {"treatment": "static"},
            r"needs values in \[0, 1\], but 'iris' has others between 0.1 and 7.9",
        ),
        ("iris", {"treatment": "dynamic"}, "use 'real' or 'standardised'"),
        ("mixture", {"treatment": "threshold"}, r"in \[0, 1\]"),
        ("digits", {"seed": -1}, "seed must be a whole number ≥ 0, got -1"),
        ("digits", {"seed": 1.0}, "got 1.0"),
        ("digits", {"seed": True}, "got True"),
        ("digits", {"seed": None}, "got None"),
        ("digits", {"num_train": 0}, "num_train must be a whole number ≥ 1, got 0"),
        ("digits", {"num_train": 1260}, "num_train is 1260, but 'digits' has only 1259 training rows"),
        ("digits", {"num_train": "9"}, "got '9'"),
        ("digits", {"num_train": False}, "got False"),
        ("mnist", {"root": "file"}, "data root 'file' is a file"),
        ("digits", {"root": "file"}, "data root 'file' is a file"),
        ("mnist", {"root": 3}, "data root must be a path, not 3"),
        (Data(**parts(treatment="standardised")), {"treatment": "real"}, "'mine' is 'standardised' already"),
    ],
)
def test_bad_arguments(tmp_path: Path, name: Any, options: dict[str, Any], fragment: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.npy").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert re.search(fragment, refusal(lambda: load_data(name, **options)))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("array", "fragment"),
    [
        (np.zeros(20), r"needs shape \[N, \*event\], not \[20\]: try reshape\(-1, 1\)"),
        (np.float64(3), r"not \[\]"),
        (np.zeros((9, 2)), "9 rows: three splits need at least 10"),
        (np.zeros((0, 2)), "holds no values"),
        (np.zeros((20, 0)), "holds no values"),
        (np.zeros((20, 2), dtype=complex), "not complex128"),
        (np.full((20, 2), "a"), "not <U1"),
        (np.zeros((20, 2), dtype="datetime64[s]"), "not datetime64"),
        (np.zeros(20, dtype=[("a", float)]), "needs real numbers"),
        (np.array([[{}, 1]] * 20, dtype=object), "cannot read 'x.np[yz]', .*Object arrays cannot be loaded"),
        (
            np.array([[0.0, 1.0]] * 19 + [[math.nan, -math.inf]]),
            r"2 values are NaN.*\[19, 0\].*not supported yet",
        ),
        (np.full((20, 2), 1e39), "40 values are NaN, infinite or too big"),
    ],
)
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_bad_arrays(tmp_path: Path, array: np.ndarray, fragment: str, ending: str) -> None:
    if ending == "npy":
        np.save(tmp_path / "x.npy", array)
    else:
        np.savez(tmp_path / "x.npz", x=array)
    assert re.search(fragment, message := refusal(lambda: load_data(f"x.{ending}")))
    assert f"x.{ending}" in message


@pytest.mark.parametrize(
    ("arrays", "fragment"),
    [
        ({}, r"holds \[\]: it needs train, valid and test, or x, or x and y"),
        ({"images": np.eye(20)}, "holds .'images'"),
        ({"train": np.eye(20), "test": np.eye(20)}, "holds .'test', 'train'"),
        ({"train": np.eye(20), "valid": np.eye(20), "test": np.eye(20), "y": np.zeros(20, int)}, "it needs"),
        (
            {"train": np.ones((20, 2)), "valid": np.ones((5, 3)), "test": np.ones((5, 2))},
            "valid: .* unlike train",
        ),
        ({"train": np.ones((4, 2)), "valid": np.ones((3, 2)), "test": np.ones((2, 2))}, "9 rows"),
        (
            {"train": np.ones((20, 2)), "valid": np.ones((0, 2)), "test": np.ones((5, 2))},
            "valid: .*no values",
        ),
        ({"x": np.eye(20), "y": np.zeros(19, int)}, r"y must be integers \[20\], not int64 \[19\]"),
        ({"x": np.eye(20), "y": np.zeros(20)}, r"not float64 \[20\]"),
        ({"x": np.eye(20), "y": np.zeros((20, 1), int)}, r"not int64 \[20, 1\]"),
    ],
)
def test_bad_archives(tmp_path: Path, arrays: dict[str, Any], fragment: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    assert re.search(fragment, message := refusal(lambda: load_data("x.npz")))
    assert "x.npz" in message


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("", "holds no values"),
        ("a,b\n", "holds no values"),
        ("1,2\n" * 9, "9 rows"),
        ("a,b\n" + "1,2\n" * 9 + "1,2,3\n" + "1,2\n", "row 11 has 3 columns, the first has 2"),
        ("1,2\n" * 5 + "1\n", "row 6 has 1 columns"),
        ("1,2\n" * 5 + "\n1,two\n", "row 7, column 2 is 'two': only numbers"),
        ("1,2\n" * 5 + "1,\n", "row 6, column 2 is ''.*no missing values yet"),
        ("a,b\nc,d\n" + "1,2\n" * 20, "row 2, column 1 is 'c'"),
        ("a,2\n" + "1,2\n" * 20, "row 1, column 1 is 'a'"),
        ("1;2\n" * 20, "row 2, column 1 is '1;2'"),
        ("1,nan\n" * 20, r"20 values are NaN.*first at \[0, 1\]"),
        ("1,inf\n" * 20, "20 values are NaN, infinite"),
        ('1,"2\n' * 20, "cannot read 'x.csv'"),
        ("1,\udcff\n" * 20, "cannot read 'x.csv'.*utf-8"),
        ("1,\0\n" * 20, "x.csv"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, fragment: str) -> None:
    (tmp_path / "x.csv").write_bytes(text.encode(errors="surrogateescape"))
    assert re.search(fragment, message := refusal(lambda: load_data("x.csv")))
    assert "x.csv" in message


def test_files_that_are_not_what_they_say(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.eye(20))
    np.savez(tmp_path / "zip.npz", x=np.eye(20))
    whole = (tmp_path / "array.npy").read_bytes(), (tmp_path / "zip.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("x", "no array")
    for file, content, fragment in (
        ("empty.npy", b"", "cannot read 'empty.npy'"),
        ("garbage.npy", b"garbage" * 30, "magic string"),
        ("short.npy", whole[0][:200], "cannot read 'short.npy'"),
        ("zip.npy", whole[1], "cannot read 'zip.npy'"),
        ("pickle.npy", pickle.dumps([1, 2]), "cannot read 'pickle.npy'"),
        ("empty.npz", b"", "is not a complete .npz archive"),
        ("array.npz", whole[0], "is not a complete .npz archive"),
        ("short.npz", whole[1][:-30], "is not a complete .npz archive"),
        ("crc.npz", whole[1].replace(b"\x3f", b"\x40"), "cannot read 'crc.npz'"),
        ("text.npz", (tmp_path / "text.npz").read_bytes(), "needs real numbers"),
    ):
        (tmp_path / file).write_bytes(content)
        assert fragment in refusal(lambda file=file: load_data(file))


# MNIST and torchvision


@needs_mnist
def test_mnist() -> None:
    dynamic = load_data("mnist", root=MNIST, treatment="dynamic")
    assert [tuple(x.shape) for x in dynamic.splits.values()] == [(50000, 784), (10000, 784), (10000, 784)]
    assert dynamic.labels is not None
    assert dynamic.labels["train"][:5].tolist() == [5, 0, 4, 1, 9]
    assert dynamic.labels["valid"][:5].tolist() == [3, 8, 6, 9, 6]
    assert dynamic.labels["test"][:5].tolist() == [7, 2, 1, 0, 4]
    official = torch.cat([dynamic.labels["train"], dynamic.labels["valid"]]).bincount()
    assert official.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert float(dynamic.train.max()) == 1
    assert abs(dynamic.train.mean() - 0.1307) < 5e-4  # the usual 0.1307 is of all 60,000 training images
    static = load_data("mnist", root=str(MNIST), num_train=100)
    assert (static.treatment, static.train.shape) == ("static", (100, 784))
    assert torch.equal(static.test, dynamic.test)
    assert torch.equal(static.valid, dynamic.valid)
    z = (static.train - dynamic.train[:100]).sum() / (dynamic.train[:100] * (1 - dynamic.train[:100])).sum().sqrt()
    assert abs(z) < 5  # standard errors


@needs_mnist
def test_idx_files_by_hand_in_the_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "by-hand" / "FashionMNIST"
    folder.mkdir(parents=True)
    (folder / "raw").symlink_to(MNIST / "MNIST" / "raw", target_is_directory=True)
    monkeypatch.setenv("PPVAE_DATA", str(tmp_path / "by-hand"))
    data = load_data("fashion-mnist", treatment="threshold", num_train=10)  # MNIST's digits in disguise
    assert data.name == "fashion-mnist"
    assert data.labels is not None
    assert data.labels["train"][:5].tolist() == [5, 0, 4, 1, 9]


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_without_network_the_message_says_which_files_go_where(
    name: str,
    folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def download(self: object) -> None:
        print("progress")
        raise RuntimeError("no route\nto host")

    monkeypatch.setattr(vision.torchvision().datasets.MNIST, "download", download)
    for given, root in ((None, tmp_path / "root"), (tmp_path / "other", tmp_path / "other")):
        message = refusal(lambda given=given: load_data(name, root=given))
        assert "(no route to host)" in message
        assert ", ".join(IDX_FILES) in message
        assert repr(str(root / folder / "raw")) in message
        assert "PPVAE_DATA" in message
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


def test_the_default_root_is_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision.torchvision().datasets.MNIST, "download", lambda self: 1 / 0)
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in (None, ""):
        if value is None:
            monkeypatch.delenv("PPVAE_DATA")
        else:
            monkeypatch.setenv("PPVAE_DATA", value)
        assert str(tmp_path / ".cache" / "ppvae" / "MNIST" / "raw") in refusal(lambda: load_data("mnist"))
    (tmp_path / "file").touch()
    monkeypatch.setenv("PPVAE_DATA", "file")
    assert "data root 'file' is a file" in refusal(lambda: load_data("mnist"))


def idx(kind: int, *shape: int, values: int | None = None) -> bytes:
    count = math.prod(shape) if values is None else values
    return bytes([0, 0, kind, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape) + bytes(count)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (b"", b""),
        (b"garbage" * 20, idx(8, 3)),
        (idx(8, 3, 28, 28, values=700), idx(8, 3)),
        (idx(9, 3, 28, 28), idx(8, 3)),
        (idx(77, 3, 28, 28), idx(8, 3)),
        (idx(8, 3, 28, 28), idx(8, 4, values=3)),
        (idx(8, 3, 28, 28), idx(8, 3)),
        (idx(8, 60000, 1, 1), idx(8, 60000)),
    ],
)
def test_damaged_idx_files(images: bytes, labels: bytes, tmp_path: Path) -> None:
    raw = tmp_path / "root" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in IDX_FILES:
        (raw / file).write_bytes(images if "images" in file else labels)
    message = refusal(lambda: load_data("mnist"))
    assert "MNIST is damaged" in message
    assert str(raw) in message


PRELUDE = """
import sys, torch, ppvae.data
assert "torchvision" not in sys.modules, "torchvision is imported before it is needed"
from ppvae import vision
"""


def run(script: str) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + script], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""


def test_torchvision_imports_whatever_the_builds() -> None:
    run("""
first, second = vision.torchvision(), vision.torchvision()
import torchvision
assert first is second is torchvision
assert len(vision.DECLARED) <= 1
assert torchvision.utils.make_grid(torch.zeros(4, 1, 2, 2)).shape == (3, 6, 18)
assert torchvision.datasets.MNIST is sys.modules["torchvision.datasets.mnist"].MNIST
""")


def test_torchvision_declares_nothing_where_its_operators_exist() -> None:
    run("""
try:
    import torchvision
except RuntimeError:  # the builds differ: stand in for one that has the operators
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in vision.SCHEMAS.values():
        library.define(schema)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
vision.torchvision()
assert vision.DECLARED == []
""")


def test_other_errors_of_torchvision_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("another reason")

    declared = list(vision.DECLARED)
    monkeypatch.setattr(vision, "import_parts", broken)
    with pytest.raises(RuntimeError, match="another reason"):
        vision.torchvision()
    assert declared == vision.DECLARED
