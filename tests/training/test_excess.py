"""Bounds that are too high to be bounds: their causes are mended, and what remains stops training."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.distributions import biject_to

import ppvae
from ppvae import Local
from ppvae.distributions.triangular_normal import TriangularNormal
from ppvae.errors import NonFiniteError
from ppvae.pair.bijections import bijection_onto
from ppvae.pair.local import Phi

WORDS = 12


class Topics(ppvae.Model):
    """t ~ Dirichlet(a, a, a), x ~ Multinomial(30, t B): its density is infinite at the border of the simplex."""

    def __init__(self, concentration: float) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.randn(3, WORDS))
        self.concentration = concentration

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            t: Any = pyro.sample("t", dist.Dirichlet(self.concentration * x.new_ones(3)))
            pyro.sample("x", dist.Multinomial(30, t @ self.beta.softmax(-1), validate_args=False), obs=x)


def counts(concentration: float) -> ppvae.Data:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        beta = dist.Dirichlet(torch.full((3, WORDS), 0.3)).sample()
        t = dist.Dirichlet(torch.full((3,), concentration)).sample(torch.Size([200]))
        x = dist.Multinomial(30, t @ beta).sample()
    return ppvae.Data("words", x[:140], x[140:170], x[170:], "gaussian", "real")


def seeded_model(make: Any, seed: int) -> ppvae.Model:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


@pytest.mark.parametrize("family", ["mean-field", "full-covariance"])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("concentration", [0.1, 0.3])
def test_bounds_of_topics_are_bounds(concentration: float, seed: int, family: str) -> None:
    """log p of counts is at most 0; these eight runs once ended in NaN or reported up to +5e10."""
    model = seeded_model(lambda: Topics(concentration), seed)
    settings: dict[str, Any] = {"epochs": 20, "batch_size": 20, "lr": 1e-2, "seed": seed, "family": family}
    fit = ppvae.fit(model, counts(concentration), **settings)
    bounds = [entry[name] for entry in fit.history for name in ("train_bound", "valid_bound")]
    assert max(bounds) < -10
    assert all(map(math.isfinite, bounds))


class Sources(ppvae.Model):
    """z ~ Student t, x ~ Normal(z W, s): the encoder meets data many deviations from the others."""

    def __init__(self, df: float) -> None:
        super().__init__()
        self.weight, self.log_scale, self.df = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.zeros(())), df

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z: Any = pyro.sample("z", dist.StudentT(self.df, x.new_zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight, self.log_scale.exp()).to_event(1), obs=x)


@pytest.mark.parametrize("family", ["mean-field", "full-covariance"])
@pytest.mark.parametrize("df", [1.0, 2.0, 3.0])
def test_sources_of_heavy_tails_train(df: float, family: str) -> None:
    """All six once stopped at a NaN within 50 steps."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = dist.StudentT(df, torch.zeros(3), 1.0).sample(torch.Size([300])) @ torch.randn(3, 4)
        x = x + 0.3 * torch.randn(300, 4)
    data = ppvae.Data("sources", x[:200], x[200:250], x[250:], "gaussian", "real")
    fit = ppvae.fit(seeded_model(lambda: Sources(df), 0), data, epochs=10, batch_size=20, lr=1e-2, family=family)
    bounds = [entry["train_bound"] for entry in fit.history]
    assert all(map(math.isfinite, bounds))
    assert max(bounds) < 0  # four coordinates of deviations above 1, whatever θ


# What training refuses


class TooLow(dist.Normal):
    """A density of q that is 100 nats too low, as rounding makes it."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) - 100


class Bits(ppvae.Model):
    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(3))
        self.phi = {"loc": Local(torch.zeros(()))}

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Bernoulli(logits=self.logits).to_event(1), obs=x)

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", TooLow(phi["loc"], 1.0))


def test_a_bound_of_discrete_data_above_any_noise_stops_training() -> None:
    """A weight above e⁴⁰ has a probability below e⁻⁴⁰; the message names step, site and the way out."""
    x = torch.randint(0, 2, (40, 3), generator=torch.Generator().manual_seed(0)).float()
    data = ppvae.Data("bits", x, x[:5], x[:5], "bernoulli", "binary")
    for objective, kl in (("elbo", "mc"), ("iwae", None)):
        with pytest.raises(NonFiniteError, match=r"step 0: .* at most 0: site q\(z\) .*64-true"):
            ppvae.fit(Bits(), data, epochs=1, objective=objective, kl=kl, num_particles=2)


class Known(Bits):
    """A density whose exact log p(x) the model knows: real x."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(self.logits, 1.0).to_event(1), obs=x)

    def log_prob(self, x: Tensor) -> Tensor:
        return dist.Normal(self.logits, 1.0).to_event(1).log_prob(x)


def test_a_bound_above_the_exact_log_p_stops_training() -> None:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    data = ppvae.Data("rows", x, x[:5], x[:5], "gaussian", "real")
    with pytest.raises(NonFiniteError, match=r"validation at step 1: .* site q\(z\)"):
        ppvae.fit(Known(), data, epochs=1, kl="mc")


# The causes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bijections_keep_away_from_the_border(dtype: torch.dtype) -> None:
    """Densities and their gradients are finite there; inside, they are torch's."""
    for support in (constraints.positive, constraints.simplex, constraints.independent(constraints.positive, 1)):
        ours, theirs = bijection_onto(support), biject_to(support)
        for far in (1.0, 1e3):
            u = (far * torch.linspace(-1, 1, 5, dtype=dtype)).requires_grad_()
            y = ours(u)
            prior: Any = dist.Dirichlet(torch.full_like(y, 0.1))
            if support is not constraints.simplex:
                prior = dist.Gamma(torch.full_like(y, 0.1), 1e-3).to_event(1)
            log_det = ours.log_abs_det_jacobian(u, y)
            total = prior.log_prob(y) + (log_det if log_det.dim() == 0 else log_det.sum())
            (gradient,) = torch.autograd.grad(total, u)
            assert total.isfinite()
            assert gradient.isfinite().all()
            if far == 1:
                torch.testing.assert_close(y, theirs(u))
                torch.testing.assert_close(log_det, theirs.log_abs_det_jacobian(u, theirs(u)))


@pytest.mark.parametrize("path", [False, True])
def test_a_triangular_normal_scores_its_own_draw(path: bool) -> None:
    """Value and gradient are those of a MultivariateNormal in double precision, also along the path of the draw."""
    g = torch.Generator().manual_seed(0)
    loc = torch.randn(5, 3, generator=g, dtype=torch.float64).requires_grad_()
    raw = torch.randn(5, 3, 3, generator=g, dtype=torch.float64).requires_grad_()
    tril = raw.tril(-1) + torch.diag_embed(raw.diagonal(dim1=-2, dim2=-1).exp())
    ours = TriangularNormal(loc, tril)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        z = ours.rsample(torch.Size([4]))
    theirs = dist.MultivariateNormal(loc, scale_tril=tril)
    if path:
        drew, ours = ours, TriangularNormal(loc.detach(), tril.detach())
        ours.remind(drew)
        theirs = dist.MultivariateNormal(loc.detach(), scale_tril=tril.detach())
    values = [fn.log_prob(z).sum() for fn in (ours, theirs)]
    torch.testing.assert_close(*values)
    (a, b), (c, d) = (torch.autograd.grad(value, [loc, raw], retain_graph=True, allow_unused=True) for value in values)
    torch.testing.assert_close(torch.zeros_like(loc) if a is None else a, c, atol=1e-10, rtol=1e-8)
    torch.testing.assert_close(b, d, atol=1e-10, rtol=1e-8)
