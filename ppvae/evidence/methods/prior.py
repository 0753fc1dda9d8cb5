"""Naive Monte Carlo from the prior."""

from __future__ import annotations

from torch import Tensor

from ppvae.catalogue import METHODS
from ppvae.evidence.method import Weighted
from ppvae.evidence.problem import Problem
from ppvae.evidence.proposal import Proposal
from ppvae.pair.densities import Densities
from ppvae.pair.model import Model
from ppvae.pair.posterior import Guide
from ppvae.pair.prior import PriorGuide
from ppvae.pair.sites import Draws, draw, marked


@METHODS.register("prior", order=2, applies=("continuous", "mixed", "enumerated", "summed", "drawn"))
def prior(problem: Problem) -> Prior:
    """Naive Monte Carlo from the prior: the mean likelihood of its draws.

    log (1/S) Σ p(x | zₛ). Weights are bounded by the largest p(x | z), and rarely near it where x depends strongly on
    z. Discrete latents that the model marks are summed out.
    """
    return Prior(problem.model, problem.x)


class Prior(Proposal):
    """Weights p(x | z) of draws from the prior; discrete latents that the model marks are summed out."""

    def __init__(self, model: Model, x: Tensor) -> None:
        self.prior = PriorGuide(model, x)
        super().__init__(model, self.prior)

    def draws(self, guide: Guide, x: Tensor, particles: int) -> Draws:
        drawn = draw(guide, x, particles).raw_values
        kept = {name: value for name, value in drawn.items() if not marked(self.prior.latents[name])}
        if not kept:
            return Draws({}, len(x), particles, next_dim=-3, reparameterized=True, analytic=False)
        return Draws.given(kept)

    def weighed(self, densities: Densities, drawn: int, batch: int) -> Weighted:
        return Weighted(densities.log_likelihood, densities.log_likelihood)
