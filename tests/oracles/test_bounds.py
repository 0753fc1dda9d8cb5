"""Bounds and estimates of log p(x) against closed forms, quadrature and sums over all x, in float64."""

import itertools
import math
from typing import Literal, cast

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MultivariateNormal, kl_divergence

import ppvae
from ppvae import Local, Posterior, log_densities
from ppvae.models import DLGM, GMM, PPCA, VAE
from ppvae.pair.densities import Densities
from ppvae.pair.local import Phi
from ppvae.variational.objectives.elbo import elbo

Noise = Literal["isotropic", "diagonal"]
both_noises = pytest.mark.parametrize("noise", ["isotropic", "diagonal"])  # pPCA, factor analysis


def linear_gaussian(noise: Noise, batch: int = 10) -> tuple[PPCA, Tensor]:
    """pPCA or factor analysis with parameters of order one, and data about as wide as its own."""
    torch.manual_seed(3)
    model = cast(PPCA, PPCA(5, 2, noise=noise).double())
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p))
        x = 1.5 * torch.randn(batch, 5, dtype=torch.float64) + model.bias
    return model, x


def z_of_mean(draws: Tensor, expected: Tensor | float = 0.0) -> Tensor:
    """(mean − expected) / se over dim 0, with the standard error of the draws themselves."""
    return (draws.mean(0) - expected) / (draws.std(0) / math.sqrt(len(draws)))


@both_noises
def test_linear_gaussian_log_prob_is_the_multivariate_normal(noise: Noise) -> None:
    """log_prob(x) = log Normal(x; b, WWᵀ + Ψ), its covariance written out."""
    model, x = linear_gaussian(noise)
    covariance = model.weight @ model.weight.mT + model.noise_scale().square().expand(5).diag()
    expected = MultivariateNormal(model.bias, covariance).log_prob(x)
    torch.testing.assert_close(model.log_prob(x), expected, rtol=0, atol=1e-8)


@both_noises
def test_linear_gaussian_bound_is_tight_at_the_posterior(noise: Noise) -> None:
    """q = p(z | x): every single draw weighs p(x), and the ELBO is log p(x)."""
    model, x = linear_gaussian(noise)
    densities = log_densities(model, Posterior(model, model.exact_phi(x)), x, 7)
    torch.testing.assert_close(densities.log_ratio, model.log_prob(x).expand(7, -1), rtol=0, atol=1e-8)
    torch.testing.assert_close(elbo(densities), model.log_prob(x), rtol=0, atol=1e-8)


