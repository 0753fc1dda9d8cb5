"""Active units, mutual information and the aggregate posterior against closed forms and quadrature."""

import io
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

import numpy as np
import pytest
import torch
import xarray as xr
from checks import refused
from fits import linear, mixture, to_the_prior, trained
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pictures import labels
from torch import Tensor
from torch.distributions import Categorical, MultivariateNormal, Normal, kl_divergence

import ppvae
from ppvae import plots
from ppvae.diagnostics.usage import latent_usage
from ppvae.models import DLGM, GMM, PPCA, VAE

N = 130  # more than one block of 100 data


@pytest.fixture(scope="module")
def fit() -> ppvae.Fit:
    return linear()


@pytest.fixture(scope="module")
def x(fit: ppvae.Fit) -> Tensor:
    return ppvae.sample(fit, N, seed=17).x


@pytest.fixture(scope="module")
def found(fit: ppvae.Fit, x: Tensor) -> xr.Dataset:
    return latent_usage(fit, x, num_draws=40)


def exact_q(fit: ppvae.Fit, x: Tensor) -> MultivariateNormal:
    with torch.no_grad():
        phi = fit.model.exact_phi(x)
    return MultivariateNormal(phi["loc"], scale_tril=phi["scale_tril"])


def test_kl_is_that_of_the_closed_form(fit: ppvae.Fit, x: Tensor, found: xr.Dataset) -> None:
    """KL(q(z|x) ‖ p(z)) of 130 data, their mean and that of both marginals.

    The spread of log q − log p over 40 draws is at most 2 nats here, so that a datum's error is 0.32 at most; z = 4.5
    over 130 + 3 comparisons: false alarms < 1e-3.
    """
    q = exact_q(fit, x)
    kl = kl_divergence(q, MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())).numpy()
    draws = q.sample((500,))
    spread = (q.log_prob(draws) - Normal(0.0, 1.0).log_prob(draws).sum(-1)).std(0).numpy()
    assert spread.max() < 2
    assert (np.abs(found["kl"].values - kl) < 4.5 * 1.1 * spread / math.sqrt(40)).all()
    error = spread.max() / math.sqrt(40 * N)
    assert abs(float(found["site_kl"].sel(site="z")) - kl.mean()) < 4.5 * error
    marginal = kl_divergence(Normal(q.mean, q.variance.sqrt()), Normal(0.0, 1.0)).mean(0)
    assert (np.abs(found["coordinate_kl"].values - marginal.numpy()) < 4.5 * error).all()


def test_activity_is_the_covariance_of_posterior_means(fit: ppvae.Fit, x: Tensor, found: xr.Dataset) -> None:
    """Where q has a mean it needs no draws: Cov_x(E_q[z | x]) to 1e-10."""
    np.testing.assert_allclose(found["activity"], exact_q(fit, x).mean.var(0), rtol=1e-10)
    assert (found["activity_se"] == 0).all()
    assert found["active"].values.all()
    assert found.attrs["num_active"] == 2
    assert found["coordinate"].values.tolist() == ["z[0]", "z[1]"]


def test_the_parts_of_the_kl_are_its_sum(found: xr.Dataset) -> None:
    whole = float(found["mutual_information"] + found["marginal_kl"])
    assert whole == pytest.approx(float(found["kl"].mean()))


def line(spread: float, seed: int = 3, slope: float = 1.0) -> tuple[ppvae.Fit, Tensor]:
    """pPCA with one latent in float64 whose q has standard deviation `spread`, and data."""
    torch.manual_seed(seed)
    x = torch.randn(60, 2, dtype=torch.float64)
    fit = trained(PPCA(2, 1), x.float(), precision="64-true")
    fit.model.exact_phi = lambda x: {
        "loc": slope * x[:, :1],
        "scale_tril": torch.full((len(x), 1, 1), spread, dtype=x.dtype),
    }
    return fit, x


@pytest.mark.parametrize("spread", [0.2, 0.7])
def test_mutual_information_is_that_of_quadrature(spread: float) -> None:
    """q(z) is a mixture of 60 Normals: its KL to p(z) by a sum over 8,001 points, and I(x; z) = E KL − KL(q(z) ‖ p(z)).

    Errors are those of 60 · 200 draws, at most 2/√12,000 (the spread of log q(z)/p(z) is below 2): z = 4.5 over 2 × 2
    comparisons: false alarms < 3e-5.
    """
    fit, x = line(spread)
    found = latent_usage(fit, x, num_draws=200)
    grid = torch.linspace(-8, 8, 8001, dtype=torch.float64)[:, None]
    q = Normal(x[:, 0], spread)
    log_q = q.log_prob(grid).logsumexp(1) - math.log(60)
    marginal = float((log_q.exp() * (log_q - Normal(0.0, 1.0).log_prob(grid[:, 0]))).sum() * 16 / 8000)
    information = float(kl_divergence(q, Normal(0.0, 1.0)).mean()) - marginal
    error = 2 / math.sqrt(60 * 200)
    assert abs(float(found["marginal_kl"]) - marginal) < 4.5 * error
    assert abs(float(found["mutual_information"]) - information) < 4.5 * error
    assert information > 0.3


