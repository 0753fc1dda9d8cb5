"""Predictive checks: replicated data have the moments they should, and p-values say what they count."""

import io
import math
from typing import Any, cast

import numpy as np
import pytest
import torch
import xarray as xr
from checks import refused
from fits import linear, trained
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pictures import labels
from torch import Tensor

import ppvae
from ppvae import plots
from ppvae.diagnostics.predictive import posterior_predictive_check
from ppvae.models import GMM, PPCA, VAE

N = 130  # more than one block of 100 data


@pytest.fixture(scope="module")
def fit() -> ppvae.Fit:
    return linear()


@pytest.fixture(scope="module")
def x(fit: ppvae.Fit) -> Tensor:
    return ppvae.sample(fit, N, seed=17).x


@pytest.fixture(scope="module")
def found(fit: ppvae.Fit, x: Tensor) -> xr.Dataset:
    return posterior_predictive_check(fit, x, num_draws=500)


def test_replicates_have_the_moments_of_the_predictive_distributions(
    fit: ppvae.Fit, x: Tensor, found: xr.Dataset
) -> None:
    """Means over N data: from the prior Normal(b, (WWᵀ + σ²I)/N), from the posterior about W m(x) + b with less spread.

    Mean and variance of 4 coordinates each, z = 4.5 over 16: false alarms < 2e-4.
    """
    model = cast(PPCA, fit.model)
    with torch.no_grad():
        noise = model.noise_scale().square() * torch.eye(4).double()
        phi = model.exact_phi(x)
        covariance = phi["scale_tril"][0] @ phi["scale_tril"][0].mT
        expected = {
            "prior": (model.mean().detach(), model.loadings() @ model.loadings().mT + noise),
            "posterior": (
                (phi["loc"] @ model.loadings().mT + model.mean()).mean(0),
                model.loadings() @ covariance @ model.loadings().mT + noise,
            ),
        }
    names = [f"coordinate_mean[{i}]" for i in range(4)]
    for source, (mean, spread) in expected.items():
        drawn = found["replicated"].sel(source=source, statistic=names).values
        variance = spread.diagonal().numpy() / N
        assert (np.abs(drawn.mean(0) - mean.numpy()) < 4.5 * np.sqrt(variance / 500)).all()
        assert (np.abs(drawn.var(0, ddof=1) / variance - 1) < 4.5 * math.sqrt(2 / 500)).all()
    np.testing.assert_allclose(found["observed"].sel(statistic=names), x.mean(0), rtol=1e-12)


def test_data_of_the_model_pass(found: xr.Dataset) -> None:
    """Prior p-values of data from the model are uniform: between 0.0005 and 0.9995 in 10, false alarms < 0.01."""
    p = found["p_value"].sel(source="prior")
    assert ((p > 0.0005) & (p < 0.9995)).all()
    assert found["statistic"].values[:3].tolist() == ["mean", "std", "coordinate_mean[0]"]
    assert found.sizes == {"statistic": 10, "source": 2, "replicate": 500}


def test_p_values_count_replicates(found: xr.Dataset) -> None:
    above = (found["replicated"] > found["observed"]).mean("replicate")
    np.testing.assert_allclose(found["p_value"], above.transpose("source", "statistic"))
    se = np.sqrt(found["p_value"] * (1 - found["p_value"]) / 500)
    np.testing.assert_allclose(found["p_value_se"], se)


def test_data_that_the_model_cannot_have_drawn_fail(fit: ppvae.Fit, x: Tensor) -> None:
    """Three times as wide: both sources say that the standard deviation never comes out so large."""
    wide = posterior_predictive_check(fit, 3 * x, statistics=["std"], num_draws=100)
    assert float(wide["p_value"].sel(source="prior", statistic="std")) == 0
    assert wide["p_value"].sel(statistic="std").max() < 0.05


def test_a_users_own_statistics(fit: ppvae.Fit, x: Tensor) -> None:
    """Functions of [N, *event] that return numbers, lists or tensors; a constant one ties, and ties count half."""
    statistics = {
        "top": lambda x: x.max(),
        "two": lambda x: [float(x[:, 0].min()), float(x[:, 1].min())],
        "size": len,
    }
    own = posterior_predictive_check(fit, x, statistics=statistics, num_draws=20)
    assert own["statistic"].values.tolist() == ["top", "two[0]", "two[1]", "size"]
    assert (own["p_value"].sel(statistic="size") == 0.5).all()
    assert own["observed"].sel(statistic="top") == x.max().item()


