"""Gradient estimators: unbiased against exact and long-run gradients, biased where the theory says so."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pyro
import pytest
import torch
from estimates import LONG, MANY, SIGMAS, Chain, distance, estimates, mean
from pyro.distributions import Categorical, Normal, constraints
from torch import Tensor, nn

import ppvae
from ppvae.catalogue import GRADIENTS, register
from ppvae.pair.densities import Densities
from ppvae.pair.local import Phi
from ppvae.variational.estimator import Estimator
from ppvae.variational.gradients.score import ScoreFunction
from ppvae.variational.gradients.vimco import log_mean_of_others
from ppvae.variational.objective import Objective
from ppvae.variational.objective_choice import gradients_of, table


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
    (o, g, kl)
    for o in ("elbo", "iwae")
    for g, bias in gradients_of(o).items()
    if bias == "unbiased"
    for kl in ((None, "mc") if g == "reparam" else (None,))
]


@pytest.mark.parametrize(("objective", "gradient", "kl"), CASES)
def test_the_unbiased_have_the_gradient_of_the_objective(
    objective: str, gradient: str, kl: Any, chain: Chain, reference: dict[str, Any]
) -> None:
    particles = 2 if objective == "elbo" else 4
    values, rows, theta = estimates(chain, 1.1, objective, gradient, particles, MANY, 3, kl)
    assert distance(values[:, None], reference[objective][0][:, None]).max() < SIGMAS
    assert distance(rows, reference[objective][1]).max() < SIGMAS
    assert distance(theta, reference[objective][2]).max() < SIGMAS


@pytest.mark.parametrize("gradient", ["stl", "wake"])
def test_the_comparison_separates_the_biased_from_the_unbiased(
    gradient: str, chain: Chain, reference: dict[str, Any]
) -> None:
    """The same comparison finds STL under IWAE, and wake-sleep's φ-step: it has the power to."""
    objective = "rws" if gradient == "wake" else "iwae"
    assert gradients_of(objective)[gradient] == "biased"
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


def exact_discrete(objective: str, particles: int, x: float) -> tuple[float, Tensor, Tensor]:
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
def test_discrete_draws_have_the_exact_gradient(objective: str, gradient: str, particles: int) -> None:
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

    def spread(objective: str, gradient: str) -> float:
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


def test_vimco_baseline_by_hand() -> None:
    log_w = torch.randn(4, 3, dtype=torch.float64)
    for s in range(4):
        swapped = log_w.clone()
        swapped[s] = log_w[[j for j in range(4) if j != s]].mean(0)
        assert torch.allclose(log_mean_of_others(log_w)[s], swapped.logsumexp(0) - math.log(4))


def test_a_drawn_discrete_latent_wants_a_score_function() -> None:
    torch.manual_seed(0)
    x = torch.randn(300, 1, dtype=torch.float64)
    data = ppvae.Data("noise", x[:200], x[200:250], x[250:], "gaussian", "real")
    for objective in ("elbo", "iwae"):
        with pytest.raises(ppvae.PpvaeError, match=r"discrete latent.*choose gradient='score'"):
            ppvae.fit(Discrete(False), data, objective=objective, epochs=1)
    history = ppvae.fit(
        Discrete(False), data, gradient="loo", num_particles=8, epochs=100, lr=0.01, patience=None, eval_every=25
    ).history
    assert history[-1]["valid_bound"] > history[0]["valid_bound"]


# One more


class BatchBaseline(ScoreFunction):
    """Score function with the mean over the other data of the batch as baseline (Mnih & Gregor 2014)."""

    def signal(self, objective: Objective, densities: Densities, value: Tensor) -> Tensor:
        signal = objective.signal(densities, value)
        return signal - (signal.sum(-1, keepdim=True) - signal) / (signal.shape[-1] - 1)


@pytest.fixture
def batch_baseline() -> Iterator[str]:
    register("batch-baseline", objectives={"elbo": "unbiased"}, order=8, particles=2)(BatchBaseline)
    yield "batch-baseline"
    GRADIENTS.forget("batch-baseline")


def test_one_class_adds_a_gradient(batch_baseline: str, chain: Chain, reference: dict[str, Any]) -> None:
    """Registered and nothing else edited, it has the gradient of the ELBO, with less noise, and trains a pair."""
    assert list(gradients_of("elbo"))[-1] == batch_baseline
    assert f"| `{batch_baseline}` | ✓ | – | – | Score function with the mean over the other data" in table()
    found = estimates(chain, 1.1, "elbo", batch_baseline, 2, MANY, 10)
    for samples, expected in zip(found[1:], reference["elbo"][1:], strict=True):
        assert distance(samples, expected).max() < SIGMAS
    plain = estimates(chain, 1.1, "elbo", "score", 2, MANY, 10)
    assert found[1].var(0).sum() < plain[1].var(0).sum()
    data = ppvae.load_data("digits", num_train=60)
    torch.manual_seed(0)
    model = ppvae.create("vae", x_dim=64, latent_dim=2, hidden=[8])
    history = ppvae.fit(
        model, data, gradient=batch_baseline, num_particles=3, epochs=25, lr=0.01, lr_encoder=1e-4, eval_every=5,
        patience=None, batch_size=20,
    ).history  # fmt: skip
    assert history[-1]["valid_bound"] > history[0]["valid_bound"]
    with pytest.raises(ppvae.PpvaeError, match=r"batch-baseline compares particles: num_particles must be ≥ 2, got 1"):
        ppvae.fit(model, data, gradient=batch_baseline, epochs=1)
    with pytest.raises(ppvae.PpvaeError, match="does not go with objective 'iwae'"):
        Estimator("iwae", batch_baseline)


def test_a_gradient_that_is_taken_back_is_unknown_again() -> None:
    with pytest.raises(ppvae.PpvaeError, match="unknown gradient 'batch-baseline'"):
        Estimator("elbo", "batch-baseline")
    with pytest.raises(ppvae.PpvaeError, match=r"gradient 'stl' is an entry of ppvae\.variational\.gradients\.stl"):
        GRADIENTS.forget("stl")
