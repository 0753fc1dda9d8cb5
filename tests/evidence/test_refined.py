"""φ refined for each datum: where it ends, that a datum's numbers are its own, and importance sampling from there."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pairs
import pyro
import pyro.distributions as dist
import pytest
import torch
import zuko
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

import ppvae
from ppvae import Local, Posterior, PpvaeError
from ppvae.blocks import ROW_BLOCK
from ppvae.evidence.estimates import estimate
from ppvae.evidence.method import METHODS
from ppvae.evidence.problem import Problem
from ppvae.evidence.proposal import Proposal
from ppvae.evidence.widening import Widened, widened
from ppvae.models import DLGM, PPCA, VAE
from ppvae.pair.local import Phi
from ppvae.variational.objectives.elbo import elbo
from ppvae.variational.refinement import refine

D, K = 6, 3
Untouched = Callable[..., AbstractContextManager[None]]


def cloud(count: int = 130) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, K, generator=generator) @ torch.randn(K, D, generator=generator) + 0.3


def linear(inference: str = "amortized", **options: Any) -> ppvae.Fit:
    """pPCA in float64 whose loadings are of order one, so that its posterior is correlated; hardly trained."""
    torch.manual_seed(7)
    model = PPCA(D, K)
    with torch.no_grad():
        model.weight.copy_(torch.randn(D, K))
    x = cloud()
    data = ppvae.Data("cloud", x, x[:4], x[:4], "gaussian", "real")
    return ppvae.fit(model, data, inference, steps=3, lr=1e-3, batch_size=50, precision="64-true", **options)


def misled(fit: ppvae.Fit) -> ppvae.Fit:
    """The same fit with an encoder whose q is off by 1.5 and 20 times too narrow."""
    with torch.no_grad():
        fit.strategy.get_submodule("head").bias[:K] += 1.5  # type: ignore[index]
        where, shape, support = fit.strategy.layout.entries["scale_tril"]
        eye = 0.05 * torch.eye(K, dtype=torch.float64)
        raw = torch.distributions.transform_to(support).inv(eye)
        fit.strategy.get_submodule("head").bias[where] = raw.reshape(-1)  # type: ignore[index]
        assert raw.shape == shape
    return fit


def drawn(kind: str) -> dict[str, Any]:
    """Training options of a kind of pair: through a discrete draw no gradient flows."""
    return {"gradient": "score"} if kind == "drawn" else {}


def bits(count: int = 60) -> Tensor:
    return torch.bernoulli(torch.full((count, 6), 0.4), generator=torch.Generator().manual_seed(11))


def binary(model: ppvae.Model, inference: str = "amortized", **options: Any) -> ppvae.Fit:
    data = ppvae.Data("bits", bits(), bits(4), bits(4), "bernoulli", "binary")
    return ppvae.fit(model, data, inference, steps=3, batch_size=20, **options)


def gap(fit: ppvae.Fit, posterior: Posterior, x: Tensor) -> Tensor:
    """KL(q ‖ p(z | x)) of full-covariance Gaussians [B]."""
    q, p = (
        MultivariateNormal(phi["loc"], scale_tril=phi["scale_tril"]) for phi in (posterior.phi, fit.model.exact_phi(x))
    )
    return kl_divergence(q, p).detach()


# Where φ ends


def test_phi_ends_at_the_posterior_where_the_family_has_it() -> None:
    """From a bad start KL(q ‖ p(z | x)) falls from nats to hundredths, and each datum counts as converged."""
    fit = misled(linear())
    x = fit.as_input(cloud(40))
    q = fit.posterior(x)
    best = refine(q, x, lr=0.03, max_steps=1500, particles=16)
    assert best.converged is not None
    assert best.converged.all()
    assert gap(fit, q, x).min() > 5
    assert gap(fit, best, x).mean() < 0.02
    assert gap(fit, best, x).max() < 0.1


def test_a_mean_field_ends_at_its_own_optimum() -> None:
    """With Λ the posterior's precision the best mean field has its mean and variances 1/Λᵢᵢ, not its variances.

    What the noise of 16 draws a step leaves is a tenth of a standard deviation, and of its logarithm.
    """
    fit = linear(family="mean-field")
    x = fit.as_input(cloud(40))
    best = refine(fit.posterior(x), x, lr=0.03, max_steps=1500, particles=16).phi
    exact = fit.model.exact_phi(x)
    covariance = (exact["scale_tril"] @ exact["scale_tril"].mT).detach()
    variance = 1 / torch.linalg.inv(covariance).diagonal(dim1=-2, dim2=-1)
    assert (covariance.diagonal(dim1=-2, dim2=-1) / variance).max() > 1.2  # the two do differ
    assert ((best["z_loc"] - exact["loc"]).abs() / variance.sqrt()).mean() < 0.1
    off = best["z_scale"].log() - variance.log() / 2
    assert off.square().mean().sqrt() < 0.1
    assert (off.mean(0).abs() < 0.03).all()


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "iwae", "num_particles": 5},
        {"beta": 4.0},
        {"gradient": "score", "num_particles": 4},
        {"objective": "rws", "num_particles": 5},
    ],
    ids=lambda o: "-".join(map(str, o.values())),
)
def test_it_is_the_elbo_that_rises(options: dict[str, Any]) -> None:
    """Whatever the fit was trained by; the mean over 60 data rises by more than 5 standard errors."""
    torch.manual_seed(13)
    fit = binary(VAE(6, 2, hidden=(8,)), **options)
    x = fit.as_input(bits())
    q = fit.posterior(x)
    rise = bound(refine(q, x, max_steps=100), x) - bound(q, x)
    assert rise.mean() > 5 * rise.std() / math.sqrt(len(x))


def bound(posterior: Posterior, x: Tensor) -> Tensor:
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        return elbo(ppvae.log_densities(posterior.model, posterior, x, 500))


def test_a_pair_without_phi_is_returned_as_it_is() -> None:
    fit = pairs.fitted(pairs.Coins("summed"), pairs.X)
    found = refine(fit.posterior(pairs.X), pairs.X)
    assert found.phi == {}
    assert found.converged is not None
    assert found.converged.tolist() == [True] * len(pairs.X)


# A datum's numbers are its own


@pytest.mark.parametrize("kind", ["ppca", "labelled", "drawn", "enumerated"])
def test_only_wanted_data_are_refined_with_the_draws_that_are_theirs(kind: str) -> None:
    """Positions in two blocks: the same φ as if all were wanted; the others are left alone, and not converged."""
    if kind == "ppca":
        fit, x = linear(), cloud(ROW_BLOCK + 10).double()
    else:
        model = pairs.Labelled() if kind == "labelled" else pairs.Coins("drawn" if kind == "drawn" else "enumerated")
        x = torch.cat([pairs.X] * 170)[: ROW_BLOCK + 4]
        fit = pairs.fitted(model, x, **drawn(kind))
    q = fit.posterior(x)
    at = torch.tensor([3, ROW_BLOCK - 1, ROW_BLOCK + 2])
    settings: dict[str, Any] = {"seed": 4, "max_steps": 40, "particles": 2}
    whole = refine(q, x, **settings)
    part = refine(q, x, positions=at, **settings)
    assert part.converged is not None
    assert whole.converged is not None
    others = torch.ones(len(x), dtype=torch.bool)
    others[at] = False
    assert not part.converged[others].any()
    assert torch.equal(part.converged[at], whole.converged[at])
    for name, value in whole.phi.items():
        torch.testing.assert_close(part.phi[name][at], value[at], rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(part.phi[name][others], q.phi[name][others], rtol=1e-9, atol=1e-12)
    moved = torch.stack([(whole.phi[name] - q.phi[name]).flatten(1).abs().amax(-1) for name in q.phi])
    assert (moved.amax(0) > 1e-3).double().mean() > 0.9


def test_estimates_of_wanted_data_are_those_of_the_whole() -> None:
    """By `log_marginal` of 130 data, of the first 37, and of some positions, in float64."""
    fit = linear()
    x = fit.as_input(cloud())
    options = {"max_steps": 50}
    whole = ppvae.log_marginal(fit, x, num_samples=40, method="refined", options=options)
    first = ppvae.log_marginal(fit, x[:37], num_samples=40, method="refined", options=options)
    at = torch.tensor([2, 99, 100, 129])
    asked = Problem(fit, x, None, 0, 40).at(at)
    source = METHODS["refined"](asked, **options)
    some = estimate(asked, source)
    for name in ("log_marginal", "log_marginal_se", "ess", "elbo"):
        np.testing.assert_allclose(first[name], whole[name][:37], rtol=1e-6)
        np.testing.assert_allclose(some[name], whole[name][at.numpy()], rtol=1e-6)
    assert isinstance(source, Proposal)
    assert source.converged is not None
    assert source.converged.sum() <= 4


def test_seeds_decide() -> None:
    """One seed, one result; the optimisation has draws of its own for each seed."""
    fit = linear()
    x = fit.as_input(cloud(20))
    one, again, other = (refine(fit.posterior(x), x, seed=seed, max_steps=25) for seed in (1, 1, 2))
    assert torch.equal(one.phi["loc"], again.phi["loc"])
    assert not torch.equal(one.phi["loc"], other.phi["loc"])


@pytest.mark.parametrize("family", ["iaf", "spline"])
def test_a_flow_is_never_run_backwards(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own draws, sliced or not, have densities that are known: the way back costs a pass for each dimension."""
    torch.manual_seed(17)
    fit = binary(VAE(6, 3, hidden=(8,)), family=family)
    x = fit.as_input(bits(10))
    q = fit.posterior(x)

    def backwards(self: Any, value: Tensor) -> Tensor:
        raise AssertionError("a foreign value")

    monkeypatch.setattr(zuko.distributions.NormalizingFlow, "log_prob", backwards)
    ppvae.log_densities(fit.model, q, x, 2)
    found = refine(q, x, max_steps=3, particles=2)
    monkeypatch.undo()
    again = ppvae.log_densities(fit.model, q, x, 2)
    same = ppvae.log_densities(fit.model, q, x, values=again.values)
    torch.testing.assert_close(again.log_q, same.log_q, rtol=1e-4, atol=1e-4)
    assert all(value.isfinite().all() for value in found.phi.values())


