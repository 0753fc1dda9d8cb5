"""Families for any model: their densities against the joint distributions they stand for, and what they gain."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from checks import refusal
from pyro.distributions import (
    Beta,
    Dirichlet,
    Gamma,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    Poisson,
    constraints,
)
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, kl_divergence

import ppvae
from ppvae.catalogue import FAMILIES
from ppvae.pair.densities import Densities
from ppvae.pair.guide_family import set_family
from ppvae.pair.posterior import Posterior
from ppvae.pair.sites import Grad

SMALL: dict[str, dict[str, Any]] = {
    "low-rank": {"rank": 2},
    "mixture": {"num_components": 3},
    "iaf": {"context": 2, "hidden": (4,), "transforms": 1},
    "spline": {"context": 2, "hidden": (4,), "transforms": 1},
}
#: those for latents of any support; what is made of the model's own priors has tests of its own
ANY_SUPPORT: list[str] = [name for name in FAMILIES if not FAMILIES[name].uses_model]


class Two(ppvae.Model):
    """A vector and a scalar, both real: the unconstrained value is the value."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, 0.5], [-0.3, 0.8]], dtype=torch.float64))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", Normal(x.new_zeros(2), 1.5).to_event(1))
            b = pyro.sample("b", Normal(0.3 * a.sum(-1), 0.9))
            pyro.sample("x", Normal(a @ self.weight + b.unsqueeze(-1), 0.5).to_event(1), obs=x)


class Bounded(ppvae.Model):
    """Positive, in the unit interval, and on the simplex."""

    def __init__(self, x_dim: int = 3) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(x_dim))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", Gamma(x.new_full((), 2.0), 1.0))
            share = pyro.sample("share", Beta(x.new_full((2,), 2.0), 2.0).to_event(1))
            mix = pyro.sample("mix", Dirichlet(x.new_ones(3)))
            loc = self.scale * mix * rate.unsqueeze(-1) + share.sum(-1, keepdim=True)
            pyro.sample("x", Normal(loc, 0.5).to_event(1), obs=x)


def prepared(model: ppvae.Model, family: str, x: Tensor) -> ppvae.Model:
    return set_family(model, x, family, SMALL.get(family, {}))


