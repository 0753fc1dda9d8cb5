"""Bidirectional Monte Carlo: the exact value between its bounds, which meet, on simulated data in float64."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from torch import Tensor

import ppvae
from ppvae import Local, PpvaeError
from ppvae.diagnostics.bidirectional import bdmc
from ppvae.evidence.methods.ais import ais
from ppvae.evidence.problem import Problem
from ppvae.models import GMM, PPCA
from ppvae.pair.local import Phi
from ppvae.tasks.sampling import sample

BOUNDS = ("lower", "upper", "iwae_lower", "iwae_upper")
STARTS = ("prior", "q")


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(67))


def fitted(model: ppvae.Model, *event: int, inference: str = "amortized") -> ppvae.Fit:
    x = numbers(20, *event)
    data = ppvae.Data("real", x, x[:4], x[:4], "gaussian", "real")
    return ppvae.fit(model, data, inference, steps=1, precision="64-true", progress=False)


@pytest.fixture(scope="module")
def linear() -> ppvae.Fit:
    """pPCA of order one and an encoder that has learned next to nothing."""
    torch.manual_seed(3)
    fit = fitted(PPCA(5, 2), 5)
    with torch.no_grad():
        for p in fit.model.parameters():
            p.copy_(torch.randn_like(p))
    return fit


def sandwich(fit: ppvae.Fit, num_data: int = 6, num_samples: int = 4, **options: Any) -> xr.Dataset:
    options = {"num_importance": 30, "num_temperatures": 4, "num_leapfrog": 2, "num_tuning": 2, **options}
    return bdmc(fit, num_data, num_samples, **options)


def z_of(values: np.ndarray) -> float:
    return float(values.mean() / values.std(ddof=1) * math.sqrt(len(values)))


@pytest.mark.parametrize("start", STARTS)
def test_forward_is_below_and_reverse_above_and_they_meet(linear: ppvae.Fit, start: str) -> None:
    """Over 100 simulated data: E lower ≤ log p ≤ E upper, of AIS and of q, and of AIS nearly equal.

    z = 4.5 over 2 × 4 one-sided comparisons: false alarms < 3e-5.
    """
    log_p = linear.model.log_prob(sample(linear, 100).x).detach().numpy()
    found = sandwich(linear, 100, 10, start=start, num_temperatures=30, num_tuning=5)
    for name in BOUNDS:
        excess = found[name].values - log_p
        assert (z_of(excess) if "lower" in name else -z_of(excess)) < 4.5, name
    for name in ("lower", "upper"):
        assert abs((found[name].values - log_p).mean()) < 0.1, name


@pytest.mark.parametrize("start", STARTS)
def test_the_sandwich_closes_with_more_temperatures(linear: ppvae.Fit, start: str) -> None:
    """Loose with 2, where both bounds are clearly off (z > 3), and ever closer with 8 and 64."""
    found = [sandwich(linear, 80, 4, start=start, num_temperatures=number) for number in (2, 8, 64)]
    log_p = linear.model.log_prob(sample(linear, 80).x).detach().numpy()
    assert z_of(found[0].lower.values - log_p) < -3
    assert z_of(found[0].upper.values - log_p) > 3
    assert found[0].mean_gap > 2 * found[1].mean_gap > 4 * found[2].mean_gap
    assert found[2].mean_gap < 0.2


@pytest.mark.parametrize("start", STARTS)
def test_reverse_chains_are_forward_chains_backwards(linear: ppvae.Fit, start: str) -> None:
    """Bennett's (1976) identity: E σ(log w − log p) forwards = E σ(log w + log p) backwards, which start at p(z | x).

    It holds of weights whose two paths mirror each other exactly, and its terms are bounded where E w = 1/p(x), true
    backwards, has infinite variance. z = 4.5 over 2 × 8 data: false alarms < 2e-4.
    """
    x = 1.5 * numbers(8, 5)
    asked = Problem(linear, x, None, 0, 1000)
    options: dict[str, Any] = {"num_temperatures": 6, "num_leapfrog": 2, "start": start}
    chains = ais(asked, **options)
    torch.manual_seed(71)
    with torch.no_grad(), pyro.validation_enabled(False):
        phi, log_p = linear.model.exact_phi(x), linear.model.log_prob(x)
        truth = dist.MultivariateNormal(phi["loc"], scale_tril=phi["scale_tril"]).sample(torch.Size([1000]))
        (_, block), *_ = asked.blocks()
        (forward,) = chains.weights(block, 1000, 1000)
        backward = chains.run(block, truth, 1000, reverse=True)
    one, other = (forward.log_weight - log_p).sigmoid(), (backward + log_p).sigmoid()
    error = ((one.var(0) + other.var(0)) / 1000).sqrt()
    assert ((one.mean(0) - other.mean(0)) / error).abs().max() < 4.5
    assert one.std(0).min() > 0.05


def test_true_latents_among_draws_of_q_weigh_more(linear: ppvae.Fit) -> None:
    """At K = 1 the upper bound is the weight of z itself, by hand, and the lower one the ELBO; K = 30 is tighter."""
    one, many = (sandwich(linear, 100, num_importance=k) for k in (1, 30))
    log_p = linear.model.log_prob(sample(linear, 100).x).detach().numpy()
    assert z_of(one.iwae_upper.values - log_p) > 4.5
    assert (one.iwae_upper - one.iwae_lower).mean() > 3 * (many.iwae_upper - many.iwae_lower).mean() > 0
    drawn, phi = sample(linear, 100), linear.posterior(sample(linear, 100).x).phi
    model = cast(PPCA, linear.model)
    with torch.no_grad():
        joint = dist.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double()).log_prob(drawn.latents["z"])
        mean = drawn.latents["z"] @ model.loadings().mT + model.mean()
        joint = joint + dist.Normal(mean, model.noise_scale()).log_prob(drawn.x).sum(-1)
        log_q = dist.MultivariateNormal(phi["loc"], scale_tril=phi["scale_tril"]).log_prob(drawn.latents["z"])
    np.testing.assert_allclose(one.iwae_upper, joint - log_q, rtol=0, atol=1e-8)


def test_at_the_posterior_all_four_are_log_p() -> None:
    torch.manual_seed(5)
    fit = fitted(PPCA(5, 2), 5, inference="exact")
    log_p = fit.model.log_prob(sample(fit, 6).x).detach().numpy()
    found = sandwich(fit, start="q")
    for name in BOUNDS:
        np.testing.assert_allclose(found[name], log_p, rtol=0, atol=1e-8, err_msg=name)
    np.testing.assert_allclose(found.gap, 0, atol=1e-8)


class Mixed(ppvae.Model):
    """k ~ Categorical(½, ½) summed out, z ~ Gamma(2 + 3k, 1.5), x ~ Normal(log z, 0.5)."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(x.new_ones(2)), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Gamma(2.0 + 3 * k.to(x), 1.5))
            pyro.sample("x", dist.Normal(z.log(), 0.5), obs=x[:, 0])

    def log_prob(self, x: Tensor) -> Tensor:
        """By a sum over 2,000 midpoints of log z."""
        log_z = (torch.arange(2000, dtype=torch.float64)[:, None] + 0.5) * 0.01 - 15
        prior = [dist.Gamma(shape, 1.5).log_prob(log_z.exp()) + log_z for shape in (2.0, 5.0)]
        parts = torch.logaddexp(*prior) + dist.Normal(log_z, 0.5).log_prob(x[:, 0])
        return parts.logsumexp(0) + math.log(0.01 / 2)