@both_noises
@pytest.mark.parametrize("unit", [1e-2, 1.0, 1e4])
def test_linear_gaussian_starts_in_the_units_of_the_data(noise: Noise, unit: float) -> None:
    """`start` puts bias and noise at the data's mean and spread, in whatever units these come."""
    torch.manual_seed(4)
    x = unit * torch.randn(200, 3)
    model = cast(PPCA, PPCA(3, 1, noise=noise))
    model.start(x)
    spread = x.std(0, correction=0)
    expected = spread if noise == "diagonal" else spread.square().mean().sqrt()[None]
    torch.testing.assert_close(model.noise_scale(), (1 + model.min_scale) * expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(model.mean(), x.mean(0))
    assert model.log_prob(x).isfinite().all()


@both_noises
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_importance_estimate_from_a_wrong_posterior_is_right(noise: Noise, shift: float) -> None:
    """p̂/p − 1 is 0 within its standard error where q is widened 1.5 times (and moved): its weights are bounded.

    z = 4.5 over 4 × 10 comparisons: false alarms < 3e-4.
    """
    model, x = linear_gaussian(noise)
    phi = {name: value.detach() for name, value in model.exact_phi(x).items()}
    spread = 1.5 * phi["scale_tril"]
    loc = phi["loc"] + shift * spread.sum(-1)
    torch.manual_seed(5)
    with torch.no_grad():
        densities = log_densities(model, Posterior(model, {"loc": loc, "scale_tril": spread}), x, 20_000)
        ratio = (densities.log_ratio - model.log_prob(x)).exp()
    assert (z_of_mean(ratio, 1.0).abs() < 4.5).all()
    assert ratio.std(0).min() > 0.1  # the draws do weigh differently


@both_noises
def test_analytic_kl_is_what_the_draws_average(noise: Noise) -> None:
    """KL(q ‖ p) in closed form = mean of log q − log p over draws; z = 4.5 over 2 × 10: false alarms < 2e-4."""
    model, x = linear_gaussian(noise)
    phi = {name: 1.3 * value.detach() for name, value in model.exact_phi(x).items()}
    torch.manual_seed(7)
    densities = log_densities(model, Posterior(model, phi), x, 20_000)
    prior = MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    expected = kl_divergence(MultivariateNormal(phi["loc"], scale_tril=phi["scale_tril"]), prior)
    torch.testing.assert_close(densities.kl(), expected.expand(20_000, -1))
    integrated = densities.log_likelihood.mean(0) - expected
    torch.testing.assert_close(elbo(densities, kl="analytic"), integrated, rtol=0, atol=1e-8)
    assert (z_of_mean(densities.log_q - densities.log_prior, expected).abs() < 4.5).all()


@pytest.mark.parametrize("family", ["factorised", "chain"])
def test_analytic_kl_of_two_layers_is_what_the_draws_average(family: Literal["factorised", "chain"]) -> None:
    """Layers in the model's order integrate site by site given the layer above, a bottom-up chain where it may.

    The two estimates share their draws, so their difference is tested; z = 4.5 over 2 × 6: false alarms < 1e-4.
    """
    torch.manual_seed(11)
    model = DLGM(3, (2, 2), hidden=8, likelihood="gaussian", family=family).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    rows = torch.randn(6, model.layout().width, dtype=torch.float64)
    with torch.no_grad():
        densities = log_densities(model, Posterior(model, model.layout().unpack(rows)), x, 20_000)
    difference = densities.kl() - (densities.log_q - densities.log_prior)
    assert (z_of_mean(difference).abs() < 4.5).all()
    assert difference.std(0).max() > 0.01  # something was integrated
    assert densities.kl().std(0).max() > 0.01  # and not all of it: the lower layer's depends on the upper


def test_analytic_kl_leaves_alone_what_it_cannot_integrate() -> None:
    """z₂ → z₁ → x against a guide from z₁ up to z₂: p(z₁ | z₂) has no closed KL from q(z₁), though both are Normal.

    The two estimates share their draws; z = 4.5 over 4 data: false alarms < 3e-5.
    """
    x = torch.randn(4, dtype=torch.float64)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(()), 1.0))
            z1 = pyro.sample("z1", dist.Normal(1.5 * z2, 0.5))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(0.7 * x, 0.9))
            pyro.sample("z2", dist.Normal(0.4 * z1, 0.8))

    torch.manual_seed(12)
    densities = log_densities(model, guide, x, 20_000)
    difference = densities.kl() - (densities.log_q - densities.log_prior)
    assert (z_of_mean(difference).abs() < 4.5).all()
    torch.testing.assert_close(
        difference,
        kl_divergence(dist.Normal(0.4 * densities.values["z1"], 0.8), dist.Normal(0.0, 1.0))
        - (densities.site_log_q["z2"] - densities.site_log_prob["z2"]),
    )


class Curved(ppvae.Model):
    """z ~ Normal(0, 1); x [3] about (sin 2z, z² − 1, z), or Bernoulli with these as logits."""

    def __init__(self, kind: Literal["gaussian", "bernoulli"]) -> None:
        super().__init__()
        self.kind = kind
        self.phi = {"loc": Local(torch.zeros(())), "scale": Local(torch.ones(()), dist.constraints.positive)}

    def observation(self, z: Tensor) -> dist.TorchDistribution:
        curve = torch.stack([(2 * z).sin(), z**2 - 1, z], -1)
        return dist.Normal(curve, 0.7) if self.kind == "gaussian" else dist.Bernoulli(logits=curve)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", self.observation(z).to_event(1), obs=x)

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(phi["loc"], phi["scale"]))


@pytest.mark.parametrize("kind", ["gaussian", "bernoulli"])
def test_nonlinear_model_agrees_with_quadrature(kind: Literal["gaussian", "bernoulli"]) -> None:
    """log p(x), and the ELBO of a given Gaussian q, by a sum over 24,001 points of z.

    q is wider than the prior, so weights are bounded. z = 4.5 over 2 × 2 × 8 comparisons: false alarms < 3e-4.
    """
    model = cast(Curved, Curved(kind))
    x = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    loc, scale = torch.linspace(-0.5, 0.5, 8).double(), torch.linspace(1.1, 1.5, 8).double()
    grid = torch.linspace(-12, 12, 24_001, dtype=torch.float64)[:, None]
    log_step = math.log(24 / 24_000)
    log_joint = dist.Normal(0.0, 1.0).log_prob(grid) + model.observation(grid.expand(-1, 8)).log_prob(x).sum(-1)
    log_q = dist.Normal(loc, scale).log_prob(grid)
    log_p = log_joint.logsumexp(0) + log_step
    bound = ((log_q + log_step).exp() * (log_joint - log_q)).sum(0)

    torch.manual_seed(13)
    densities = log_densities(model, Posterior(model, {"loc": loc, "scale": scale}), x, 20_000)
    assert (z_of_mean((densities.log_ratio - log_p).exp(), 1.0).abs() < 4.5).all()
    assert (z_of_mean(densities.log_ratio, bound).abs() < 4.5).all()