def anywhere(model: ppvae.Model, count: int, seed: int = 0) -> dict[str, Tensor]:
    """φ of `count` rows away from their start."""
    layout = model.layout()
    noise = torch.randn(count, layout.width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return layout.unpack(layout.start.double() + 0.5 * noise)


def joint(family: str, phi: dict[str, Tensor]) -> Any:
    """The same distribution over (a, b) in one piece."""
    if family == "mean-field":
        loc = torch.cat([phi["a_loc"], phi["b_loc"].unsqueeze(-1)], -1)
        scale = torch.cat([phi["a_scale"], phi["b_scale"].unsqueeze(-1)], -1)
        return Normal(loc, scale).to_event(1)
    if family == "full-covariance":
        return MultivariateNormal(phi["loc"], scale_tril=phi["scale_tril"])
    if family == "low-rank":
        return LowRankMultivariateNormal(phi["loc"], phi["factor"], phi["scale"].square())
    components = Independent(torch.distributions.Normal(phi["locs"], phi["scales"]), 1)
    return MixtureSameFamily(Categorical(logits=phi["logits"]), components)


@pytest.mark.parametrize("family", ["mean-field", "full-covariance", "low-rank", "mixture"])
def test_sites_one_by_one_are_the_joint_distribution(family: str) -> None:
    """log q of the draws is that of the joint, and their moments are its own (24 numbers to 4.2 standard errors)."""
    x = torch.zeros(4, 2, dtype=torch.float64)
    model = prepared(Two(), family, x)
    phi = anywhere(model, 4)
    torch.manual_seed(1)
    densities = ppvae.log_densities(model, Posterior(model, phi), x, 20_000)
    z = torch.cat([densities.values["a"], densities.values["b"].unsqueeze(-1)], -1)
    whole = joint(family, phi)
    assert torch.allclose(densities.log_q, whole.log_prob(z), atol=1e-9)
    assert whole.mean.shape == (4, 3)
    error = z.std(0) / math.sqrt(len(z))
    assert ((z.mean(0) - whole.mean).abs() < 4.2 * error).all()
    square = (z - whole.mean).square()
    assert ((square.mean(0) - whole.variance).abs() < 4.2 * square.std(0) / math.sqrt(len(z))).all()
    if family == "full-covariance":
        gap = z - whole.mean
        assert torch.allclose(torch.einsum("sbi,sbj->bij", gap, gap) / len(z), whole.covariance_matrix, atol=0.15)


@pytest.mark.parametrize("family", ["iaf", "spline"])
def test_a_flow_scores_its_draws_as_it_scores_any_value(family: str) -> None:
    x = torch.zeros(3, 2, dtype=torch.float64)
    torch.manual_seed(0)
    model = prepared(Two(), family, x)
    assert model.guide_modules == ("family_net",)
    phi = anywhere(model, 3)
    drawn = ppvae.log_densities(model, Posterior(model, phi), x, 5)
    again = ppvae.log_densities(model, Posterior(model, phi), x, values=drawn.values)
    assert torch.allclose(drawn.log_q, again.log_q, atol=1e-6)
    path = ppvae.log_densities(model, Posterior(model, phi), x, 5, grad="path")
    assert path.log_q.shape == (5, 3)


@pytest.mark.parametrize("family", ANY_SUPPORT)
def test_densities_integrate_to_one(family: str) -> None:
    """A positive latent, so that the Jacobian of the bijection counts: by quadrature, to 1e-3."""

    class Positive(ppvae.Model):
        def __init__(self) -> None:
            super().__init__()
            self.noise = nn.Parameter(torch.ones((), dtype=torch.float64))

        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", Gamma(x.new_full((), 3.0), 2.0))
                pyro.sample("x", Normal(z.unsqueeze(-1), self.noise).to_event(1), obs=x)

    x = torch.zeros(2, 1, dtype=torch.float64)
    torch.manual_seed(0)
    model = prepared(Positive(), family, x)
    phi = anywhere(model, 2)
    log_z = torch.linspace(-25, 12, 20_001, dtype=torch.float64)
    values = {"z": log_z.exp().unsqueeze(-1).expand(-1, 2)}
    with torch.no_grad():
        densities = ppvae.log_densities(model, Posterior(model, phi), x, values=values)
    total = torch.trapezoid((densities.log_q + log_z.unsqueeze(-1)).exp(), log_z, dim=0)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-3)


