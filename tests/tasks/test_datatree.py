"""Exchange with ArviZ: what the tree holds is what was drawn, it survives a file, and ArviZ draws it."""

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import arviz_plots
import numpy as np
import pytest
import torch
import xarray as xr
from checks import refused
from fits import linear, mixture, trained
from matplotlib import pyplot
from torch import Tensor
from torch.distributions import Normal

import ppvae
from ppvae.models import GMM, PPCA, VAE
from ppvae.tasks.datatree import to_datatree

N, S = 7, 60


def array(tree: xr.DataTree, group: str, name: str) -> xr.DataArray:
    return cast(xr.DataArray, tree[group][name])


GROUPS = ["posterior", "posterior_predictive", "observed_data", "log_likelihood", "sample_stats"]


@pytest.fixture(scope="module")
def fit() -> ppvae.Fit:
    return linear()


@pytest.fixture(scope="module")
def x(fit: ppvae.Fit) -> Tensor:
    return ppvae.sample(fit, N, seed=17).x


@pytest.fixture(scope="module")
def tree(fit: ppvae.Fit, x: Tensor) -> xr.DataTree:
    return to_datatree(fit, x, num_draws=S)


@pytest.fixture
def closed() -> Iterator[None]:
    """Whatever figures a test opens are closed after it."""
    yield
    pyplot.close("all")


def test_groups_have_arvizs_names_and_dims(tree: xr.DataTree) -> None:
    assert list(tree.children) == GROUPS
    assert dict(tree["posterior"].sizes) == {"chain": 1, "draw": S, "datum": N, "z_dim_0": 2}
    assert array(tree, "posterior", "z").dims == ("chain", "draw", "datum", "z_dim_0")
    assert array(tree, "posterior_predictive", "x").dims == ("chain", "draw", "datum", "x_dim_0")
    assert array(tree, "observed_data", "x").dims == ("datum", "x_dim_0")
    assert array(tree, "log_likelihood", "x").dims == ("chain", "draw", "datum")
    assert array(tree, "log_likelihood", "x").attrs["units"] == "nats"
    assert array(tree, "sample_stats", "log_weight").dims == ("chain", "draw", "datum")
    assert tree.attrs == {
        "model": "PPCA", "inference": "exact", "data": "given", "treatment": "real", "num_draws": S, "seed": 0,
    }  # fmt: skip
    assert {group.attrs["inference_library"] for group in tree.children.values()} == {"ppvae"}


def test_densities_are_those_of_the_draws(fit: ppvae.Fit, x: Tensor, tree: xr.DataTree) -> None:
    """log p(x | z) by hand at every draw; the exact posterior's weights are all p(x)."""
    model = cast(PPCA, fit.model)
    z = torch.as_tensor(array(tree, "posterior", "z").values[0])
    with torch.no_grad():
        expected = Normal(z @ model.loadings().mT + model.mean(), model.noise_scale()).log_prob(x).sum(-1)
        log_p = model.log_prob(x)
    np.testing.assert_allclose(array(tree, "log_likelihood", "x").values[0], expected, atol=1e-8)
    np.testing.assert_allclose(array(tree, "sample_stats", "log_weight").values[0], log_p.expand(S, -1), atol=1e-8)
    np.testing.assert_array_equal(array(tree, "observed_data", "x").values, x)


def test_draws_are_of_q_and_replicates_of_the_model_at_them(fit: ppvae.Fit, x: Tensor) -> None:
    """Means of z and of x given its z over 4,000 draws, z = 4.5 over 7 · (2 + 4) comparisons: false alarms < 3e-4."""
    model = cast(PPCA, fit.model)
    many = to_datatree(fit, x, num_draws=4000, evidence=ppvae.log_marginal(fit, x, num_samples=2))
    z, drawn = (
        torch.as_tensor(array(many, g, v).values[0]) for g, v in (("posterior", "z"), ("posterior_predictive", "x"))
    )
    with torch.no_grad():
        phi = model.exact_phi(x)
        residual = drawn - (z @ model.loadings().mT + model.mean())
    for found, mean in ((z, phi["loc"]), (residual, 0.0)):
        score = (found.mean(0) - mean) / (found.std(0) / math.sqrt(4000))
        assert (score.abs() < 4.5).all()
    assert abs(residual.std() / float(model.noise_scale().detach()) - 1) < 4.5 / math.sqrt(2 * residual.numel())


def test_evidence_stands_beside_the_draws(fit: ppvae.Fit, x: Tensor, tree: xr.DataTree) -> None:
    """Its own by default, or the one given; every column, with its units."""
    own = ppvae.log_marginal(fit, x)
    given = ppvae.log_marginal(fit, x, num_samples=50, seed=3, smooth=True)
    for evidence, stats in (
        (own, tree["sample_stats"]),
        (given, to_datatree(fit, x, num_draws=3, evidence=given)["sample_stats"]),
    ):
        for name in ("log_marginal", "log_marginal_se", "ess", "khat", "ok", "method", "running"):
            xr.testing.assert_equal(cast(xr.DataArray, stats[name]).drop_vars(["num_draws"], errors="ignore"),
                                    evidence[name].drop_vars(["num_draws"], errors="ignore"))  # fmt: skip
            assert stats[name].attrs == evidence[name].attrs
        assert stats.attrs["num_samples"] == evidence.attrs["num_samples"]
    assert "log_marginal_psis" in given


