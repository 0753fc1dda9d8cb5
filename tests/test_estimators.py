"""Gradient estimators: unbiased against exact and long-run gradients, biased where the theory says so."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from conftest import Untouched
from pyro.distributions import Categorical, Normal, constraints
from torch import Tensor, nn

import ppvae
from ppvae.pair.local import Phi
from ppvae.pair.posterior import Posterior
from ppvae.variational.estimator import GRADIENTS, TOGETHER, UNBIASED, Estimator, Gradient
from ppvae.variational.objective import ObjectiveName, elbo, log_mean_of_others

#: estimates behind a mean, and of the reference
MANY, LONG = 40_000, 160_000
#: standard errors that a mean may lie from its reference. 14 estimators × 5 coordinates of φ and 2 of θ, 98 two-sided
#: comparisons of nearly normal means: false alarms below 98 · 2.7e-5 = 0.3%
SIGMAS = 4.2


class Chain(ppvae.Model):
    """Two layers, the second given the first in model and guide; the guide owns no weights."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.8, dtype=torch.float64))
        self.log_noise = nn.Parameter(torch.tensor(-0.5, dtype=torch.float64))
        one = torch.ones((), dtype=torch.float64)
        positive = constraints.positive
        self.phi = {
            "loc1": ppvae.Local(0.2 * one),
            "scale1": ppvae.Local(0.9 * one, positive),
            "loc2": ppvae.Local(0.3 * one),
            "tilt": ppvae.Local(0.4 * one),
            "scale2": ppvae.Local(0.7 * one, positive),
        }

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", Normal(x.new_zeros(()), 1.0))
            z2 = pyro.sample("z2", Normal(self.slope * z1.tanh(), 0.7))
            mean = (z2 + 0.3 * z1.square()).unsqueeze(-1)
            pyro.sample("x", Normal(mean, self.log_noise.exp()).to_event(1), obs=x)

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", Normal(phi["loc1"], phi["scale1"]))
            pyro.sample("z2", Normal(phi["loc2"] + phi["tilt"] * z1, phi["scale2"]))


