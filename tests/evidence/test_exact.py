"""log p(x) without draws: sums over values, Gaussian integrals and quadrature against closed forms, in float64."""

import itertools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import Coins, Curve, Labelled, Switched, X, by_quadrature, fitted
from torch import Tensor, nn

import ppvae
from ppvae import PpvaeError
from ppvae.models import GMM, PPCA
from ppvae.pair.local import Phi


def exact(model: ppvae.Model, x: Tensor, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """log p(x) and the error that it comes with."""
    estimates = ppvae.log_marginal(fitted(model, x.repeat(10, 1)[:30]), x, method="exact", **options)
    assert estimates.ok.all()
    assert np.isnan(estimates.ess).all()
    return estimates.log_marginal.values, estimates.log_marginal_se.values


def close(found: tuple[np.ndarray, np.ndarray], expected: Tensor, atol: float = 1e-8) -> None:
    """The value is right to atol, and its error no smaller than it claims, but for what the expectation is off by."""
    value, error = found
    off = np.abs(value - expected.detach().numpy())
    assert off.max() < atol
    assert (off <= error + 1e-9).all()
    assert error.max() < atol


class Layers(ppvae.Model):
    """b ~ Normal(m, L Lᵀ) [2]; a ~ Normal(b₀ + 1, 0.5) []; x [3] ~ Normal(W (a, b) + c, noise): linear Gaussian."""

    def __init__(self, noise: float = 0.3) -> None:
        super().__init__()
        self.noise = noise
        self.weight, self.shift = nn.Parameter(torch.randn(3, 3)), nn.Parameter(torch.randn(3))

    def model(self, x: Tensor) -> None:
        loc, tril = x.new_tensor([1.0, -1.0]), x.new_tensor([[1.0, 0.0], [0.8, 0.3]])
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.MultivariateNormal(loc, scale_tril=tril))
            a = pyro.sample("a", dist.Normal(b[..., 0] + 1, 0.5))
            mean = torch.cat([a.unsqueeze(-1), b], -1) @ self.weight.mT + self.shift
            pyro.sample("x", dist.Normal(mean, self.noise).to_event(1), obs=x)

    def truth(self, x: Tensor) -> Tensor:
        tril = x.new_tensor([[1.0, 0.0], [0.8, 0.3]])
        joint = torch.cat([tril[:1], tril])  # a, b by the noise of b
        covariance = joint @ joint.mT + torch.diag(x.new_tensor([0.25, 0.0, 0.0]))
        covariance = self.weight @ covariance @ self.weight.mT + self.noise**2 * torch.eye(3).to(x)
        mean = self.weight @ x.new_tensor([2.0, 1.0, -1.0]) + self.shift
        return dist.MultivariateNormal(mean, covariance).log_prob(x)


@pytest.mark.parametrize("noise", [1.0, 0.01])
def test_linear_gaussian_is_integrated_in_closed_form(noise: float) -> None:
    """Three latents in two sites: more than quadrature takes, so the Gaussian integral it is."""
    torch.manual_seed(3)
    model = Layers(noise)
    fit = fitted(model, X.repeat(10, 1))
    estimates = ppvae.log_marginal(fit, X, method="exact")
    assert isinstance(fit.model, Layers)
    close((estimates.log_marginal.values, estimates.log_marginal_se.values), fit.model.truth(X))


def test_what_is_not_linear_is_refused_in_many_dimensions() -> None:
    """Where log p(x, u) is not quadratic for all data the error says what remains."""
    with pytest.raises(
        PpvaeError, match=r"Curve has no exact log_prob.* not linear Gaussian.* 3: use method="
    ) as caught:
        exact(Curve(dims=3), X)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["enumerated", "summed", "drawn"])
def test_finitely_many_values_are_summed_over(how: Literal["enumerated", "summed", "drawn"]) -> None:
    """Whatever the guide does with them, marked or not; in float32's sums too."""
    options = {"gradient": "score"} if how == "drawn" else {}
    fit = fitted(Coins(how), X.repeat(10, 1), **options)
    for chunk_size in (1, 2000):
        estimates = ppvae.log_marginal(fit, X, method="exact", chunk_size=chunk_size)
        assert isinstance(fit.model, Coins)
        np.testing.assert_allclose(estimates.log_marginal, fit.model.truth(X).detach(), rtol=0, atol=1e-12)
        assert (estimates.log_marginal_se == 0).all()


class Unlisted(ppvae.Model):
    """A count latent, whose values have no end, or a vector of bits, which has no list; drawn by the guide."""

    def __init__(self, latent: Literal["count", "bits"]) -> None:
        super().__init__()
        self.latent = latent
        self.phi = {"rate": ppvae.Local(torch.ones(3), dist.constraints.softplus_positive)}

    def model(self, x: Tensor) -> None:
        prior = dist.Poisson(x.new_ones(3)) if self.latent == "count" else dist.Bernoulli(x.new_full((3,), 0.3))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior.to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, phi: Phi) -> None:
        rate = phi["rate"]
        q = dist.Poisson(rate) if self.latent == "count" else dist.Bernoulli(rate / (1 + rate))
        with pyro.plate("data", len(x)):
            pyro.sample("z", q.to_event(1))


