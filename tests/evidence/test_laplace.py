"""Laplace's approximation as a proposal: modes, curvatures, and the estimates from them, in float64."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import Curve, Labelled, Prior, Switched, X, by_quadrature, fitted
from torch import Tensor
from torch.autograd.functional import hessian, jacobian

import ppvae
from ppvae import PpvaeError
from ppvae.evidence.newton import best_of, derivatives, modes
from ppvae.models import PPCA, VAE
from ppvae.pair.target import Target

ENDS = {"normal": (-12.0, 12.0), "gamma": (0.0, 60.0), "beta": (0.0, 1.0), "cauchy": (-60.0, 60.0)}


def estimates(model: ppvae.Model, x: Tensor, num_samples: int = 2000, **options: Any) -> Any:
    fit = fitted(model, x.repeat(10, 1)[:30])
    return ppvae.log_marginal(fit, x, method="laplace", num_samples=num_samples, options=options)


def off(found: Any, expected: Tensor) -> np.ndarray:
    """(p̂/p − 1)/se."""
    return (np.exp(found.log_marginal - expected.numpy()) - 1) / found.log_marginal_se


@pytest.mark.parametrize("noise", ["isotropic", "diagonal"])
def test_of_a_linear_gaussian_it_is_the_posterior(noise: Any) -> None:
    """Not widened, all draws weigh p(x), from whatever q; widened by f, ESS/S is (√(2f² − 1)/f²)^D.

    pPCA and factor analysis; the ESS of 4,000 draws within 5%, the spread of weights being known to 2%.
    """
    torch.manual_seed(3)
    model = PPCA(4, 3, noise=noise)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p))
    x = torch.randn(120, 4, dtype=torch.float64)
    fit = fitted(model, x)
    log_p = ppvae.log_marginal(fit, x, method="exact").log_marginal
    tight = ppvae.log_marginal(fit, x, method="laplace", num_samples=30, options={"widen": 1.0})
    np.testing.assert_allclose(tight.log_marginal, log_p, rtol=0, atol=1e-8)
    np.testing.assert_allclose(tight.elbo, log_p, rtol=0, atol=1e-8)
    assert tight.converged.all()
    assert tight.ok.all()
    wide = ppvae.log_marginal(fit, x[:20], method="laplace", num_samples=4000, options={"widen": 1.4})
    np.testing.assert_allclose(wide.ess / 4000, (math.sqrt(2 * 1.4**2 - 1) / 1.4**2) ** 3, rtol=0.05)


@pytest.mark.parametrize("prior", ["normal", "gamma", "beta", "cauchy"])
@pytest.mark.parametrize("tails", [None, 5.0])
def test_estimates_agree_with_quadrature(prior: Prior, tails: float | None) -> None:
    """p̂/p − 1 is 0 within its standard error, where no mode is apart; z = 4.5 over 8 × 3: false alarms < 2e-4."""
    model = Curve(prior, noise=1.5)
    found = estimates(model, X, widen=1.4, tails=tails)
    assert (np.abs(off(found, by_quadrature(model, X, ENDS[prior]))) < 4.5).all()
    assert found.converged.all()


@pytest.mark.parametrize("model", [Switched, Labelled])
def test_discrete_latents_are_summed_out(model: Callable[[], ppvae.Model]) -> None:
    """Also those that the guide enumerates; z = 4.5 over 2 × 3: false alarms < 5e-5."""
    made = model()
    expected = by_quadrature(made, X, (0.0, 1.0)) if isinstance(made, Switched) else Labelled().truth(X)
    found = estimates(made, X, widen=2.0, tails=4.0)
    assert (np.abs(off(found, expected)) < 4.5).all()
    assert (found.log_marginal_se < 0.3).all()


def test_two_dimensions_on_a_simplex_and_beyond() -> None:
    """A latent of two dimensions in three numbers; against exact quadrature, z = 4.5 over 3: false alarms < 3e-5."""

    class Simplex(ppvae.Model):
        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Dirichlet(x.new_tensor([2.0, 3.0, 1.5])))
                pyro.sample("x", dist.Normal(2 * z, 0.4).to_event(1), obs=x)

    fit = fitted(Simplex(), X.repeat(10, 1))
    expected = ppvae.log_marginal(fit, X, method="exact").log_marginal
    found = ppvae.log_marginal(fit, X, method="laplace", num_samples=3000)
    assert (np.abs(off(found, torch.tensor(expected.values))) < 4.5).all()
    assert found.converged.all()
    assert (found.ess > 1500).all()


class Sites(ppvae.Model):
    """Sites of three shapes and supports."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Gamma(x.new_tensor(2.0), 1.0))
            b = pyro.sample("b", dist.Normal(a.unsqueeze(-1) + x.new_zeros(2), 1.0).to_event(1))
            c = pyro.sample("c", dist.Normal(b.unsqueeze(-1).sin() + x.new_zeros(2), 0.7).to_event(2))
            mean = torch.stack([a * b[..., 0], c.sum((-1, -2)), b[..., 1] - c[..., 0, 1]], -1)
            pyro.sample("x", dist.Normal(mean, 0.5).to_event(1), obs=x)