def test_rows_of_the_table_are_used_by_index() -> None:
    """With `index` the rows that training left; they, untrained, replicate from the prior, fresh ones do not."""
    torch.manual_seed(3)
    x = 5 + 0.1 * torch.randn(60, 3)
    table = trained(PPCA(3, 1), x, "per-datapoint", lr=1e-9, inference_options={"lr": 1e-9})
    with torch.no_grad():
        cast(PPCA, table.model).weight.fill_(3.0)
        cast(PPCA, table.model).shift.zero_()
        cast(PPCA, table.model).scale.fill_(1.0)
    table.strategy.lr = 0.05  # type: ignore[assignment]
    old, fresh = (
        posterior_predictive_check(table, x, index, statistics=["mean"], num_draws=50)["replicated"].sel(
            source="posterior"
        )
        for index in (torch.arange(60), None)
    )
    assert abs(old.mean()) < 1
    assert abs(fresh.mean() - 5) < 1


@pytest.mark.parametrize("kind", ["gmm", "summed", "image"])
def test_every_kind_of_pair_is_replicated(kind: str) -> None:
    torch.manual_seed(5)
    if kind == "image":
        x = torch.bernoulli(torch.full((30, 4, 5), 0.4))
        pair = trained(VAE(20, 2, hidden=(8,)), x, "amortized")
    else:
        x = torch.randn(30, 2)
        pair = trained(GMM(2, 3, assignment="summed" if kind == "summed" else "categorical"), x)
    found = posterior_predictive_check(pair, x, num_draws=7)
    assert found.sizes["replicate"] == 7
    assert found.sizes["statistic"] == 2 + 2 * x[0].numel()
    if kind == "image":
        assert "coordinate_mean[3,4]" in found["statistic"]


def test_seeds_decide(fit: ppvae.Fit, x: Tensor) -> None:
    one, again, other = (posterior_predictive_check(fit, x, num_draws=7, seed=seed) for seed in (4, 4, 5))
    xr.testing.assert_identical(one, again)
    assert (one["replicated"] != other["replicated"]).all()
    assert len(np.unique(one["replicated"].sel(statistic="mean"))) == 14  # no group repeats another


REFUSED: dict[str, dict[str, Any]] = {
    "unknown statistic 'maen': did you mean 'mean'?": {"statistics": ["maen"]},
    "statistics must be names": {"statistics": "mean"},
    "statistics must be names ": {"statistics": 3},
    "statistics is empty": {"statistics": []},
    "statistic 'a' is not a function": {"statistics": {"a": 3}},
    "statistic 'a' returned 'b', which is not a number": {"statistics": {"a": lambda x: "b"}},
    "statistic 'a' is NaN": {"statistics": {"a": lambda x: math.nan}},
    "num_draws": {"num_draws": 0},
    "seed": {"seed": -1},
    "x must be a tensor": {"x": torch.zeros(3, 5)},
    "x holds one datum": {"x": torch.zeros(1, 4)},
    "index must hold": {"index": torch.arange(3)},
    "pair must be": {"pair": None},
}


@pytest.mark.parametrize("named", REFUSED)
def test_bad_arguments_are_refused_in_one_line(named: str, fit: ppvae.Fit, x: Tensor) -> None:
    arguments: dict[str, Any] = {"pair": fit, "x": x, "num_draws": 2, **REFUSED[named]}
    refused(named, lambda: posterior_predictive_check(**arguments))


def test_a_statistic_keeps_its_shape(fit: ppvae.Fit, x: Tensor) -> None:
    sizes = iter([3, 2])
    refused(
        "changes its shape",
        lambda: posterior_predictive_check(fit, x, statistics={"a": lambda x: [1.0] * next(sizes)}, num_draws=2),
    )


def test_the_picture_has_the_data_among_the_replicates(found: xr.Dataset, ax: Axes) -> None:
    assert plots.predictive_check(found, ax, "std") is ax
    assert sum(cast(Any, bar).get_height() for bar in ax.patches) == 1000
    (line,) = ax.get_lines()
    assert np.asarray(line.get_xdata())[0] == float(found["observed"].sel(statistic="std"))
    assert [label.partition(":")[0] for label in labels(ax)] == ["from the prior", "from the posterior", "data"]
    cast(Figure, ax.figure).savefig(io.BytesIO(), format="png")


def test_the_picture_of_many_numbers_has_an_interval_each(found: xr.Dataset, ax: Axes) -> None:
    plots.predictive_check(found, ax, "coordinate_mean")
    (line,) = ax.get_lines()
    np.testing.assert_array_equal(np.asarray(line.get_ydata()), found["observed"].values[2:6])
    segments = cast(Any, ax.collections[1]).get_segments()
    replicated = found["replicated"].sel(source="posterior").values[:, 2:6]
    np.testing.assert_allclose([s[:, 1] for s in segments], np.quantile(replicated, [0.05, 0.95], axis=0).T)
    cast(Figure, ax.figure).savefig(io.BytesIO(), format="png")
    refused("unknown statistic 'maximum'", lambda: plots.predictive_check(found, ax, "maximum"))