def test_a_tree_survives_a_file(tree: xr.DataTree, tmp_path: Path) -> None:
    path = tmp_path / "tree.nc"
    tree.to_netcdf(path, engine="h5netcdf")
    with xr.open_datatree(path, engine="h5netcdf") as back:
        assert back.identical(tree)


def test_arviz_draws_it(tree: xr.DataTree, closed: None) -> None:
    """Forest, densities and predictive check, without a warning."""
    for draw in (
        lambda: arviz_plots.plot_forest(tree, var_names=["z"], backend="matplotlib"),
        lambda: arviz_plots.plot_dist(tree, var_names=["z"], coords={"datum": [0, 1]}, backend="matplotlib"),
        lambda: arviz_plots.plot_ppc_dist(tree, backend="matplotlib"),
    ):
        assert draw() is not None
    for number in pyplot.get_fignums():
        pyplot.figure(number).canvas.draw()


def test_a_discrete_latent_is_drawn_whether_guided_or_summed_out() -> None:
    """k comes with the frequencies of p(k | x) either way, over 2,000 draws: z = 4.5 over 2 · 5 · 3: < 3e-4."""
    guided = mixture()
    x = ppvae.sample(guided, 5, seed=3).x
    summed = trained(GMM(2, 3, assignment="summed"), torch.randn(60, 2))
    summed.model.load_state_dict(guided.model.state_dict())
    with torch.no_grad():
        p = guided.model.exact_phi(x)["logits"].softmax(-1).numpy()
        log_p = guided.model.log_prob(x).numpy()
    for pair, weigh in ((guided, False), (summed, True)):
        found = to_datatree(pair, x, num_draws=2000)
        assert array(found, "posterior", "k").dims == ("chain", "draw", "datum")
        frequency = np.stack([(array(found, "posterior", "k").values[0] == k).mean(0) for k in range(3)], -1)
        assert (np.abs(frequency - p) <= 4.5 * np.sqrt(p * (1 - p) / 2000) + 1e-9).all()
        if weigh:  # without a latent in the guide every weight, and the likelihood, is p(x)
            np.testing.assert_allclose(
                array(found, "log_likelihood", "x").values[0], np.tile(log_p, (2000, 1)), rtol=1e-4
            )


@pytest.fixture(scope="module")
def images() -> ppvae.Fit:
    torch.manual_seed(5)
    pictures = torch.bernoulli(torch.full((130, 3, 4), 0.4))
    return trained(VAE(12, 2, hidden=(8,)), pictures, "per-datapoint", inference_options={"max_steps": 25})


def test_dims_of_pictures_are_named(images: ppvae.Fit) -> None:
    x = torch.bernoulli(torch.full((4, 3, 4), 0.4))
    found = to_datatree(images, x, num_draws=5)
    assert array(found, "posterior_predictive", "x").dims == ("chain", "draw", "datum", "x_dim_0", "x_dim_1")
    assert array(found, "observed_data", "x").shape == (4, 3, 4)
    assert set(np.unique(array(found, "posterior_predictive", "x"))) <= {0.0, 1.0}


def test_data_that_follow_change_nothing(images: ppvae.Fit) -> None:
    x = torch.bernoulli(torch.full((130, 3, 4), 0.4))
    whole, few = (array(to_datatree(images, rows, num_draws=25), "posterior", "z") for rows in (x, x[:37]))
    np.testing.assert_allclose(few, whole[:, :, :37], rtol=1e-4, atol=1e-5)
    index = torch.arange(130)
    table, same = (array(to_datatree(images, x[:n], index[:n], num_draws=25), "posterior", "z") for n in (130, 37))
    np.testing.assert_array_equal(same, table[:, :, :37])
    assert not np.allclose(few, same)


def test_seeds_decide(fit: ppvae.Fit, x: Tensor) -> None:
    trees = [to_datatree(fit, x, num_draws=25, seed=seed) for seed in (4, 4, 5)]
    one, again, other = (array(tree, "posterior", "z").values for tree in trees)
    assert (one == again).all()
    assert (one != other).all()
    assert all((a != b).all() for a, b in itertools.combinations(one[0], 2))  # no draw twice


def test_the_world_is_left_alone(
    fit: ppvae.Fit, x: Tensor, untouched: Callable[..., AbstractContextManager[None]]
) -> None:
    with untouched(fit.model, fit.strategy):
        to_datatree(fit, x, num_draws=3)


REFUSED: dict[str, dict[str, Any]] = {
    "num_draws": {"num_draws": 0},
    "seed": {"seed": -1},
    "x must be a tensor": {"x": torch.zeros(3, 5)},
    "index must hold": {"index": torch.arange(3)},
    "pair must be": {"pair": None},
    "evidence must be the result of ppvae.log_marginal, got Dataset": {"evidence": xr.Dataset()},
    "evidence must be": {"evidence": 3.0},
    "evidence is of 3 data and x of 7": {"evidence": xr.Dataset({"log_marginal": ("datum", np.zeros(3))})},
}


@pytest.mark.parametrize("named", REFUSED)
def test_bad_arguments_are_refused_in_one_line(named: str, fit: ppvae.Fit, x: Tensor) -> None:
    arguments: dict[str, Any] = {"pair": fit, "x": x, "num_draws": 2, **REFUSED[named]}
    refused(named, lambda: to_datatree(**arguments))