# Importance sampling from there


@pytest.mark.parametrize("kind", pairs.MODELS)
def test_it_estimates_p_for_every_kind_of_pair(kind: str) -> None:
    """p̂/p − 1 within 4.5 of its own standard error; 5 kinds × 3 data: false alarms < 2e-4. Sums leave 1e-5."""
    torch.manual_seed(19)
    model = pairs.MODELS[kind]()
    fit = pairs.fitted(model, pairs.X, **drawn(kind))
    found = ppvae.log_marginal(fit, pairs.X, num_samples=2000, method="refined")
    log_p = pairs.truth(fit.model, pairs.X).numpy()
    ratio = np.exp(found.log_marginal.values - log_p)
    assert (np.abs(ratio - 1) < 4.5 * ratio * found.log_marginal_se.values + 1e-5).all()
    assert (found.log_marginal_se < 0.2).all()
    assert found.converged.dtype == bool


def test_reported_errors_are_right() -> None:
    """(p̂/p − 1)/se over 130 data of pPCA: within 4.5, of spread 1 within 4.5/√260; false alarms < 1e-3."""
    fit = linear()
    x = cloud()
    found = ppvae.log_marginal(fit, x, num_samples=1000, method="refined", options={"widen": 1.3})
    log_p = ppvae.log_marginal(fit, x, method="exact").log_marginal.values
    ratio = np.exp(found.log_marginal.values - log_p)
    z = (ratio - 1) / (ratio * found.log_marginal_se.values)
    assert (np.abs(z) < 4.5).all()
    assert abs(np.sqrt((z**2).mean()) - 1) < 4.5 / math.sqrt(2 * len(x))