def estimates(
    model: ppvae.Model, x: float, objective: ObjectiveName, gradient: Gradient, particles: int, count: int, seed: int,
    kl: Any = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Values [N], gradients in unconstrained φ [N, width], and gradients in θ of 100 parts [100, parameters].

    N copies of one datum, each with a row of its own: one backward pass gives N independent estimates.
    """
    torch.manual_seed(seed)
    layout = model.layout()
    values, rows, theta = [], [], []
    for _ in range(100):
        leaf = layout.start.repeat(count // 100, 1).requires_grad_()
        data = torch.full((len(leaf), 1), x, dtype=torch.float64)
        estimator = Estimator(objective, gradient, kl)
        bound, _ = estimator.estimate(model, Posterior(model, layout.unpack(leaf)), data, particles)
        of_rows, *of_theta = torch.autograd.grad(bound.sum(), [leaf, *model.parameters()])
        values.append(bound.detach())
        rows.append(of_rows)
        theta.append(torch.stack(of_theta) / len(leaf))
    return torch.cat(values), torch.cat(rows), torch.stack(theta)


def mean(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the first dim, and its standard error."""
    return samples.mean(0), samples.std(0) / math.sqrt(len(samples))


def distance(samples: Tensor, reference: Tensor) -> Tensor:
    """Of the means, in standard errors of their difference."""
    (one, se), (other, other_se) = mean(samples), mean(reference)
    return (one - other).abs() / (se.square() + other_se.square()).sqrt().clamp_min(1e-12)


@pytest.fixture(scope="module")
def chain() -> Chain:
    return Chain()


@pytest.fixture(scope="module")
def reference(chain: Chain) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """The plain reparameterised gradient, which is that of the value itself, in a long run."""
    return {
        "elbo": estimates(chain, 1.1, "elbo", "reparam", 2, LONG, 1, "mc"),
        "iwae": estimates(chain, 1.1, "iwae", "reparam", 4, LONG, 2),
    }


CASES = [
    (o, g, kl) for o in ("elbo", "iwae") for g in UNBIASED[o] for kl in ((None, "mc") if g == "reparam" else (None,))
]


@pytest.mark.parametrize(("objective", "gradient", "kl"), CASES)
def test_the_unbiased_have_the_gradient_of_the_objective(
    objective: ObjectiveName, gradient: Gradient, kl: Any, chain: Chain, reference: dict[str, Any]
) -> None:
    particles = 2 if objective == "elbo" else 4
    values, rows, theta = estimates(chain, 1.1, objective, gradient, particles, MANY, 3, kl)
    assert distance(values[:, None], reference[objective][0][:, None]).max() < SIGMAS
    assert distance(rows, reference[objective][1]).max() < SIGMAS
    assert distance(theta, reference[objective][2]).max() < SIGMAS


@pytest.mark.parametrize("gradient", ["stl", "wake"])
def test_the_biased_are_told_from_the_unbiased(gradient: Gradient, chain: Chain, reference: dict[str, Any]) -> None:
    """The same comparison finds STL under IWAE, and wake-sleep's φ-step: it has the power to."""
    objective: ObjectiveName = "rws" if gradient == "wake" else "iwae"
    values, rows, theta = estimates(chain, 1.1, objective, gradient, 4, MANY, 4)
    assert distance(values[:, None], reference["iwae"][0][:, None]).max() < SIGMAS
    assert distance(rows, reference["iwae"][1]).max() > 2 * SIGMAS
    assert distance(theta, reference["iwae"][2]).max() < SIGMAS  # θ's gradient is unbiased all the same


def test_the_wake_step_lowers_the_inclusive_divergence(chain: Chain) -> None:
    """Its φ-gradient is ∂ E_w̄[log q], which is 0 where q is the posterior: a Gaussian with a Gaussian likelihood."""

    class Conjugate(ppvae.Model):
        def __init__(self) -> None:
            super().__init__()
            self.noise = nn.Parameter(torch.ones((), dtype=torch.float64))
            half = torch.tensor(0.5, dtype=torch.float64)
            self.phi = {
                "loc": ppvae.Local(half),
                "scale": ppvae.Local(half.sqrt(), constraints.positive),
            }

        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", Normal(x.new_zeros(()), 1.0))
                pyro.sample("x", Normal(z.unsqueeze(-1), self.noise).to_event(1), obs=x)

        def guide(self, x: Tensor, phi: Phi) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", Normal(phi["loc"], phi["scale"]))

    _, rows, _ = estimates(Conjugate(), 1.0, "rws", "wake", 3, MANY, 5)  # the posterior of 1 is N(½, ½)
    average, error = mean(rows)
    assert (average.abs() / error).max() < SIGMAS
    assert error.max() > 0


class Discrete(ppvae.Model):
    """k drawn or enumerated by the guide; everything about it can be summed."""

    def __init__(self, enumerate: bool) -> None:
        super().__init__()
        self.infer: Any = {"enumerate": "parallel"} if enumerate else {}
        self.locs = nn.Parameter(torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64))
        self.phi = {"logits": ppvae.Local(torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64))}

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", Categorical(logits=x.new_tensor([0.1, 0.2, -0.4])))
            pyro.sample("x", Normal(self.locs[k].unsqueeze(-1), 0.8).to_event(1), obs=x)

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("k", Categorical(logits=phi["logits"]), infer=self.infer)


def exact_discrete(objective: ObjectiveName, particles: int, x: float) -> tuple[float, Tensor, Tensor]:
    """The objective, summed over every combination of draws, and its gradients in φ and θ by autograd."""
    model = Discrete(enumerate=False)
    logits = model.phi["logits"].start.clone().requires_grad_()
    log_q = logits.log_softmax(-1)
    log_p = torch.tensor([0.1, 0.2, -0.4], dtype=torch.float64).log_softmax(-1)
    log_joint = log_p + torch.distributions.Normal(model.locs, 0.8).log_prob(torch.tensor(x, dtype=torch.float64))
    log_w = log_joint - log_q
    total = torch.zeros((), dtype=torch.float64)
    for draws in itertools.product(range(3), repeat=particles):
        index = torch.tensor(draws)
        value = log_w[index].mean() if objective == "elbo" else log_w[index].logsumexp(0) - math.log(particles)
        total = total + log_q[index].sum().exp() * value
    of_phi, of_theta = torch.autograd.grad(total, [logits, model.locs])
    return total.item(), of_phi, of_theta