def test_a_positive_latent_beside_one_that_is_summed_out() -> None:
    """Over 80 data against quadrature, z = 4.5 over 4 one-sided comparisons: false alarms < 2e-5."""
    torch.manual_seed(7)
    fit = fitted(Mixed(), 1)
    log_p = fit.model.log_prob(sample(fit, 80).x).numpy()
    found = sandwich(fit, 80, 10, num_temperatures=20)
    for name in BOUNDS:
        excess = found[name].values - log_p
        assert (z_of(excess) if "lower" in name else -z_of(excess)) < 4.5, name
        assert abs(excess.mean()) < 0.2, name


class Enumerated(ppvae.Model):
    """z ~ Normal(±2, 1) by k; the guide enumerates k."""

    def __init__(self) -> None:
        super().__init__()
        self.phi = {"logits": Local(torch.zeros(2)), "loc": Local(torch.zeros(()))}

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(x.new_ones(2)), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(4.0 * k - 2, 1.0))
            pyro.sample("x", dist.Normal(z, 0.6), obs=x[:, 0])

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(logits=phi["logits"]), infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal(phi["loc"], 1.5))


def test_an_enumerating_guide_has_no_upper_bound_from_q() -> None:
    """There is no density of z alone; the rest is there."""
    torch.manual_seed(11)
    found = sandwich(fitted(Enumerated(), 1))
    assert np.isnan(found.iwae_upper).all()
    assert all(np.isfinite(found[name]).all() for name in ("lower", "upper", "gap", "iwae_lower"))


