"""The top-down family: its densities by hand, the posterior where it is in the family, and gradients of θ through q."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from conftest import Untouched, identical
from estimates import MANY, SIGMAS, estimates, mean
from pyro import poutine
from pyro.distributions import (
    Categorical,
    Gamma,
    LogNormal,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
)
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

import ppvae
from ppvae.catalogue import OBJECTIVES
from ppvae.pair.guide_family import set_family
from ppvae.pair.posterior import Posterior
from ppvae.pair.sites import sample_sites
from ppvae.variational.estimator import Estimator
from ppvae.variational.objective_choice import gradients_of


class Mixed(ppvae.Model):
    """A vector, then a correlated one, a matrix and a number given those before; x in their midst and at the end."""

    def __init__(self, low_rank: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.low_rank = low_rank
        self.weight = nn.Parameter(torch.randn(2, 3, generator=generator, dtype=torch.float64))
        tril = 0.4 * torch.randn(3, 3, generator=generator, dtype=torch.float64).tril(-1)
        self.tril = nn.Parameter(tril + torch.diag(torch.tensor([0.7, 1.2, 0.5], dtype=torch.float64)))
        self.decoded = 0

    def correlated(self, a: Tensor) -> Any:
        if self.low_rank:
            return LowRankMultivariateNormal(a @ self.weight, self.tril[:, :2], self.tril.diagonal().square())
        return MultivariateNormal(a @ self.weight, scale_tril=self.tril)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", Normal(x.new_ones(2), 1.5).to_event(1))
            b = pyro.sample("b", self.correlated(a))
            pyro.sample("first", Normal(b[..., 0], 1.0), obs=x[:, 0])
            c = pyro.sample("c", Normal(b.unsqueeze(-2) * a.unsqueeze(-1), 0.8).to_event(1).to_event(1))
            d = pyro.sample("d", Normal(a.sum(-1), 0.9))
            self.decoded += 1
            pyro.sample("x", Normal(c.sum((-2, -1)) + d, 0.5), obs=x[:, 1])


def prepared(model: ppvae.Model, x: Tensor) -> ppvae.Model:
    return set_family(model, x, "ladder")


def anywhere(model: ppvae.Model, count: int) -> dict[str, Tensor]:
    """φ of `count` rows away from their start."""
    layout = model.layout()
    noise = torch.randn(count, layout.width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return layout.unpack(layout.start + 0.5 * noise)


X = torch.tensor([[0.3, -1.0], [1.2, 0.4], [-0.7, 2.0], [0.0, 0.1]], dtype=torch.float64)


@pytest.mark.parametrize("low_rank", [False, True])
def test_each_layer_is_the_product_of_its_prior_and_the_gaussian_of_phi(low_rank: bool) -> None:
    """Up to a factor that z does not move: log q(zˢ) − log p(zˢ | above) − log Normal(zˢ) is one number over zˢ.

    And by the textbook's formula, (Σ⁻¹ + D⁻¹)⁻¹ (Σ⁻¹ μ + D⁻¹ loc), with its inverses written out.
    """
    model = Mixed(low_rank)
    prepared(model, X)
    phi = anywhere(model, len(X))
    torch.manual_seed(2)
    drawn = ppvae.log_densities(model, Posterior(model, phi), X, 6).values
    for site in ("a", "b", "c", "d"):  # this site at many values, those above held
        values = {name: value[:1].expand(50, *value.shape[1:]) for name, value in drawn.items()}
        values[site] = values[site] + torch.randn_like(values[site])
        found = ppvae.log_densities(model, Posterior(model, phi), X, values=values)
        own = Normal(phi[f"{site}_loc"], phi[f"{site}_scale"]).log_prob(values[site])
        own = own.flatten(2).sum(-1) if own.dim() > 2 else own
        rest = found.site_log_q[site] - found.site_log_prob[site] - own
        assert torch.allclose(rest, rest[:1].expand_as(rest), atol=1e-9)
    prior = model.correlated(drawn["a"])
    precision, own_precision = prior.covariance_matrix.inverse(), torch.diag_embed(phi["b_scale"] ** -2)
    covariance = (precision + own_precision).inverse()
    pull = precision @ prior.loc.unsqueeze(-1) + own_precision @ phi["b_loc"].unsqueeze(-1)
    by_hand = MultivariateNormal((covariance @ pull).squeeze(-1), covariance)
    densities = ppvae.log_densities(model, Posterior(model, phi), X, values=drawn)
    assert torch.allclose(densities.site_log_q["b"], by_hand.log_prob(drawn["b"]), atol=1e-9)


def test_draws_are_of_the_product() -> None:
    """Mean and variance of the scalar layers given a, in standard units: 16 numbers to 4.2 standard errors."""
    model = prepared(Mixed(), X)
    phi = anywhere(model, len(X))
    torch.manual_seed(3)
    values = ppvae.log_densities(model, Posterior(model, phi), X, 20_000).values
    for name, prior_mean, prior_scale in (("a", torch.ones((), dtype=torch.float64), 1.5), ("d", None, 0.9)):
        prior_mean = values["a"].sum(-1) if prior_mean is None else prior_mean
        weight = prior_scale**2 / (prior_scale**2 + phi[f"{name}_scale"] ** 2)
        q_mean = (1 - weight) * prior_mean + weight * phi[f"{name}_loc"]
        units = (values[name] - q_mean) / (weight.sqrt() * phi[f"{name}_scale"])
        units = units[..., 0] if units.dim() > 2 else units
        for sample, expected in ((units, 0.0), (units.square(), 1.0)):
            average, error = mean(sample)
            assert ((average - expected).abs() < SIGMAS * error).all()


@pytest.mark.parametrize("low_rank", [False, True])
def test_every_layers_divergence_has_a_closed_form(low_rank: bool) -> None:
    """No term falls back on draws, and each is what the draws average (4 layers × 4 data, 4.2 standard errors)."""
    model = prepared(Mixed(low_rank), X)
    torch.manual_seed(4)
    densities = ppvae.log_densities(model, Posterior(model, anywhere(model, len(X))), X, 20_000)
    exact, drawn = densities.kl_sites(analytic=True), densities.kl_sites(analytic=False)
    assert list(exact) == ["a", "b", "c", "d"]
    for name in exact:
        average, error = mean(exact[name] - drawn[name])
        assert (error > 0).all()
        assert (average.abs() < SIGMAS * error).all()


def test_the_guide_is_left_at_the_last_latent() -> None:
    """The decoder costs nothing, no observation is seen, plates and handlers are left as they were."""
    model = Mixed()
    model.decoded = 0
    prepared(model, X)
    before = model.decoded
    posterior = Posterior(model, anywhere(model, len(X)))
    for _ in range(2):
        assert list(sample_sites(poutine.trace(posterior).get_trace(X))) == ["a", "b", "c", "d"]
    assert model.decoded == before
    assert not pyro.poutine.runtime._PYRO_STACK
    with pyro.plate("data", 3):
        assert pyro.sample("z", Normal(X.new_zeros(()), 1.0)).shape == (3,)


def test_a_row_that_is_nan_leaves_the_others_alone() -> None:
    model = prepared(Mixed(), X)
    phi = anywhere(model, len(X))
    torch.manual_seed(5)
    values = ppvae.log_densities(model, Posterior(model, phi), X, 2).values
    good = ppvae.log_densities(model, Posterior(model, phi), X, values=values).log_ratio
    broken = {name: value.clone() for name, value in phi.items()}
    broken["b_scale"][1] = math.nan
    with pyro.validation_enabled(False):
        found = ppvae.log_densities(model, Posterior(model, broken), X, values=values).log_ratio
    assert found[:, 1].isnan().all()
    assert torch.equal(found[:, [0, 2, 3]], good[:, [0, 2, 3]])


# Where the posterior is in the family


class Linear(ppvae.Model):
    """a ~ Normal(0, 1); b ~ Normal(w a, G Gᵀ), or of a diagonal covariance; x ~ Normal(s b, diag r²).

    Given a, x tells b apart coordinate by coordinate, and given x alone a is a number: every layer of the posterior is
    its prior times a Gaussian of diagonal precision.
    """

    def __init__(self, correlated: bool) -> None:
        super().__init__()
        self.correlated = correlated
        self.weight = nn.Parameter(torch.tensor([0.9, -0.6, 1.3], dtype=torch.float64))
        self.gain = nn.Parameter(torch.tensor([1.1, 0.7, -0.8], dtype=torch.float64))
        self.noise = nn.Parameter(torch.tensor([0.5, 0.8, 0.6], dtype=torch.float64))
        tril = torch.tensor([[0.7, 0.0, 0.0], [0.5, 0.9, 0.0], [-0.4, 0.3, 0.6]], dtype=torch.float64)
        self.tril = nn.Parameter(tril if correlated else torch.diag(tril.diagonal()))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", Normal(x.new_zeros(()), 1.0))
            loc = a.unsqueeze(-1) * self.weight
            if self.correlated:
                b = pyro.sample("b", MultivariateNormal(loc, scale_tril=self.tril))
            else:
                b = pyro.sample("b", Normal(loc, self.tril.diagonal()).to_event(1))
            pyro.sample("x", Normal(b * self.gain, self.noise).to_event(1), obs=x)

    def rest(self) -> Tensor:
        """Covariance of x given a."""
        return torch.diag(self.gain) @ self.tril @ self.tril.mT @ torch.diag(self.gain) + torch.diag(self.noise**2)

    def log_prob(self, x: Tensor) -> Tensor:
        slope = self.gain * self.weight
        return MultivariateNormal(x.new_zeros(3), torch.outer(slope, slope) + self.rest()).log_prob(x)

    def best(self, x: Tensor) -> dict[str, Tensor]:
        """φ of the posterior: the likelihood of each layer, as a Gaussian of it."""
        slope = self.gain * self.weight
        pull = torch.linalg.solve(self.rest(), slope)
        precision = slope @ pull
        return {
            "a_loc": x @ pull / precision,
            "a_scale": precision.rsqrt().expand(len(x)),
            "b_loc": x / self.gain,
            "b_scale": (self.noise / self.gain.abs()).expand(len(x), -1),
        }


def drawn_data(model: Linear, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        cov = torch.outer(model.gain * model.weight, model.gain * model.weight) + model.rest()
        return torch.randn(count, 3, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(cov).mT


@pytest.mark.parametrize("correlated", [False, True])
def test_the_posterior_is_in_the_family(correlated: bool) -> None:
    """At its φ every draw weighs exactly p(x)."""
    model = Linear(correlated)
    x = drawn_data(model, 7)
    prepared(model, x)
    densities = ppvae.log_densities(model, Posterior(model, model.best(x)), x, 20)
    assert torch.allclose(densities.log_ratio, model.log_prob(x).expand(20, -1), atol=1e-9)


@pytest.mark.parametrize("correlated", [False, True])
def test_no_bound_exceeds_log_p(correlated: bool) -> None:
    """The analytic and the drawn ELBO at random φ, of 30 data each, one-sided: false alarms below 60 · 1.4e-5."""
    model = Linear(correlated)
    x = drawn_data(model, 30)
    prepared(model, x)
    torch.manual_seed(6)
    with torch.no_grad():
        densities = ppvae.log_densities(model, Posterior(model, anywhere(model, 30)), x, 4000)
        for terms in (densities.log_likelihood - densities.kl(analytic=True), densities.log_ratio):
            average, error = mean(terms)
            assert (average < model.log_prob(x) + SIGMAS * error).all()


def test_a_fit_reaches_log_p() -> None:
    """θ held: a mean field loses what it must, by ½ (Σ log Λᵢᵢ − log |Λ|), and the ladder nothing.

    4 standard errors, and 0.02 nats that rows optimised on noise may fall short of their best.
    """
    model = Linear(correlated=True)
    x = drawn_data(model, 10)
    data = ppvae.Data("linear", x, x[:2], x, "gaussian", "real")
    fit = ppvae.fit(
        model, data, "per-datapoint", family="ladder", train_model=False, epochs=1, num_particles=16,
        precision="64-true", inference_options={"tolerance": 1e-4, "max_steps": 1000},
    )  # fmt: skip
    found = ppvae.log_marginal(fit, x, num_samples=500)
    loss = model.log_prob(x).detach().numpy() - found.elbo.values
    error = math.sqrt(float((found.elbo_se**2).sum())) / len(x)
    assert -4 * error < loss.mean() < 4 * error + 0.02
    with torch.no_grad():
        inverse = (model.tril @ model.tril.mT).inverse()
        cross = -(inverse @ model.weight)
        precision = torch.cat(
            [
                torch.cat([(1 + model.weight @ inverse @ model.weight)[None, None], cross[None]], 1),
                torch.cat([cross[:, None], inverse + torch.diag((model.gain / model.noise) ** 2)], 1),
            ]
        )
        lost_by_mean_field = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)).item()
    assert lost_by_mean_field > 5 * (loss.mean() + 4 * error)  # the comparison has the power to tell them apart


# Gradients


class Chain(ppvae.Model):
    """Two layers, the second's mean and scale nonlinear in the first and in θ."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.8, dtype=torch.float64))
        self.log_width = nn.Parameter(torch.tensor(-0.3, dtype=torch.float64))
        self.log_noise = nn.Parameter(torch.tensor(-0.5, dtype=torch.float64))

    def second(self, z1: Tensor) -> tuple[Tensor, Tensor]:
        return self.slope * z1.tanh() + 0.2, (self.log_width + 0.2 * z1.sin()).exp()

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", Normal(x.new_zeros(()), 1.0))
            z2 = pyro.sample("z2", Normal(*self.second(z1)))
            loc = (z2 + 0.3 * z1.square()).unsqueeze(-1)
            pyro.sample("x", Normal(loc, self.log_noise.exp()).to_event(1), obs=x)