@pytest.mark.parametrize("rows", [1, 4, 9, 1000])
def test_derivatives_are_those_of_each_datum(rows: int) -> None:
    """Value, gradient and Hessian by autograd for each datum alone, however many rows go at once."""
    torch.manual_seed(5)
    target = Target(Sites(), X)
    u = torch.randn(3, 7, dtype=torch.float64)
    value, slope, curvature = derivatives(target, u, X, rows)
    for i in range(3):

        def alone(at: Tensor, i: int = i) -> Tensor:
            return target.log_joint(at[None, None], X[i : i + 1]).squeeze()

        torch.testing.assert_close(value[i], alone(u[i]))
        torch.testing.assert_close(slope[i], jacobian(alone, u[i]))
        torch.testing.assert_close(curvature[i], hessian(alone, u[i]))


def test_modes_are_where_the_gradient_vanishes() -> None:
    """From far starts too; the covariance is −H⁻¹, and each datum's mode is its own."""
    torch.manual_seed(7)
    target = Target(Sites(), X)
    for start in (target.mean.expand(3, -1), 3 * torch.randn(3, 7, dtype=torch.float64)):
        found = modes(target, start, X, 1000)
        _, slope, curvature = derivatives(target, found.u, X, 1000)
        assert found.usable.all()
        assert slope.abs().max() < 1e-4
        tril = found.scale_tril(target)
        torch.testing.assert_close(tril @ tril.mT, torch.linalg.inv(-curvature), rtol=1e-6, atol=1e-9)
        assert (tril.diagonal(dim1=-2, dim2=-1) > 0).all()
        alone = modes(target, start[1:2], X[1:2], 1000)
        torch.testing.assert_close(alone.u, found.u[1:2])


def test_a_start_is_the_best_candidate_that_is_finite() -> None:
    """NaN and infinite candidates are passed over; with none left the last one stands."""
    target = Target(Curve("normal", noise=1.0), X)
    u = torch.tensor([[0.1, math.nan, math.nan], [5.0, 0.5, math.inf], [0.9, math.inf, 0.0]], dtype=torch.float64)
    u = u.unsqueeze(-1)
    density = target.log_joint(u.nan_to_num(0, 0, 0), X)
    with pyro.validation_enabled(False):
        best = best_of(target, u, X)
        last = best_of(target, u.new_full((2, 3, 1), math.nan), X)
    assert best[0, 0] == u[density[:, 0].argmax(), 0, 0]
    assert best[1:, 0].tolist() == [0.5, 0.0]
    assert last.isnan().all()