def test_it_passes_where_the_encoder_fails() -> None:
    """A misplaced and much too narrow q: plain importance sampling is nats off and says so for every datum.

    Refined weights pass everywhere and agree with the exact value; z = 4.5 over 50 data: false alarms < 4e-4.
    """
    fit = misled(linear())
    x = cloud(50)
    exact = ppvae.log_marginal(fit, x, method="exact").log_marginal.values
    plain = ppvae.log_marginal(fit, x, num_samples=1000, method="importance")
    assert not plain.ok.any()
    assert (exact - plain.log_marginal.values).mean() > 1
    found = ppvae.log_marginal(fit, x, num_samples=1000, method="refined")
    assert found.ok.all()
    assert found.converged.all()
    ratio = np.exp(found.log_marginal.values - exact)
    assert (np.abs(ratio - 1) < 4.5 * ratio * found.log_marginal_se.values).all()


@pytest.mark.parametrize("dims", [1, 4, 25])
def test_the_default_width_costs_at_most_a_third_of_draws_from_the_posterior(dims: int) -> None:
    """r = q widened by 1 + 0.45/√D and q the posterior Normal(0, I): E w² = (f²/√(2f² − 1))^D."""
    model = PPCA(30, dims)
    phi = {"loc": torch.zeros(3, dims), "scale_tril": torch.eye(dims).expand(3, -1, -1)}
    guide = widened(Posterior(model, phi), torch.zeros(3, 30))
    assert isinstance(guide, Widened)
    assert guide.factor == pytest.approx(1 + 0.45 / math.sqrt(dims))
    share = (guide.factor**2 / math.sqrt(2 * guide.factor**2 - 1)) ** -dims
    assert 0.66 < share < 0.86