def test_what_comes_back(linear: ppvae.Fit, tmp_path: Path) -> None:
    """N of each, in nats, with the settings and the mean gap by hand; written to netCDF and read again."""
    found = sandwich(linear, schedule="linear", seed=3)
    assert found.sizes == {"datum": 6}
    assert set(found) == {*BOUNDS, "gap", "lower_se", "upper_se", "iwae_lower_se"}
    assert all(found[name].attrs["units"] == "nats/datum" for name in found)
    np.testing.assert_array_equal(found.gap, found.upper - found.lower)
    assert found.mean_gap == pytest.approx(found.gap.values.mean())
    assert found.mean_gap_se == pytest.approx(found.gap.values.std(ddof=1) / math.sqrt(6))
    assert "simulated" in found.scope
    assert "real data" in found.scope
    expected = {
        "num_data": 6,
        "num_samples": 4,
        "num_importance": 30,
        "seed": 3,
        "schedule": "linear",
        "start": "prior",
    }
    assert expected.items() <= found.attrs.items()
    found.to_netcdf(tmp_path / "bdmc.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "bdmc.nc", engine="h5netcdf") as again:
        xr.testing.assert_equal(again, found)


def test_seeds_positions_and_chunks(linear: ppvae.Fit) -> None:
    """One seed gives one result, of which fewer data and other chunks are part; another gives other data."""
    found, again, other = (sandwich(linear, seed=seed) for seed in (0, 0, 1))
    xr.testing.assert_identical(found, again)
    assert (found.lower != other.lower).all()
    for part in (sandwich(linear, 4), sandwich(linear, chunk_size=12)):
        for name in found:
            np.testing.assert_allclose(
                part[name], found[name][: part.num_data], rtol=1e-9, atol=1e-9, err_msg=str(name)
            )


def test_one_datum_has_no_error_over_data(linear: ppvae.Fit) -> None:
    assert math.isnan(sandwich(linear, 1).mean_gap_se)


def test_the_world_is_left_alone(linear: ppvae.Fit, untouched: Callable[..., AbstractContextManager[None]]) -> None:
    with untouched(linear.model, linear.strategy):
        sandwich(linear)


REFUSED: dict[str, dict[str, Any]] = {
    "num_data": {"num_data": 0},
    "num_samples": {"num_samples": 2.5},
    "num_importance": {"num_importance": 0},
    "seed": {"seed": -1},
    "chunk_size": {"chunk_size": 0},
    "did you mean 'schedule'": {"shedule": "linear"},
    "unknown schedule": {"schedule": "cosine"},
    "num_leapfrog": {"num_leapfrog": 0},
}


@pytest.mark.parametrize("named", REFUSED)
def test_bad_arguments_are_refused_in_one_line(linear: ppvae.Fit, named: str) -> None:
    with pytest.raises(PpvaeError) as caught:
        sandwich(linear, **REFUSED[named])
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_it_does_not_apply_to() -> None:
    """Discrete latents alone, and what is no fit."""
    torch.manual_seed(13)
    with pytest.raises(PpvaeError, match="no continuous latent"):
        sandwich(fitted(GMM(5, 3), 5))
    with pytest.raises(PpvaeError, match="pair must be"):
        bdmc(GMM(5, 3))  # type: ignore[arg-type]