@pytest.mark.parametrize(
    ("objective", "gradient", "particles"),
    [("elbo", "score", 1), ("elbo", "score", 3), ("elbo", "loo", 3), ("iwae", "score", 3), ("iwae", "vimco", 3)],
)
def test_discrete_draws_have_the_exact_gradient(objective: ObjectiveName, gradient: Gradient, particles: int) -> None:
    """5 cases × 3 + 3 coordinates and a value; φ has one flat direction, whose estimates are all 0."""
    value, of_phi, of_theta = exact_discrete(objective, particles, 0.7)
    values, rows, theta = estimates(Discrete(False), 0.7, objective, gradient, particles, MANY, 6)
    for samples, exact in ((values[:, None], torch.tensor([value])), (rows, of_phi), (theta[:, 0], of_theta)):
        average, error = mean(samples)
        assert ((average - exact).abs() <= SIGMAS * error + 1e-12).all()
        assert error.max() > 0


def test_an_enumerated_site_has_no_noise_under_any_estimator() -> None:
    value, of_phi, of_theta = exact_discrete("elbo", 1, 0.7)
    for gradient in ("reparam", "stl", "score", "loo"):
        values, rows, theta = estimates(Discrete(True), 0.7, "elbo", gradient, 2, 100, 7)
        assert torch.allclose(values, torch.full_like(values, value), atol=1e-12)
        assert torch.allclose(rows, of_phi.expand_as(rows), atol=1e-12)
        assert torch.allclose(theta[:, 0], of_theta.expand_as(theta[:, 0]), atol=1e-12)


def test_baselines_and_double_reparameterisation_lower_the_variance(chain: Chain) -> None:
    """The reason for having them: in total over φ, on the same number of draws."""

    def spread(objective: ObjectiveName, gradient: Gradient) -> float:
        return estimates(chain, 1.1, objective, gradient, 4, MANY, 8)[1].var(0).sum().item()

    assert spread("elbo", "loo") < spread("elbo", "score")
    assert spread("elbo", "reparam") < spread("elbo", "loo") / 2
    assert spread("iwae", "vimco") < spread("iwae", "score")
    assert spread("iwae", "dreg") < spread("iwae", "reparam")


def test_sticking_the_landing_has_no_noise_at_the_posterior() -> None:
    """Roeder et al.: where q is the posterior every estimate of the path derivative is 0, in all coordinates."""
    data = ppvae.load_data("iris")
    torch.manual_seed(0)
    fit = ppvae.fit(ppvae.create("ppca", x_dim=4, latent_dim=2).double(), data, "exact", epochs=1, precision="64-true")
    found = ppvae.gradient_variance(fit, data.test, gradients=["reparam", "stl"], num_particles=1, repeats=20)
    assert float(found.variance_phi.sel(gradient="stl")) < 1e-12 * float(found.variance_phi.sel(gradient="reparam"))


@pytest.mark.parametrize("particles", [1, 2, 5, 20])
@pytest.mark.parametrize("objective", ["elbo", "iwae"])
def test_no_bound_exceeds_the_exact_log_p(objective: ObjectiveName, particles: int) -> None:
    """On any minibatch in expectation; 8 one-sided comparisons, each with the seven data of a batch."""
    torch.manual_seed(0)
    data = ppvae.load_data("iris")
    fit = ppvae.fit(ppvae.create("ppca", x_dim=4, latent_dim=2), data, epochs=5, lr=0.01)
    x = data.test[:7]
    log_p = fit.model.log_prob(x).detach()
    many = x.repeat(3000, 1)
    posterior = fit.posterior(many)
    torch.manual_seed(9)
    with torch.no_grad():
        values, _ = Estimator(objective, kl="mc").estimate(fit.model, posterior, many, particles)
    average, error = mean(values.reshape(3000, 7))
    assert (average < log_p + SIGMAS * error).all()
    if objective == "elbo":
        assert (average < log_p).all()


def test_more_particles_tighten_the_importance_weighted_bound(chain: Chain) -> None:
    means = [mean(estimates(chain, 1.1, "iwae", "reparam", k, MANY, k)[0]) for k in (1, 4, 16)]
    for (low, low_se), (high, high_se) in itertools.pairwise(means):
        assert high - low > SIGMAS * math.hypot(low_se, high_se)