class Odd(ppvae.Model):
    """z ~ Normal(0, 1), x ~ Normal(0, 1) weighed so that a Gaussian at the mode says nothing.

    Args:
        shape: "kink": by exp(−|z|), without a slope at the mode; "plateau": by exp(z²/2) for |z| < 1.
    """

    def __init__(self, shape: Literal["kink", "plateau"]) -> None:
        super().__init__()
        self.shape = shape

    def weight(self, z: Tensor) -> Tensor:
        return -z.abs() if self.shape == "kink" else 0.5 * z.square() - (z.abs() - 1).relu().square()

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.factor("w", self.weight(z))
            pyro.sample("x", dist.Normal(x.new_zeros(3), 1.0).to_event(1), obs=x)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        at = z.squeeze(-1)
        return dist.Normal(0.0, 1.0).log_prob(at) + self.weight(at) + dist.Normal(0.0, 1.0).log_prob(x).sum()


@pytest.mark.parametrize("shape", ["kink", "plateau"])
def test_curvature_that_is_not_usable_is_said_and_made_up_for(shape: Literal["kink", "plateau"]) -> None:
    """The prior's own stands in: the estimate is right all the same; z = 4.5 over 2 × 3: false alarms < 5e-5."""
    model = Odd(shape)
    found = estimates(model, X, tails=4.0)
    assert not found.converged.any()
    assert (np.abs(off(found, by_quadrature(model, X, (-12.0, 12.0), more=[-1.0, 0.0, 1.0]))) < 4.5).all()
    assert (found.ess > 200).all()


def test_single_precision_finds_modes_too() -> None:
    """A float32 VAE, partly trained: nearly all converge, and ESS is above the encoder's."""
    torch.manual_seed(11)
    x = torch.bernoulli(torch.rand(120, 1).expand(-1, 20))
    data = ppvae.Data("bits", x, x[:4], x[:4], "bernoulli", "binary")
    fit = ppvae.fit(VAE(20, 4, hidden=(16,)), data, epochs=20, lr=0.01, batch_size=20)
    plain = ppvae.log_marginal(fit, x, num_samples=1000)
    found = ppvae.log_marginal(fit, x, num_samples=1000, method="laplace")
    assert found.converged.values.mean() > 0.9
    assert found.ess.median() > max(700, plain.ess.median())
    se = np.hypot(found.log_marginal_se, plain.log_marginal_se)
    both = found.ok.values & plain.ok.values
    assert (np.abs((found.log_marginal - plain.log_marginal) / se)[both] < 5).all()


@pytest.mark.parametrize("method_options", [{}, {"tails": 3.0}], ids=["normal", "t"])
def test_chunks_and_other_data_change_nothing(
    method_options: dict[str, Any], untouched: Callable[..., AbstractContextManager[None]]
) -> None:
    """A datum's numbers depend on its position and the seed; nothing of the pair is changed."""
    torch.manual_seed(13)
    x = X.repeat(40, 1) + 0.1 * torch.randn(120, 3, dtype=torch.float64)
    fit = fitted(Curve(dims=3, noise=1.0), x)
    asked: dict[str, Any] = {"method": "laplace", "num_samples": 30, "options": method_options}
    with untouched(fit.model, fit.strategy):
        whole = ppvae.log_marginal(fit, x, **asked)
    for other in (ppvae.log_marginal(fit, x, chunk_size=7, **asked), ppvae.log_marginal(fit, x[:107], **asked)):
        for name in ("log_marginal", "ess", "converged"):
            np.testing.assert_allclose(other[name], whole[name][: other.sizes["datum"]], rtol=1e-6, err_msg=name)
    assert (ppvae.log_marginal(fit, x, seed=1, **asked).log_marginal != whole.log_marginal).all()


@pytest.mark.parametrize(
    "named", [("widen", {"widen": 0.0}), ("tails", {"tails": -1}), ("laplace", {"widden": 1.1})], ids=lambda n: n[0]
)
def test_bad_options_are_refused_in_one_line(named: tuple[str, dict[str, Any]]) -> None:
    fit = fitted(Curve(), X.repeat(10, 1))
    with pytest.raises(PpvaeError, match=named[0]) as caught:
        ppvae.log_marginal(fit, X, method="laplace", options=named[1])
    assert "\n" not in str(caught.value)