@pytest.mark.parametrize("latent", ["count", "bits"])
def test_values_without_a_list_are_refused(latent: Literal["count", "bits"]) -> None:
    fit = fitted(Unlisted(latent), X.repeat(10, 1), gradient="score")
    with pytest.raises(PpvaeError, match=r"latent 'z' .* no list of values .* use method=") as caught:
        ppvae.log_marginal(fit, X, method="exact")
    assert "\n" not in str(caught.value)


def test_the_models_own_log_prob_comes_first() -> None:
    """Also where a sum or an integral would do."""
    torch.manual_seed(5)
    for model in (PPCA(3, 2), GMM(3, 2)):
        value, error = exact(model, X)
        assert (error == 0).all()
        assert np.isfinite(value).all()


# quadrature

ENDS = {
    "normal": (-12.0, 12.0),
    "gamma": (0.0, 12.0),
    "beta": (0.0, 1.0),
    "cauchy": (-12.0, 12.0),
    "uniform": (-1.0, 2.0),
}


@pytest.mark.parametrize("noise", [1.0, 0.1, 0.003])
@pytest.mark.parametrize("prior", ENDS)
def test_quadrature_over_one_latent(prior: Any, noise: float) -> None:
    """Any support, posteriors as wide as the prior and hundreds of times as narrow: within 1e-8 nats of scipy's."""
    model = Curve(prior, noise=noise)
    x = torch.cat([X, model.of_x(X[:, :1].sigmoid()).mean])  # far from all the model makes, and on its curve
    close(exact(model, x), by_quadrature(model, x, ENDS[prior], pieces=400))


class Square(ppvae.Model):
    """z ~ Normal(0.3, 1); x ~ Normal(z², noise): two modes, far apart in units of their widths."""

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.noise = noise

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_tensor(0.3), 1.0))
            pyro.sample("x", dist.Normal(z.square().unsqueeze(-1), self.noise).to_event(1), obs=x)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        prior = dist.Normal(x.new_tensor(0.3), 1.0)
        return (prior.log_prob(z) + dist.Normal(z.square(), self.noise).log_prob(x)).squeeze(-1)


@pytest.mark.parametrize("noise", [0.5, 0.01, 1e-4])
def test_quadrature_finds_both_modes(noise: float) -> None:
    """Modes at ±√x and, where x ≤ 0, one; widths down to 1e-4 of their distance."""
    model = Square(noise)
    x = torch.tensor([[1.7], [0.5], [4.0], [1e-3], [-3 * noise]], dtype=torch.float64)
    width = noise * torch.tensor([-100.0, -10.0, 0.0, 10.0, 100.0])
    cuts = torch.cat([-x.abs().sqrt() + width, x.abs().sqrt() + width])
    expected = by_quadrature(model, x, (-12.0, 12.0), pieces=200, more=cuts.flatten().tolist())
    close(exact(model, x), expected)


class Waves(ppvae.Model):
    """z ~ Normal(0, 1); x ~ Normal(sin 4z, 0.02): modes in every wave."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal((4 * z).sin().unsqueeze(-1), 0.02).to_event(1), obs=x)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        return (dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal((4 * z).sin(), 0.02).log_prob(x)).squeeze(-1)


def test_quadrature_finds_many_modes() -> None:
    x = torch.linspace(-1, 1, 9, dtype=torch.float64).unsqueeze(-1)
    close(exact(Waves(), x), by_quadrature(Waves(), x, (-9.0, 9.0), pieces=2000))


class Conjugate(ppvae.Model):
    """Pairs with a closed form: heavy tails, a positive latent, a simplex.

    Args:
        kind: "cauchy": z and x − z ~ Cauchy; "gamma": x ~ Poisson(z); "dirichlet": x of 3 categories, counted.
    """

    def __init__(self, kind: Literal["cauchy", "gamma", "dirichlet"]) -> None:
        super().__init__()
        self.kind = kind

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            if self.kind == "cauchy":
                z = pyro.sample("z", dist.Cauchy(x.new_zeros(()), 1.0))
                pyro.sample("x", dist.Cauchy(z.unsqueeze(-1), 1.0).to_event(1), obs=x)
            elif self.kind == "gamma":
                z = pyro.sample("z", dist.Gamma(x.new_tensor(0.7), 2.0))
                pyro.sample("x", dist.Poisson(z.unsqueeze(-1)).to_event(1), obs=x)
            else:
                z = pyro.sample("z", dist.Dirichlet(x.new_tensor([0.6, 1.0, 2.5])))
                pyro.sample("x", dist.Multinomial(12, z), obs=x)

    def truth(self, x: Tensor) -> Tensor:
        if self.kind == "cauchy":
            return dist.Cauchy(x.new_zeros(()), 2.0).log_prob(x).squeeze(-1)
        if self.kind == "gamma":
            return dist.GammaPoisson(x.new_tensor(0.7), x.new_tensor(2.0)).log_prob(x).squeeze(-1)
        return dist.DirichletMultinomial(x.new_tensor([0.6, 1.0, 2.5]), 12).log_prob(x)


DATA = {
    "cauchy": [[0.0], [3.0], [-100.0]],
    "gamma": [[0.0], [3.0], [40.0]],
    "dirichlet": [[12.0, 0.0, 0.0], [3.0, 5.0, 4.0], [0.0, 1.0, 11.0]],
}


@pytest.mark.parametrize("kind", DATA)
def test_quadrature_meets_conjugate_pairs(kind: Literal["cauchy", "gamma", "dirichlet"]) -> None:
    """Tails as heavy as Cauchy's, a density infinite at 0, and a simplex, which has two dimensions."""
    x = torch.tensor(DATA[kind], dtype=torch.float64)
    close(exact(Conjugate(kind), x), Conjugate(kind).truth(x))