def test_mutual_information_ends_at_log_n() -> None:
    """Posteriors far apart: I(x; z) of N data is log N, whatever more they carry, and the warning says so."""
    fit, x = line(1e-4, slope=100.0)
    found = latent_usage(fit, x)
    assert float(found["mutual_information"]) == pytest.approx(math.log(60), abs=1e-6)
    assert "close to log N = 4.1 nats, the maximum for 60 data" in found.attrs["warning"]
    assert "collapse" not in found.attrs["warning"]


def test_the_aggregate_posterior_has_its_moments(fit: ppvae.Fit, x: Tensor, found: xr.Dataset) -> None:
    """Mean and variance of q(z) over 40 draws of each datum, and the prior's of 5,000: z = 4.5 over 8: < 6e-5."""
    q = exact_q(fit, x)
    mean, variance = q.mean.mean(0).numpy(), (q.variance.mean(0) + q.mean.var(0, correction=0)).numpy()
    se = np.sqrt(variance / (40 * N))
    assert (np.abs(found["aggregate_mean"] - mean) < 4.5 * se).all()
    assert (np.abs(found["aggregate_std"] - np.sqrt(variance)) < 4.5 * se).all()
    assert (np.abs(found["prior_mean"]) < 4.5 / math.sqrt(5000)).all()
    assert (np.abs(found["prior_std"] - 1) < 4.5 / math.sqrt(2 * 5000)).all()


def test_posterior_collapse_is_said_in_words(fit: ppvae.Fit, x: Tensor) -> None:
    """q = p(z): nothing is carried. A loading of zero: one coordinate of two carries nothing, and is not active."""
    whole = latent_usage(linear(to_the_prior), x)
    assert whole.attrs["warning"] == "2 of 2 coordinates of z carry less than 0.01 nats: posterior collapse"
    assert abs(float(whole["mutual_information"])) < 1e-10
    assert not whole["active"].any()
    half = linear()
    with torch.no_grad():
        cast(PPCA, half.model).weight[:, 1] = 0
    found = latent_usage(half, x)
    assert found.attrs["warning"] == "1 of 2 coordinates of z carry less than 0.01 nats: posterior collapse"
    assert found["active"].values.tolist() == [True, False]
    assert latent_usage(fit, x).attrs["warning"] == ""


def test_a_q_far_from_the_prior_that_is_the_same_for_all_data_says_nothing(x: Tensor) -> None:
    found = latent_usage(linear(lambda loc, tril: (torch.full_like(loc, 3.0), 0 * tril + torch.eye(2))), x)
    assert found["kl"].min() > 5
    assert "about x" in found.attrs["warning"]
    assert float(found["marginal_kl"]) > 5


def test_discrete_latents_have_exact_information() -> None:
    """I(x; k) = H(mean of p(k|x)) − mean of H(p(k|x)), KL likewise; the spread of log-ratios is below 2.

    z = 4.5 over 2 comparisons of 200 · 100 draws: false alarms < 2e-5.
    """
    pair = mixture()
    x = ppvae.sample(pair, 100, seed=3).x
    found = latent_usage(pair, x, num_draws=200)
    with torch.no_grad():
        q = Categorical(logits=pair.model.exact_phi(x)["logits"])
        prior = Categorical(logits=cast(GMM, pair.model).logits)
        information = Categorical(q.probs.mean(0)).entropy() - q.entropy().mean()
        kl = kl_divergence(q, prior).mean()
    error = 2 / math.sqrt(200 * 100)
    assert abs(float(found["mutual_information"]) - float(information)) < 4.5 * error
    assert abs(float(found["site_kl"].sel(site="k")) - float(kl)) < 4.5 * error
    assert found["activity"].isnull().all()
    assert not found["active"].any()
    assert found.attrs["warning"] == ""
    idle = mixture("amortized")
    with torch.no_grad():
        prior_logits = cast(GMM, idle.model).logits
    idle.model.exact_phi = lambda x: {"logits": prior_logits.expand(len(x), -1)}
    pair.model.exact_phi = idle.model.exact_phi
    assert latent_usage(pair, x).attrs["warning"] == "k carries less than 0.01 nats: posterior collapse"


def bits(count: int) -> Tensor:
    return torch.bernoulli(torch.full((count, 6), 0.4), generator=torch.Generator().manual_seed(5))