AT = 1.1  # x


@pytest.fixture(scope="module")
def chain() -> Chain:
    model = Chain()
    prepared(model, torch.zeros(4, 1, dtype=torch.float64))
    values = {"z1_loc": 0.4, "z1_scale": 1.3, "z2_loc": 0.9, "z2_scale": 0.8}
    # the start is where gradients are taken: away from the prior's moments
    model.phi = {n: ppvae.Local(torch.tensor(v, dtype=torch.float64), model.phi[n].support) for n, v in values.items()}
    return model


def exact(model: Chain, objective: str, particles: int) -> tuple[float, Tensor, Tensor]:
    """The objective by Gauss-Hermite quadrature over the noise of every draw, by hand, and its gradients in φ and θ."""
    layout = model.layout()
    leaf = layout.start.clone().requires_grad_()
    phi = {name: value[0] for name, value in layout.unpack(leaf.unsqueeze(0)).items()}
    size = 48 if particles == 1 else 22
    nodes, weights = (torch.as_tensor(v) for v in np.polynomial.hermite_e.hermegauss(size))
    noise = torch.cartesian_prod(*[nodes] * (2 * particles))
    weight = torch.cartesian_prod(*[weights / weights.sum()] * (2 * particles)).prod(-1)

    def combined(loc: Any, scale: Any, name: str) -> Any:
        precision = scale**-2 + phi[f"{name}_scale"] ** -2
        weighed = loc * scale**-2 + phi[f"{name}_loc"] * phi[f"{name}_scale"] ** -2
        return torch.distributions.Normal(weighed / precision, precision**-0.5)

    log_w = []
    for first, second in noise.unflatten(-1, (particles, 2)).permute(1, 2, 0):
        zero, one = torch.zeros_like(first), torch.ones_like(first)
        q1 = combined(zero, one, "z1")
        z1 = q1.mean + q1.stddev * first
        q2 = combined(*model.second(z1), "z2")
        z2 = q2.mean + q2.stddev * second
        log_p = torch.distributions.Normal(zero, one).log_prob(z1)
        log_p = log_p + torch.distributions.Normal(*model.second(z1)).log_prob(z2)
        x = torch.tensor(AT, dtype=torch.float64)
        log_p = log_p + torch.distributions.Normal(z2 + 0.3 * z1.square(), model.log_noise.exp()).log_prob(x)
        log_w.append(log_p - q1.log_prob(z1) - q2.log_prob(z2))
    stacked = torch.stack(log_w)
    each = stacked.mean(0) if objective == "elbo" else stacked.logsumexp(0) - math.log(particles)
    total = (weight * each).sum()
    of_phi, *of_theta = torch.autograd.grad(total, [leaf, *model.parameters()])
    return total.item(), of_phi, torch.stack(of_theta)