@pytest.mark.parametrize("noise", [1.0, 0.1])
def test_quadrature_over_two_latents(noise: float) -> None:
    """Against a fine lattice, on which sums of a smooth density that vanishes at the ends converge exponentially."""
    model = Curve(dims=2, noise=noise)
    grid = torch.linspace(-7, 7, 1401, dtype=torch.float64)
    z = torch.cartesian_prod(grid, grid)
    prior = model.of_z(X).log_prob(z)
    expected = [(prior + model.of_x(z).log_prob(x)).logsumexp(0) + 2 * math.log(14 / 1400) for x in X]
    close(exact(model, X), torch.stack(expected))


def test_quadrature_sums_out_discrete_latents() -> None:
    """The model sums k out, whether the guide knows k or not."""
    close(exact(Switched(), X), by_quadrature(Switched(), X, (0.0, 1.0)))
    close(exact(Labelled(), X), Labelled().truth(X))


@pytest.mark.parametrize("smooth", [True, False])
def test_all_of_a_binary_space_adds_up_to_one(smooth: bool) -> None:
    """Σ_x p(x) = 1 over the 8 x in {0, 1}³, two latents behind a network.

    Kinks of a network with ReLU leave an error, which is said, unless the tolerance is met before.
    """
    torch.manual_seed(7)
    x = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh() if smooth else nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(3)
    data = ppvae.Data("bits", x, x, x, "bernoulli", "binary")
    fit = ppvae.fit(Bits(net), data, steps=1, precision="64-true")
    tolerance = 1e-8 if smooth else 1e-4
    estimates = ppvae.log_marginal(fit, x, method="exact", options={"tolerance": tolerance})
    p = np.exp(estimates.log_marginal.values)
    assert abs(p.sum() - 1) < tolerance
    assert estimates.log_marginal_se.max() < tolerance
    assert p.max() > 4 * p.min()


class Bits(ppvae.Model):
    """z [2] ~ Normal(0, I); x ~ Bernoulli(logits = net(z))."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.net(z)).to_event(1), obs=x)


def test_single_precision_is_said_in_the_error() -> None:
    """A float32 pair is as exact as its densities are, and no more is claimed."""
    model = Curve(noise=0.1)
    fit = fitted(model, X.repeat(10, 1), precision="32-true")
    estimates = ppvae.log_marginal(fit, X, method="exact")
    off = np.abs(estimates.log_marginal.values - by_quadrature(model, X, (-12.0, 12.0)).numpy())
    assert (off <= estimates.log_marginal_se + 1e-9).all()
    assert (estimates.log_marginal_se < 1e-3).all()


@pytest.mark.parametrize("model", [Curve("gamma"), Layers(), Coins("summed")], ids=lambda m: type(m).__name__)
def test_exact_values_are_of_the_datum_alone(
    model: ppvae.Model, untouched: Callable[..., AbstractContextManager[None]]
) -> None:
    """Chunks, the data that follow and the seed change nothing, and nothing is changed."""
    torch.manual_seed(11)
    x = X.repeat(40, 1) + 0.1 * torch.randn(120, 3, dtype=torch.float64)
    fit = fitted(model, x)
    with untouched(fit.model, fit.strategy):
        whole = ppvae.log_marginal(fit, x, method="exact")
    for other in (
        ppvae.log_marginal(fit, x, method="exact", chunk_size=37, seed=3),
        ppvae.log_marginal(fit, x[:2], method="exact"),
    ):
        size = other.sizes["datum"]
        np.testing.assert_allclose(other.log_marginal, whole.log_marginal[:size], rtol=0, atol=1e-10)