def test_vimco_baseline_by_hand() -> None:
    log_w = torch.randn(4, 3, dtype=torch.float64)
    for s in range(4):
        swapped = log_w.clone()
        swapped[s] = log_w[[j for j in range(4) if j != s]].mean(0)
        assert torch.allclose(log_mean_of_others(log_w)[s], swapped.logsumexp(0) - math.log(4))


# Schedules


def test_beta_and_free_bits_by_hand(chain: Chain) -> None:
    layout = chain.layout()
    x = torch.tensor([[0.2], [1.0], [2.0]], dtype=torch.float64)
    posterior = Posterior(chain, layout.unpack(layout.start.repeat(3, 1)))
    with torch.no_grad():
        densities = ppvae.log_densities(chain, posterior, x, 6)
    kl = {name: (densities.site_log_q[name] - densities.site_log_prob[name]).mean(0) for name in ("z1", "z2")}
    likelihood = densities.log_likelihood.mean(0)
    assert torch.allclose(elbo(densities, beta=0.3), likelihood - 0.3 * (kl["z1"] + kl["z2"]))
    between = sum(sorted(float(term.mean()) for term in kl.values())) / 2
    free = {name: term if term.mean() > between else torch.full_like(term, between) for name, term in kl.items()}
    assert torch.allclose(elbo(densities, free_bits=between), likelihood - free["z1"] - free["z2"])
    assert any((term == between).all() for term in free.values())