@pytest.mark.parametrize("inference", ["amortized", "per-datapoint"])
def test_estimates_over_a_whole_binary_space_sum_to_one(inference: str) -> None:
    """Σ_x p̂(x) = 1 over all 16 x in {0, 1}⁴, by log_marginal; z = 4.5, 2 comparisons: false alarms < 2e-5."""
    torch.manual_seed(17)
    model = VAE(4, 2, hidden=(8,))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)  # far from the uniform distribution
    rows = torch.bernoulli(torch.full((64, 4), 0.3))
    data = ppvae.Data("bits", rows, rows[:8], rows[:8], "bernoulli", "binary")
    options = {"max_steps": 50} if inference == "per-datapoint" else {}
    fit = ppvae.fit(model, data, inference, inference_options=options, epochs=3)
    x = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)))
    estimates = ppvae.log_marginal(fit, x, num_samples=4000)
    p = np.exp(estimates.log_marginal.values)
    se = math.sqrt(np.square(p * estimates.log_marginal_se.values).sum())
    assert abs(p.sum() - 1) < 4.5 * se
    assert se < 0.01
    assert p.max() > 4 * p.min()  # not sixteen times 1/16


SMALL = {
    "ppca": lambda: PPCA(3, 1),
    "factor analysis": lambda: PPCA(3, 1, noise="diagonal"),
    "gmm": lambda: GMM(3, 2),
}


def gap(model: PPCA | GMM, posterior: Posterior, x: Tensor) -> Tensor:
    """KL(q ‖ p(z | x)) in closed form, [B]."""
    true, phi = model.exact_phi(x), posterior.phi
    if isinstance(model, GMM):
        return kl_divergence(Categorical(logits=phi["logits"]), Categorical(logits=true["logits"]))
    q, p = (MultivariateNormal(f["loc"], scale_tril=f["scale_tril"]) for f in (phi, true))
    return kl_divergence(q, p)


@pytest.fixture(scope="module", params=itertools.product(SMALL, ["amortized", "per-datapoint"]), ids="-".join)
def minibatches(request: pytest.FixtureRequest) -> list[tuple[Densities, Tensor, Tensor]]:
    """For each minibatch of a hardly trained pair: 800 draws, log p(x) and the gap of q, each per datum."""
    name, inference = request.param
    torch.manual_seed(19)
    x = torch.randn(50, 3) @ torch.randn(3, 3)
    data = ppvae.Data("cloud", x, x[:2], x[:2], "gaussian", "real")
    model = SMALL[name]()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(10)  # posteriors far from the prior, where q starts
    fit = ppvae.fit(model, data, inference, batch_size=20, lr=0.005, epochs=3, precision="64-true")
    torch.manual_seed(23)
    x, out = x.double(), []
    with torch.no_grad():
        for index in torch.arange(50).split(20):
            rows = index if inference == "per-datapoint" else None
            posterior = fit.posterior(x[index], rows)
            assert isinstance(fit.model, (PPCA, GMM))
            densities = log_densities(fit.model, posterior, x[index], 800)
            out.append((densities, fit.model.log_prob(x[index]), gap(fit.model, posterior, x[index])))
    return out


def test_bound_of_a_minibatch_is_log_p_less_the_gap(minibatches: list[tuple[Densities, Tensor, Tensor]]) -> None:
    """L[q] = log p(x) − KL(q ‖ p(z | x)) for the mean over each minibatch, so never above log p(x).

    z = 4.5 over 4 × 3 sampled and 2 × 3 enumerated minibatches: false alarms < 2e-4.
    """
    for densities, log_p, kl in minibatches:
        expected = (log_p - kl).mean()
        assert kl.mean() > 1e-3  # hardly trained: there is a gap to get wrong
        if densities.enumerated:
            torch.testing.assert_close(elbo(densities).mean(), expected, rtol=0, atol=1e-8)
            continue
        draws = densities.log_ratio.mean(-1)
        integrated = (densities.log_likelihood - densities.kl()).mean(-1)
        assert z_of_mean(draws, expected).abs() < 4.5
        assert z_of_mean(integrated, expected).abs() < 4.5


def test_no_bound_of_a_minibatch_exceeds_log_p(minibatches: list[tuple[Densities, Tensor, Tensor]]) -> None:
    """E[L_K] ≤ log p(x) for K = 1 and 8, on average over each minibatch; N/B enters nowhere.

    One-sided z = 4.5 over 2 × 12 sampled minibatches: false alarms < 1e-4; enumerated ones are exact.
    """
    for densities, log_p, _ in minibatches:
        if densities.enumerated:
            assert elbo(densities).mean() <= log_p.mean()
            continue
        for k in (1, 8):
            bounds = densities.log_ratio.unflatten(0, (-1, k)).logsumexp(1) - math.log(k)
            assert z_of_mean(bounds.mean(-1), log_p.mean()) < 4.5
