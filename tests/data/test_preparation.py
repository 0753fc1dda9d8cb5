"""What a treatment learns is learned once, from the training data, and holds for every later file."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ppvae
from ppvae import PpvaeError
from ppvae.comparison.evaluation import evaluate
from ppvae.data.preparation import Preparation, lossy

N = 60


def table(path: Path, x: np.ndarray, names: Sequence[str] | None = None, words: Sequence[str] | None = None) -> str:
    """A .csv; where there are words, they are its last column, called kind."""
    lines = [] if names is None else [",".join([*names, *(["kind"] if words else [])])]
    lines += [
        ",".join([*map(repr, row), *([words[i % len(words)]] if words else [])]) for i, row in enumerate(x.tolist())
    ]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def rows(size: int = N, seed: int = 0) -> np.ndarray:
    """Columns of means 3, −20, 500 and deviations 2, 0.1, 40."""
    return np.random.default_rng(seed).normal(size=(size, 3)) * [2.0, 0.1, 40.0] + [3.0, -20.0, 500.0]


def fitted(file: str, treatment: str = "standardised", **options: Any) -> ppvae.Fit:
    data = ppvae.load_data(file, treatment=treatment, **options)
    return ppvae.fit(ppvae.create("gmm", x_dim=3, num_components=1), data, epochs=3)


def test_a_shifted_file_is_judged_in_the_units_of_the_training_data(tmp_path: Path) -> None:
    """Ten standard deviations away, each of the three numbers costs about 10²/2 nats."""
    x, names = rows(), ("a", "b", "c")
    fit = fitted(table(tmp_path / "a.csv", x, names))
    near = evaluate(fit, fit.read(table(tmp_path / "same.csv", x, names)), method="exact").row
    far = evaluate(fit, fit.read(table(tmp_path / "far.csv", x + 10 * x.std(0), names)), method="exact").row
    assert near.num_data == far.num_data == N
    assert near.log_marginal is not None
    assert far.log_marginal is not None
    assert 100 < near.log_marginal - far.log_marginal < 200


def test_a_saved_fit_prepares_as_the_fit_does(tmp_path: Path) -> None:
    """To the last bit."""
    x, names = rows(), ("a", "b", "c")
    fit = fitted(table(tmp_path / "a.csv", x, names, ("u", "v")), labels="kind")
    fit.save(tmp_path / "fit")
    again = ppvae.load(tmp_path / "fit")
    assert again.data == fit.data
    other = table(tmp_path / "b.csv", rows(5, 1), names, ("w", "v"))
    one, two = fit.read(other), again.read(other)
    assert torch.equal(one.x, two.x)
    assert one.labels is not None
    assert one.labels.tolist() == [-1, 1, -1, 1, -1]  # w was not seen in training


def test_the_units_of_the_file(tmp_path: Path) -> None:
    """log p of x in the file's units is that of standardised x less Σ log deviation: the exact Gaussian one."""
    x = rows()
    fit = fitted(table(tmp_path / "a.csv", x))
    new = fit.read(table(tmp_path / "b.csv", rows(40, 1)))
    found = evaluate(fit, new, method="exact")
    train = ppvae.load_data(str(tmp_path / "a.csv")).train.double().numpy()
    assert found.estimates.attrs["log_volume"] == pytest.approx(np.log(train.std(0)).sum(), rel=1e-5)
    model: Any = fit.model
    mean, deviation = train.mean(0), train.std(0)
    component = model.components()
    loc = component.mean.detach().double().numpy() * deviation + mean
    scale = component.stddev.detach().double().numpy() * deviation
    exact = -0.5 * (((rows(40, 1) - loc) / scale) ** 2).sum(1) - np.log(scale).sum() - 1.5 * np.log(2 * np.pi)
    own = found.estimates.log_marginal.values - found.estimates.attrs["log_volume"]
    np.testing.assert_allclose(own, exact, rtol=1e-4)


def test_columns_are_matched_by_name(tmp_path: Path) -> None:
    x, names = rows(), ("a", "b", "c")
    for treatment in ("standardised", "real"):
        fit = fitted(table(tmp_path / "a.csv", x, names), treatment)
        expected = fit.read(table(tmp_path / "same.csv", x, names)).x
        turned = fit.read(table(tmp_path / "turned.csv", x[:, [2, 0, 1]], ("c", "a", "b"))).x
        assert torch.equal(turned, expected)
        labelled = fit.read(table(tmp_path / "more.csv", x, names, ("u", "v")), labels="kind")
        assert torch.equal(labelled.x, expected)


@pytest.mark.parametrize(
    ("names", "columns", "words"),
    [
        (("a", "b", "d"), 3, "no column 'c'"),
        (("a", "b"), 2, "no column 'c'"),
        (("a", "b", "c", "d"), 4, "unknown column 'd'"),
        (("a", "b", "b", "c"), 4, "several columns 'b'"),
        (None, 3, "no header line"),
    ],
)
def test_other_columns_are_refused(names: Sequence[str] | None, columns: int, words: str, tmp_path: Path) -> None:
    fit = fitted(table(tmp_path / "a.csv", rows(), ("a", "b", "c")))
    x = np.tile(rows(), 2)[:, :columns]
    with pytest.raises(PpvaeError, match=words):
        fit.read(table(tmp_path / "b.csv", x, names))