class Gammas(ppvae.Model):
    """A positive latent whose own guide is a Gamma."""

    def __init__(self) -> None:
        super().__init__()
        self.phi = {"shape": Local(torch.ones(()), dist.constraints.positive)}

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(x.new_tensor(2.0), 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1) + x.new_zeros(3), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Gamma(phi["shape"], 1.0))


def test_what_has_no_width_is_left_as_it_is_unless_told_otherwise() -> None:
    """A Gamma's q is sampled from as it is by default; asked for more width it is refused by name."""
    fit = pairs.fitted(Gammas(), pairs.X)
    q = fit.posterior(pairs.X)
    assert widened(q, pairs.X) is q
    assert ppvae.log_marginal(fit, pairs.X, num_samples=10, method="refined").log_marginal.notnull().all()
    with pytest.raises(PpvaeError, match="'z' is a Gamma"):
        ppvae.log_marginal(fit, pairs.X, num_samples=10, method="refined", options={"widen": 1.2})


# What it leaves alone, and what it refuses


@pytest.mark.parametrize("which", ["chain", "flow", "rows", "drawn"])
def test_the_world_is_left_alone(which: str, untouched: Untouched) -> None:
    """No weight, also of those that the guide owns, no gradient, no mode and no random state changes."""
    torch.manual_seed(23)
    if which == "drawn":
        fit, x = pairs.fitted(pairs.Coins("drawn"), pairs.X, **drawn("drawn")), pairs.X
    else:
        model = DLGM(6, (2, 2), hidden=8) if which == "chain" else VAE(6, 2, hidden=(8,))
        inference = "per-datapoint" if which == "rows" else "amortized"
        options = {"max_steps": 30} if which == "rows" else {}
        family = "iaf" if which == "flow" else None
        fit, x = binary(model, inference, inference_options=options, family=family), bits(12)
    with untouched(fit.model, fit.strategy):
        ppvae.log_marginal(fit, x, num_samples=20, method="refined", options={"max_steps": 10})


REFUSED: dict[str, dict[str, Any]] = {
    "widen": {"widen": 0},
    "lr": {"lr": -1.0},
    "max_steps": {"max_steps": 0},
    "tolerance": {"tolerance": 0.0},
    "particles": {"particles": 1.5},
    "did you mean 'widen'": {"widening": 1.1},
}


@pytest.mark.parametrize("named", REFUSED)
def test_bad_options_are_refused_in_one_line(named: str) -> None:
    fit = pairs.fitted(pairs.Labelled(), pairs.X)
    with pytest.raises(PpvaeError) as caught:
        ppvae.log_marginal(fit, pairs.X, method="refined", options=REFUSED[named])
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_positions_must_be_of_the_data() -> None:
    fit = pairs.fitted(pairs.Labelled(), pairs.X)
    with pytest.raises(PpvaeError, match="positions must lie in 0 … 2"):
        refine(fit.posterior(pairs.X), pairs.X, positions=torch.tensor([3]))