@pytest.mark.parametrize("family", ANY_SUPPORT)
@pytest.mark.parametrize("inference", ["amortized", "per-datapoint", "semi-amortized"])
def test_every_family_trains_under_every_strategy_whatever_the_support(
    family: str, inference: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    x = torch.rand(60, 3) + 0.5
    data = ppvae.Data("positive", x[:40], x[40:45], x[45:50], "gaussian", "real")
    more: dict[str, Any] = {"max_steps": 25} if inference == "per-datapoint" else {}
    if inference == "semi-amortized":
        more = {"refine_steps": 2, "lr": 0.01, "backprop": "truncated" if family == "mixture" else "full"}
    fit = ppvae.fit(
        Bounded(), data, inference, family=family, family_options=SMALL.get(family, {}), inference_options=more,
        epochs=20, eval_every=5, lr=0.01, lr_encoder=0.003, batch_size=20, patience=None,
    )  # fmt: skip
    assert max(entry["valid_bound"] for entry in fit.history[1:]) > fit.history[0]["valid_bound"]
    one = ppvae.log_marginal(fit, data.test, num_samples=40)
    assert bool(one.log_marginal.notnull().all())
    fit.save(tmp_path / "fit")
    again = ppvae.load(tmp_path / "fit", model=Bounded())
    assert ppvae.log_marginal(again, data.test, num_samples=40).identical(one)


def test_what_a_mean_field_loses_a_full_covariance_does_not() -> None:
    """pPCA: the posterior is Normal with precision Λ. Under q of independent factors the best bound is
    ½ (Σ log Λᵢᵢ − log |Λ|) below log p(x); under a full covariance it is log p(x).
    """
    data = ppvae.load_data("iris")
    torch.manual_seed(0)
    model = ppvae.create("ppca", x_dim=4, latent_dim=2).double()
    start = ppvae.fit(model, data, "exact", epochs=60, lr=0.05, precision="64-true")
    losses = {}
    for family in ("mean-field", "full-covariance"):
        fit = ppvae.fit(
            start, data, "per-datapoint", family=family, train_model=False, epochs=1, precision="64-true",
            inference_options={"tolerance": 1e-5, "max_steps": 4000}, gradient="reparam", num_particles=16,
        )  # fmt: skip
        found = ppvae.log_marginal(fit, data.test, num_samples=4000)
        exact = fit.model.log_prob(data.test.double()).detach().numpy()
        losses[family] = (exact - found.elbo.values).mean(), math.sqrt(float((found.elbo_se**2).sum())) / len(exact)
    with torch.no_grad():
        tril = start.model.exact_phi(data.test[:1].double())["scale_tril"][0]
    precision = torch.cholesky_inverse(tril)
    loss = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)).item()
    assert loss > 0.01
    # 4 standard errors, and on the far side 0.02 nats that rows optimised on noise may fall short of their best
    for family, best in (("mean-field", loss), ("full-covariance", 0.0)):
        found, error = losses[family]
        assert best - 4 * error < found < best + 4 * error + 0.02


@pytest.mark.parametrize("family", ["full-covariance", "low-rank"])
def test_divergences_in_closed_form(family: str) -> None:
    """Against torch's own between two full Gaussians."""
    torch.manual_seed(0)
    mean, tril = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, 3, dtype=torch.float64).tril(-1)
    tril = tril + torch.diag_embed(torch.rand(5, 3, dtype=torch.float64) + 0.3)
    q: Any = MultivariateNormal(mean, scale_tril=tril)
    if family == "low-rank":
        q = LowRankMultivariateNormal(mean, tril[..., :2], torch.rand(5, 3, dtype=torch.float64) + 0.1)
    loc, scale = torch.randn(5, 3, dtype=torch.float64), torch.rand(5, 3, dtype=torch.float64) + 0.5
    p = Normal(loc, scale).to_event(1)
    whole = MultivariateNormal(q.loc, q.covariance_matrix)
    diagonal = MultivariateNormal(loc, torch.diag_embed(scale**2))
    assert torch.allclose(kl_divergence(q, p), kl_divergence(whole, diagonal))
    with pytest.raises(NotImplementedError):
        kl_divergence(q, Gamma(scale, scale).to_event(1))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"family": "gaussian"}, "unknown family 'gaussian'"),
        ({"family": "full"}, "known: mean-field, full-covariance"),
        ({"family": "low-rank", "family_options": {"rank": 0}}, "rank must be a whole number"),
        ({"family": "low-rank", "family_options": {"ranks": 2}}, "did you mean 'rank'"),
        ({"family": "mixture", "family_options": {"num_components": 1}}, "num_components must be a whole number ≥ 2"),
        ({"family": "iaf", "family_options": {"hidden": 0}}, "hidden must be a list"),
        ({"family_options": {"rank": 2}}, "family_options are options of a family"),
        ({"family": "mean-field", "family_options": 3}, "family_options must be a mapping"),
        ({"family": "iaf", "objective": "iwae", "gradient": "dreg", "num_particles": 3}, "guide owns weights"),
        ({"family": "mean-field", "inference": "exact"}, "remove family"),
        ({"family": "mixture", "inference": "semi-amortized"}, "cannot be differentiated twice"),
        (
            {"family": "ladder", "objective": "iwae", "gradient": "dreg", "num_particles": 3},
            "q of this family depends on θ",
        ),
        ({"family": "ladder", "family_options": {"width": 3.0}}, "ladder: unknown option 'width'"),
        ({"family": "lader"}, "did you mean 'ladder'"),
    ],
)
def test_refusals(options: dict[str, Any], words: str) -> None:
    model = ppvae.create("ppca", x_dim=4, latent_dim=2)
    assert words in refusal(lambda: ppvae.fit(model, ppvae.load_data("iris"), epochs=1, **options))