def test_warm_up_raises_beta_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, float]] = []
    take = Estimator.estimate

    def watched(self: Estimator, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            seen.append((self.beta, self.free_bits))
        return take(self, *args, **kwargs)

    monkeypatch.setattr(Estimator, "estimate", watched)
    data = ppvae.load_data("iris")
    ppvae.fit(
        ppvae.create("ppca", x_dim=4, latent_dim=2), data, beta=0.8, warmup=4, free_bits=0.1, steps=6, batch_size=20
    )
    assert seen == [(pytest.approx(b), 0.1) for b in (0.2, 0.4, 0.6, 0.8, 0.8, 0.8)]


def test_the_validation_bound_has_no_schedule() -> None:
    """A fit of no steps to speak of: what is recorded is the ELBO, whatever the warm-up."""
    data = ppvae.load_data("iris")
    torch.manual_seed(0)
    model = ppvae.create("ppca", x_dim=4, latent_dim=2)
    plain, warm = (ppvae.fit(model, data, steps=1, lr=1e-9, **more) for more in ({}, {"warmup": 50, "free_bits": 3.0}))
    assert plain.history[0]["valid_bound"] == pytest.approx(warm.history[0]["valid_bound"], abs=1e-4)


# What goes together


@pytest.mark.parametrize("objective", TOGETHER)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_every_pair_of_the_table_trains_and_no_other_does(objective: ObjectiveName, gradient: Gradient) -> None:
    data = ppvae.load_data("digits", num_train=60)
    torch.manual_seed(0)
    model = ppvae.create("vae", x_dim=64, latent_dim=2, hidden=[8])

    def fit() -> ppvae.Fit:
        return ppvae.fit(
            model, data, objective=objective, gradient=gradient, num_particles=3, epochs=25, lr=0.01,
            lr_encoder=1e-4, eval_every=5,
            patience=None, batch_size=20,
        )  # fmt: skip

    if gradient in TOGETHER[objective]:
        history = fit().history
        assert history[-1]["valid_bound"] > history[0]["valid_bound"]
    else:
        with pytest.raises(ppvae.PpvaeError, match=f"{gradient!r} does not go with objective {objective!r}"):
            fit()


def test_dreg_refuses_weights_of_the_guide() -> None:
    data = ppvae.load_data("digits", num_train=60)
    model = ppvae.create("dlgm", x_dim=64, latent_dims=[3, 2], hidden=8)
    with pytest.raises(ppvae.PpvaeError, match="guide owns weights"):
        ppvae.fit(model, data, objective="iwae", gradient="dreg", num_particles=3, epochs=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"objective": "iwea"}, "unknown objective 'iwea': did you mean 'iwae'"),
        ({"gradient": "reinforce"}, "unknown gradient 'reinforce'"),
        ({"gradient": "loo"}, "num_particles must be ≥ 2, got 1"),
        ({"objective": "iwae", "gradient": "vimco"}, "num_particles must be ≥ 2, got 1"),
        ({"gradient": "stl", "kl": "analytic"}, "kl='analytic' goes with"),
        ({"objective": "iwae", "kl": "analytic"}, "kl='analytic' goes with"),
        ({"objective": "iwae", "beta": 0.5}, "beta and free_bits weigh"),
        ({"objective": "iwae", "warmup": 5}, "warmup raises"),
        ({"beta": -1.0}, "beta must be a finite number ≥ 0"),
        ({"beta": math.inf}, "beta must be a finite number ≥ 0"),
        ({"free_bits": math.nan}, "free_bits must be a finite number ≥ 0"),
        ({"warmup": -1}, "warmup must be a whole number ≥ 0"),
        ({"train_model": "no"}, "train_model must be True or False"),
    ],
)
def test_refusals(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ppvae.PpvaeError) as caught:
        ppvae.fit(ppvae.create("ppca", x_dim=4, latent_dim=2), ppvae.load_data("iris"), epochs=1, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_drawn_discrete_latent_wants_a_score_function() -> None:
    x = torch.randn(30, 1, dtype=torch.float64)
    data = ppvae.Data("noise", x[:20], x[20:25], x[25:], "gaussian", "real")
    for objective in ("elbo", "iwae"):
        with pytest.raises(ppvae.PpvaeError, match=r"discrete latent.*choose gradient='score'"):
            ppvae.fit(Discrete(False), data, objective=objective, epochs=1)
    history = ppvae.fit(
        Discrete(False), data, gradient="loo", num_particles=4, epochs=40, lr=0.02, patience=None, eval_every=10
    ).history
    assert history[-1]["valid_bound"] > history[0]["valid_bound"]


# gradient_variance


def small_fit(inference: str = "amortized") -> tuple[ppvae.Fit, Tensor]:
    data = ppvae.load_data("digits", num_train=100)
    torch.manual_seed(0)
    model = ppvae.create("vae", x_dim=64, latent_dim=3, hidden=[10])
    return ppvae.fit(model, data, inference, epochs=3, lr=0.01), data.test[:10]


def test_gradient_variance_is_that_of_repeated_estimates(untouched: Untouched) -> None:
    """By hand from as many backward passes; nothing of the fit changes."""
    fit, x = small_fit()
    with untouched(fit.model, fit.strategy):
        found = ppvae.gradient_variance(fit, x, num_particles=2, repeats=400)
    assert list(found.gradient.values) == ["reparam", "stl", "score", "loo"]
    layout = fit.strategy.layout
    rows = layout.pack(fit.posterior(x).phi, len(x)).detach()
    torch.manual_seed(1)
    gradients = []
    for _ in range(400):
        leaf = rows.clone().requires_grad_()
        bound, _ = Estimator("elbo", "score").estimate(fit.model, Posterior(fit.model, layout.unpack(leaf)), x, 2)
        gradients.append(torch.autograd.grad(bound.sum(), leaf)[0])
    by_hand = torch.stack(gradients).var(0).sum(-1).mean()
    # a variance of 400 draws has a relative error of √(κ/400); the score function's tails make κ about 20
    assert float(found.variance_phi.sel(gradient="score")) == pytest.approx(float(by_hand), rel=4 * math.sqrt(20 / 400))
    ratio = float(found.variance_phi.sel(gradient="score") / found.variance_phi.sel(gradient="reparam"))
    assert ratio > 10
    assert (found.seconds > 0).all()


def test_gradient_variance_leaves_out_what_does_not_apply_unless_asked_for() -> None:
    fit, x = small_fit()
    assert list(ppvae.gradient_variance(fit, x, num_particles=1, repeats=2).gradient.values) == [
        "reparam",
        "stl",
        "score",
    ]
    with pytest.raises(ppvae.PpvaeError, match="must be ≥ 2"):
        ppvae.gradient_variance(fit, x, gradients=["loo"], num_particles=1)
    refused: list[Callable[[], object]] = [
        lambda: ppvae.gradient_variance(fit, x, repeats=1),
        lambda: ppvae.gradient_variance(fit, x[0]),
        lambda: ppvae.gradient_variance("fit", x),  # type: ignore[arg-type]
        lambda: ppvae.gradient_variance(fit, x, "eblo"),  # type: ignore[arg-type]
        lambda: ppvae.gradient_variance(fit, x, gradients=["vimco"]),
    ]
    for action in refused:
        with pytest.raises(ppvae.PpvaeError):
            action()
