"""Objectives: bounds on log p(x), and by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from estimates import MANY, SIGMAS, Chain, distance, estimates, mean
from torch import Tensor

import ppvae
from ppvae.catalogue import OBJECTIVES, register
from ppvae.pair.densities import Densities
from ppvae.pair.posterior import Posterior
from ppvae.variational.estimator import Estimator
from ppvae.variational.objective import Objective
from ppvae.variational.objective_choice import gradients_of, table
from ppvae.variational.objectives.elbo import elbo


@pytest.fixture(scope="module")
def chain() -> Chain:
    return Chain()


@pytest.mark.parametrize("particles", [1, 2, 5, 20])
@pytest.mark.parametrize("objective", ["elbo", "iwae"])
def test_no_bound_exceeds_the_exact_log_p(objective: str, particles: int) -> None:
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


# One more

ALPHA = 0.5


class Renyi(Objective):
    """The Rényi bound of order ½, log mean w^½ · 2 (Li & Turner 2016)."""

    def value(self, densities: Densities) -> Tensor:
        return (densities.log_weight + (1 - ALPHA) * densities.log_ratio).logsumexp(0) / (1 - ALPHA)


@pytest.fixture
def renyi() -> Iterator[str]:
    register("renyi", order=4, gradients={"reparam": "unbiased", "score": "unbiased", "stl": "biased"})(Renyi)
    yield "renyi"
    OBJECTIVES.forget("renyi")


def test_one_class_adds_an_objective(renyi: str, chain: Chain) -> None:
    """Registered and nothing else edited, it lies between the ELBO and IWAE, its gradients agree, and it trains."""
    assert gradients_of(renyi) == {"reparam": "unbiased", "stl": "biased", "score": "unbiased"}
    assert "| `elbo` | `iwae` | `rws` | `renyi` | what it is |" in table()
    values, rows, theta = estimates(chain, 1.1, renyi, "reparam", 4, MANY, 11)
    by_score = estimates(chain, 1.1, renyi, "score", 4, MANY, 12)
    assert distance(rows, by_score[1]).max() < SIGMAS
    assert distance(theta, by_score[2]).max() < SIGMAS
    low, high = (mean(estimates(chain, 1.1, name, "reparam", 4, MANY, 13)[0]) for name in ("elbo", "iwae"))
    value, error = mean(values)
    assert low[0] + SIGMAS * math.hypot(low[1], error) < value < high[0] - SIGMAS * math.hypot(high[1], error)
    fit = ppvae.fit(
        ppvae.create("ppca", x_dim=4, latent_dim=2), ppvae.load_data("iris"), objective=renyi, num_particles=4,
        epochs=10, lr=0.01, eval_every=2,
    )  # fmt: skip
    assert (fit.settings.objective, fit.settings.gradient, fit.settings.kl) == ("renyi", "reparam", "mc")
    assert fit.history[-1]["valid_bound"] > fit.history[0]["valid_bound"]
    with pytest.raises(ppvae.PpvaeError, match="beta and free_bits weigh"):
        Estimator(renyi, beta=2.0)


def test_an_objective_without_a_gradient_says_so() -> None:
    register("alone")(type("Alone", (Objective,), {"__module__": __name__, "__doc__": "Alone."}))
    try:
        with pytest.raises(ppvae.PpvaeError, match=r"no gradient goes with objective 'alone': register it with"):
            Estimator("alone")
    finally:
        OBJECTIVES.forget("alone")


def test_the_number_of_draws_is_a_part_of_all_but_the_elbo() -> None:
    assert {name: Estimator(name).goal.mean_over_draws for name in OBJECTIVES} == {
        "elbo": True, "iwae": False, "rws": False,
    }  # fmt: skip