@pytest.fixture(scope="module")
def by_quadrature(chain: Chain) -> dict[str, tuple[float, Tensor, Tensor]]:
    return {"elbo": exact(chain, "elbo", 1), "iwae": exact(chain, "iwae", 2)}


CASES: list[tuple[str, str, Any]] = [
    (objective, gradient, kl)
    for objective in ("elbo", "iwae")
    for gradient, bias in gradients_of(objective).items()
    for kl in ((None, "mc") if (objective, gradient) == ("elbo", "reparam") else (None,))
    if bias == "unbiased" and gradient != "dreg"
]


@pytest.mark.parametrize(("objective", "gradient", "kl"), CASES)
def test_gradients_of_theta_and_phi_are_exact_in_the_mean(
    objective: str, gradient: str, kl: Any, chain: Chain, by_quadrature: dict[str, Any]
) -> None:
    """θ moves the model and q. 8 cases × (1 value + 4 of φ + 3 of θ): 64 two-sided comparisons, below 0.2%."""
    value, of_phi, of_theta = by_quadrature[objective]
    values, rows, theta = estimates(chain, AT, objective, gradient, 2, MANY, 3, kl)
    for samples, expected in ((values[:, None], torch.tensor([value])), (rows, of_phi), (theta, of_theta)):
        average, error = mean(samples)
        assert ((average - expected).abs() < SIGMAS * error).all()
        assert (error > 0).all()