def test_an_array_has_no_names_to_match(tmp_path: Path) -> None:
    fit = fitted(table(tmp_path / "a.csv", rows(), ("a", "b", "c")))
    np.save(tmp_path / "b.npy", rows())
    with pytest.raises(PpvaeError, match="no names of columns"):
        fit.read(tmp_path / "b.npy")
    unnamed = fitted(table(tmp_path / "c.csv", rows()))
    assert len(unnamed.read(tmp_path / "b.npy").x) == N


def test_a_file_of_few_rows_is_judged(tmp_path: Path) -> None:
    """One row is enough, and its own deviation does not matter."""
    fit = fitted(table(tmp_path / "a.csv", rows()))
    for size in (1, 5):
        new = fit.read(table(tmp_path / "b.csv", rows(size, 3)))
        assert (new.split, len(new.x), new.rows.tolist()) == ("all", size, list(range(size)))
    with pytest.raises(PpvaeError, match="is not split"):
        fit.read(tmp_path / "b.csv", split="valid")


def test_data_that_were_standardised_by_themselves_are_refused(tmp_path: Path) -> None:
    fit = fitted(table(tmp_path / "a.csv", rows()))
    other = ppvae.load_data(table(tmp_path / "b.csv", rows(N, 1) + 10), treatment="standardised")
    with pytest.raises(PpvaeError, match=r"other means .* fit\.read"):
        evaluate(fit, other)
    with pytest.raises(PpvaeError, match="is 'real', and the fit was trained on 'standardised'"):
        evaluate(fit, ppvae.load_data(str(tmp_path / "b.csv")))
    again = ppvae.load_data(str(tmp_path / "b.csv"), like=fit.data.preparation)
    evaluate(fit, again, method="exact")


def test_eight_bits_are_divided_as_in_training() -> None:
    """Whether a value above 1 occurs is decided by the training data, not by each later set."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (2, 2), generator=generator, dtype=torch.uint8) for _ in range(20)]
    data = ppvae.load_data(images)
    assert data.prepared.divisor == 255
    dark = [torch.ones(2, 2, dtype=torch.uint8) for _ in range(5)]
    fit = ppvae.fit(ppvae.create("gmm", x_dim=4, num_components=1), data, epochs=1)
    new = fit.read(dark)
    assert torch.equal(new.x, torch.full((5, 4), 1 / 255))
    assert new.log_volume == pytest.approx(4 * np.log(255))


def test_the_treatments_of_binary_values_replace_each_other() -> None:
    data = ppvae.load_data("digits", treatment="dynamic", num_train=50)
    fit = ppvae.fit(ppvae.create("vae", x_dim=64, hidden=[4], latent_dim=2), data, epochs=1)
    static = ppvae.load_data("digits", treatment="static", num_train=50)
    assert torch.equal(fit.read("digits").x, static.test)
    assert fit.read(static).log_volume == 0
    with pytest.raises(PpvaeError, match="makes other values"):
        ppvae.load_data("digits", treatment="real", like=fit.data.preparation)


# What single precision loses


def shifted(by: float) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(200, 2))) + by


@pytest.mark.parametrize(("by", "loses"), [(0.0, False), (1e4, False), (1e6, True), (1e9, True)])
def test_what_single_precision_rounds(by: float, loses: bool, tmp_path: Path) -> None:
    """A step of single precision at 10⁶ is 0.06, at 10⁴ a thousandth; the deviation is 1."""
    x = shifted(by)
    assert lossy(x).tolist() == [loses, loses]
    file = table(tmp_path / "x.csv", x.numpy())
    data = ppvae.load_data(file)
    assert data.train.dtype == (torch.float64 if loses else torch.float32)
    # centred before it is rounded
    standardised = ppvae.load_data(file, treatment="standardised")
    base = ppvae.load_data(table(tmp_path / "base.csv", shifted(0.0).numpy()), treatment="standardised")
    assert standardised.train.dtype == torch.float32
    torch.testing.assert_close(standardised.train, base.train, atol=2e-6 + 1e-15 * by, rtol=1e-5)
    model = ppvae.create("gmm", x_dim=2, num_components=1)
    if not loses:
        ppvae.fit(model, data, epochs=1)
        return
    for lost in (data, rounded(data)) if by == 1e6 else (data,):  # at 10⁹ single precision leaves constants
        with pytest.raises(PpvaeError, match=r"column 0 has mean .* precision=\"64-true\""):
            ppvae.fit(model, lost, epochs=1)
    assert np.isfinite(ppvae.fit(model, data, epochs=1, precision="64-true").history[-1]["valid_bound"])


def rounded(data: ppvae.Data) -> ppvae.Data:
    """The same data in single precision, as a user may have made them."""
    return replace(data, **{split: x.float() for split, x in data.splits.items()})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (3, "names and values"),
        ({"treatment": "real", "shfit": [1.0]}, "shift"),
        ({"treatment": "reel"}, "real"),
        ({"treatment": "standardised", "scale": [0.0]}, "must hold numbers"),
        ({"treatment": "standardised", "shift": ["a"]}, "must hold numbers"),
    ],
)
def test_a_damaged_preparation(values: object, words: str) -> None:
    with pytest.raises(PpvaeError, match=words):
        Preparation.of(values)