def test_a_model_without_latents_has_no_family() -> None:
    model = ppvae.create("gmm", x_dim=4, assignment="summed")
    with pytest.raises(ppvae.PpvaeError, match="needs a local latent"):
        ppvae.fit(model, ppvae.load_data("iris"), family="full-covariance", epochs=1)


def test_a_discrete_latent_has_no_family() -> None:
    class Counts(ppvae.Model):
        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                k = pyro.sample("k", Poisson(x.new_full((), 2.0)))
                pyro.sample("x", Normal(k.unsqueeze(-1), 1.0).to_event(1), obs=x)

    with pytest.raises(ppvae.PpvaeError, match="give a guide"):
        set_family(Counts(), torch.zeros(5, 1), "full-covariance")


def test_supports_are_kept() -> None:
    x = torch.rand(6, 3)
    for family in ANY_SUPPORT:
        torch.manual_seed(0)
        model = prepared(Bounded(), family, x)
        phi = {name: value.float() for name, value in anywhere(model, 6).items()}
        values = ppvae.log_densities(model, Posterior(model, phi), x, 50).values
        assert bool(constraints.positive.check(values["rate"]).all())
        assert bool(constraints.unit_interval.check(values["share"]).all())
        assert bool(constraints.simplex.check(values["mix"]).all())


@pytest.mark.parametrize("grad", ["full", "path"])
def test_gradients_of_log_q_are_those_of_given_values(grad: Grad) -> None:
    """A draw that is scored by its noise has the value and the gradients of one that is scored by its place.

    By central differences of log w in φ at fixed noise: the total derivative, less the score where grad is "path".
    """
    x = torch.rand(6, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.5
    model = prepared(Bounded().double(), "full-covariance", x)
    phi = anywhere(model, 6)
    leaves = {name: value.detach().clone().requires_grad_() for name, value in phi.items()}

    def log_w(phi: dict[str, Tensor], values: dict[str, Tensor] | None = None) -> Densities:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return ppvae.log_densities(model, Posterior(model, phi), x, 4, values, grad if values is None else "full")

    drawn = log_w(leaves)
    placed = log_w(phi, {name: value.detach() for name, value in drawn.values.items()})
    torch.testing.assert_close(drawn.log_q, placed.log_q)
    gradients = dict(zip(leaves, torch.autograd.grad(drawn.log_ratio.sum(), [*leaves.values()]), strict=True))
    fixed = {name: value.detach() for name, value in drawn.values.items()}
    generator = torch.Generator().manual_seed(7)
    for name, value in phi.items():
        step = 1e-5 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
        step = step.tril() if name == "scale_tril" else step
        there, back = ({**phi, name: value + sign * step} for sign in (1, -1))
        change = (log_w(there).log_ratio - log_w(back).log_ratio).sum() / 2
        if grad == "path":  # the score Σ ∂ log q(z; φ) / ∂φ at fixed z enters log w with a minus sign
            change = change + (log_w(there, fixed).log_q - log_w(back, fixed).log_q).sum() / 2
        torch.testing.assert_close((gradients[name] * step).sum(), change, rtol=1e-5, atol=1e-9)