def test_the_comparison_finds_a_theta_that_q_is_told_to_ignore(
    chain: Chain, by_quadrature: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the priors inside q held constant, as a guide that forgot θ would, θ's gradient is off."""
    from ppvae.pair.families import ladder as families

    product = families.product
    monkeypatch.setattr(
        families, "product", lambda p, loc, scale: product(Normal(p.loc.detach(), p.scale.detach()), loc, scale)
    )
    _, _, theta = estimates(chain, AT, "iwae", "reparam", 2, MANY, 3)
    average, error = mean(theta)
    assert ((average - by_quadrature["iwae"][2]).abs() / error).max() > 2 * SIGMAS


def test_sticking_the_landing_under_iwae_is_biased_in_phi_alone(chain: Chain, by_quadrature: dict[str, Any]) -> None:
    _, of_phi, of_theta = by_quadrature["iwae"]
    _, rows, theta = estimates(chain, AT, "iwae", "stl", 2, MANY, 4)
    (phi_mean, phi_error), (theta_mean, theta_error) = mean(rows), mean(theta)
    assert ((phi_mean - of_phi).abs() / phi_error).max() > 2 * SIGMAS
    assert ((theta_mean - of_theta).abs() < SIGMAS * theta_error).all()


def test_sticking_the_landing_has_no_noise_at_the_posterior() -> None:
    """log w is log p(x) there, whatever the draw."""
    model = Linear(correlated=True)
    x = drawn_data(model, 5)
    prepared(model, x)
    leaf = {name: value.detach().requires_grad_() for name, value in model.best(x).items()}
    bound, _ = Estimator("elbo", "stl").estimate(model, Posterior(model, leaf), x, 1)
    assert torch.allclose(bound, model.log_prob(x), atol=1e-9)
    for gradient in torch.autograd.grad(bound.sum(), list(leaf.values())):
        assert gradient.abs().max() < 1e-9


# In training


def digits(count: int = 60) -> ppvae.Data:
    data = ppvae.load_data("digits", num_train=count)
    return replace(data, valid=data.valid[:40], test=data.test[:40], labels=None)


def dlgm(**options: Any) -> ppvae.Model:
    torch.manual_seed(0)
    return ppvae.create("dlgm", **{"x_dim": 64, "latent_dims": [3, 2], "hidden": 8, **options})


@pytest.mark.parametrize("inference", ["amortized", "per-datapoint", "semi-amortized"])
def test_it_trains_under_every_strategy_and_comes_back(inference: str, tmp_path: Path, untouched: Untouched) -> None:
    """From one bound; new data refined or not, θ stays; what is read is what was written."""
    data = digits()
    options: dict[str, Any] = {"refine_steps": 2} if inference == "semi-amortized" else {}
    if inference == "per-datapoint":
        options = {"max_steps": 50}
    first = ppvae.fit(dlgm(), data, inference, family="ladder", epochs=1, lr=1e-30, lr_encoder=1e-30,
                      inference_options=options | ({"lr": 1e-30} if options else {}))  # fmt: skip
    mean_field = ppvae.fit(dlgm(), data, family="mean-field", epochs=1, lr=1e-30)
    # the same data and θ near the same q, on different draws
    assert first.history[0]["train_bound"] == pytest.approx(mean_field.history[0]["train_bound"], abs=1.5)
    fit = ppvae.fit(
        dlgm(), data, inference, family="ladder", epochs=30, eval_every=15, lr=0.01, lr_encoder=0.003,
        batch_size=20, patience=None, inference_options=options,
    )  # fmt: skip
    assert fit.history[-1]["valid_bound"] > first.history[0]["valid_bound"]
    ppvae.check(fit.model, data.test[:7])
    with untouched(fit.model, fit.strategy):
        one = ppvae.log_marginal(fit, data.test[:20], num_samples=30)
    fit.save(tmp_path / "fit")
    again = ppvae.load(tmp_path / "fit")
    assert identical(again.model.state_dict(), fit.model.state_dict())
    assert ppvae.log_marginal(again, data.test[:20], num_samples=30).identical(one)
    # the family of a copy is of the copy
    other = copy.deepcopy(fit.model)
    assert other.guide_family is not None
    assert other.guide_family.model is other  # type: ignore[attr-defined]


@pytest.mark.parametrize("inference", ["amortized", "per-datapoint", "semi-amortized"])
@pytest.mark.parametrize("gradient", ["reparam", "loo"])
def test_a_frozen_model_stays_as_it_is(inference: str, gradient: str) -> None:
    options = {"backprop": "truncated", "refine_steps": 1} if inference == "semi-amortized" else {}
    if inference == "per-datapoint":
        options = {"max_steps": 25}
    model = dlgm()
    fit = ppvae.fit(
        model, digits(), inference, family="ladder", gradient=gradient, num_particles=2, epochs=2, lr=0.05,
        train_model=False, inference_options=options,
    )  # fmt: skip
    assert identical(dict(fit.model.state_dict()), dict(model.state_dict()))
    assert all(p.requires_grad for p in fit.model.parameters())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_estimator_trains_or_is_refused(objective: str) -> None:
    for gradient in gradients_of(objective):
        more: dict[str, Any] = {"objective": objective, "gradient": gradient, "num_particles": 2, "epochs": 1}
        if gradient in ("dreg", "wake"):
            with pytest.raises(ppvae.PpvaeError, match=f"the q of this family depends on θ, and {gradient}") as why:
                ppvae.fit(dlgm(), digits(20), family="ladder", **more)
            assert "\n" not in str(why.value)
        else:
            assert ppvae.fit(dlgm(), digits(20), family="ladder", **more).history


def test_it_is_handed_out_as_a_plain_pyro_pair() -> None:
    """Trace_ELBO of the pair is the bound; its gradient reaches θ through model and guide alike."""
    data = digits()
    fit = ppvae.fit(dlgm(), data, family="ladder", epochs=1)
    model, guide = ppvae.as_pyro(fit)
    x = data.test[:10]
    torch.manual_seed(8)
    loss = Trace_ELBO(num_particles=200)(model, guide)(x)
    pyro.clear_param_store()
    found = ppvae.log_marginal(fit, x, num_samples=2000)
    error = math.sqrt(float((found.elbo_se**2).sum()) * (1 + 2000 / 200))
    assert abs(-loss.item() - float(found.elbo.sum())) < SIGMAS * error


# Discrete latents and refusals


class Switched(ppvae.Model):
    """A Gaussian and an enumerated latent, which comes first (and moves the Gaussian's prior) or last."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first = first
        self.locs = nn.Parameter(torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            if self.first:
                k = pyro.sample("k", Categorical(logits=x.new_zeros(3)), infer={"enumerate": "parallel"})
                z = pyro.sample("z", Normal(self.locs[k], 0.7))
                loc = z
            else:
                z = pyro.sample("z", Normal(x.new_zeros(()), 0.7))
                k = pyro.sample("k", Categorical(logits=x.new_zeros(3)), infer={"enumerate": "parallel"})
                loc = z + self.locs[k]
            pyro.sample("x", Normal(loc.unsqueeze(-1), 0.5).to_event(1), obs=x)


def test_a_discrete_latent_below_is_summed_out() -> None:
    """q(z) against quadrature: log p̂ is log p(x), in 5 comparisons of 4.2 standard errors."""
    x = torch.tensor([[-1.0], [0.0], [0.4], [2.0], [3.0]], dtype=torch.float64)
    model = Switched(first=False)
    prepared(model, x)
    assert list(model.phi) == ["z_loc", "z_scale"]
    torch.manual_seed(9)
    with torch.no_grad():
        ratio = ppvae.log_densities(model, Posterior(model, anywhere(model, 5)), x, 20_000).log_ratio.exp()
        components = Normal(model.locs, math.sqrt(0.7**2 + 0.5**2)).log_prob(x)
        exact = (components.logsumexp(-1) - math.log(3)).exp()
    average, error = mean(ratio)
    assert ((average - exact).abs() < SIGMAS * error).all()


def test_a_discrete_latent_above_is_refused() -> None:
    with pytest.raises(ppvae.PpvaeError, match=r"needs the prior of 'z', and latent 'k'.* draw it after") as caught:
        prepared(Switched(first=True), X[:, :1])
    assert "\n" not in str(caught.value)
    assert not pyro.poutine.runtime._PYRO_STACK


@pytest.mark.parametrize("prior", [Gamma, LogNormal])
def test_a_latent_that_is_no_gaussian_is_refused(prior: Any) -> None:
    class Rate(ppvae.Model):
        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", Normal(x.new_zeros(()), 1.0))
                rate = pyro.sample("rate", prior(x.new_full((2,), 2.0), 1.0).to_event(1))
                pyro.sample("x", Normal(z + rate.sum(-1), 1.0).expand([len(x)]), obs=x[:, 0])

    with pytest.raises(ppvae.PpvaeError, match=f"latent 'rate' is a {prior.__name__}: choose another family") as caught:
        prepared(Rate(), X)
    assert "\n" not in str(caught.value)


def test_it_has_no_options() -> None:
    with pytest.raises(ppvae.PpvaeError, match="ladder: unknown option 'model'"):
        ppvae.fit(dlgm(), digits(20), family="ladder", family_options={"model": 3}, epochs=1)