PAIRS: dict[str, Callable[[], ppvae.Fit]] = {
    "mean field": lambda: trained(VAE(6, 2, hidden=(8,)), bits(60), "amortized"),
    "flow": lambda: trained(VAE(6, 2, hidden=(8,)), bits(60), "amortized", family="iaf"),
    "chain": lambda: trained(DLGM(6, (2, 3), hidden=8), bits(60), "amortized"),
    "table": lambda: trained(VAE(6, 2, hidden=(8,)), bits(60), "per-datapoint", inference_options={"max_steps": 25}),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_every_kind_of_pair_has_its_numbers(kind: str) -> None:
    """Shares of sites sum to the KL, and those of coordinates where q and p factorise.

    The chain's layers are correlated Gaussians, a little as yet, and theirs are of marginals; a flow has none.
    """
    torch.manual_seed(7)
    pair = PAIRS[kind]()
    found = latent_usage(pair, bits(40), num_draws=5)
    assert float(found["site_kl"].sum()) == pytest.approx(float(found["kl"].mean()), abs=1e-5)
    if kind == "flow":
        assert found["coordinate_kl"].isnull().all()
        assert (found["activity_se"] > 0).all()
    else:
        atol = 1e-2 if kind == "chain" else 1e-5
        assert float(found["coordinate_kl"].sum()) == pytest.approx(float(found["kl"].mean()), abs=atol)
    assert float(found["mutual_information"]) <= math.log(40)
    if kind == "chain":
        assert sorted(found["site"].values) == ["h1", "h2"]
    some = latent_usage(pair, bits(40)[:7], num_draws=5)
    np.testing.assert_allclose(some["kl"], found["kl"][:7], rtol=1e-4, atol=1e-5)


def test_activity_from_draws_is_freed_of_their_noise() -> None:
    """Under a flow of unknown mean that is idle, activity is 0 within its stated error, not the 1/S of raw means.

    The mean of 20 runs: one-sided by the cut at 0, so within 3 errors above it.
    """
    torch.manual_seed(11)
    pair = PAIRS["flow"]()
    runs = [latent_usage(pair, bits(100), num_draws=4, seed=seed) for seed in range(20)]
    activity = np.mean([run["activity"].values for run in runs], axis=0)
    se = np.mean([run["activity_se"].values for run in runs], axis=0)
    assert (activity < 0.1).all()  # 1/4 with the noise
    assert (activity < 3 * se).all()


Untouched = Callable[..., AbstractContextManager[None]]


def test_seeds_decide_and_the_world_is_left_alone(fit: ppvae.Fit, x: Tensor, untouched: Untouched) -> None:
    with untouched(fit.model, fit.strategy):
        one, again, other = (latent_usage(fit, x, seed=seed) for seed in (4, 4, 5))
    xr.testing.assert_identical(one, again)
    assert (one["kl"] != other["kl"]).all()


def test_rows_of_the_table_are_used_by_index() -> None:
    torch.manual_seed(13)
    pair = PAIRS["table"]()
    with torch.no_grad():
        cast(Any, pair.strategy).table[:, 0] += 3.0
    index = torch.arange(20)
    assert float(latent_usage(pair, bits(60)[:20], index)["site_kl"].sum()) > 3
    assert float(latent_usage(pair, bits(60)[:20])["site_kl"].sum()) < 3


REFUSED: dict[str, dict[str, Any]] = {
    "num_draws": {"num_draws": 1},
    "seed": {"seed": 0.5},
    "x must be a tensor": {"x": torch.zeros(3, 5)},
    "x holds one datum": {"x": torch.zeros(1, 4)},
    "index must hold": {"index": torch.arange(3)},
    "pair must be": {"pair": None},
}


@pytest.mark.parametrize("named", REFUSED)
def test_bad_arguments_are_refused_in_one_line(named: str, fit: ppvae.Fit, x: Tensor) -> None:
    arguments: dict[str, Any] = {"pair": fit, "x": x, **REFUSED[named]}
    refused(named, lambda: latent_usage(**arguments))


def test_a_guide_without_latents_is_refused() -> None:
    pair = trained(GMM(2, 3, assignment="summed"), torch.randn(30, 2))
    refused("the guide has no latent", lambda: latent_usage(pair, torch.randn(5, 2)))


def test_the_picture_has_a_bar_a_coordinate(found: xr.Dataset) -> None:
    ax: Axes = Figure(layout="constrained").subplots()
    assert plots.usage(found, ax) is ax
    heights = [cast(Any, bar).get_height() for bar in ax.patches]
    assert heights == sorted(found["coordinate_kl"].values, reverse=True)
    assert labels(ax) == ["active"]
    cast(Figure, ax.figure).savefig(io.BytesIO(), format="png")


def test_the_picture_of_a_flow_shows_activity() -> None:
    torch.manual_seed(17)
    ax: Axes = Figure(layout="constrained").subplots()
    plots.usage(latent_usage(PAIRS["flow"](), bits(20), num_draws=3), ax)
    assert ax.get_ylabel() == "Cov(E_q[z | x])"
    nothing = latent_usage(mixture(), torch.randn(20, 2)).assign(coordinate_kl=("coordinate", [math.nan]))
    refused("nothing can be drawn", lambda: plots.usage(nothing, ax))
