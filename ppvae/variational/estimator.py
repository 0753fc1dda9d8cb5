"""An objective and the estimator of its gradient, together.

An `Estimator` returns a tensor [B] whose value is the objective and whose gradient is the estimate, so that callers
need not know which of them was chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ppvae import require
from ppvae.catalogue import GRADIENTS, OBJECTIVES
from ppvae.pair.densities import Densities, score
from ppvae.pair.model import Model
from ppvae.pair.posterior import Posterior
from ppvae.pair.sites import Draws, draw
from ppvae.variational.gradient import Gradient
from ppvae.variational.objective import Objective
from ppvae.variational.objective_choice import choose_gradient, gradients_of, require_particles


@dataclass(frozen=True)
class Estimator:
    """An objective and the estimator of its gradient.

    Args:
        objective: name of an objective, such as "elbo" or "iwae" (of num_particles draws).
        gradient: name of a gradient that goes with it; where None, the objective's default.
        kl: of the ELBO, "analytic" where that is exact or "mc"; where None, analytic if the gradient allows it.
        beta, free_bits: weight of the ELBO's KL terms, and the nats of them that cost nothing.

    Raises:
        PpvaeError: an unknown name, or names that do not go together.
    """

    objective: str = "elbo"
    gradient: str | None = None
    kl: str | None = None
    beta: float = 1.0
    free_bits: float = 0.0

    def __post_init__(self) -> None:
        require.positive("beta", self.beta, zero=True)
        require.positive("free_bits", self.free_bits, zero=True)
        gradient, kl = choose_gradient(self.objective, self.gradient, self.kl, beta=self.beta, free_bits=self.free_bits)
        object.__setattr__(self, "gradient", gradient)
        object.__setattr__(self, "kl", kl)

    @cached_property
    def goal(self) -> Objective:
        """The objective of that name."""
        return OBJECTIVES[self.objective](self.kl, self.beta, self.free_bits)

    @cached_property
    def rule(self) -> Gradient:
        """The gradient of that name."""
        assert self.gradient is not None
        return GRADIENTS[self.gradient]()

    @property
    def by_score(self) -> bool:
        """Whether the gradient takes draws as constants."""
        return self.rule.draws == "score"

    def plain(self) -> Estimator:
        """The same objective with the plain gradient, where draws carry it: for φ of one datum that is enough."""
        if self.by_score:
            return self
        plain = (name for name in gradients_of(self.objective) if GRADIENTS[name].draws == "full")
        return replace(self, gradient=next(plain, self.gradient))

    def suits(self, model: Model, num_particles: int) -> None:
        """Refuse a model, or a number of particles, that the gradient estimator does not work for."""
        assert self.gradient is not None
        self.rule.suits(model, num_particles)
        require_particles(self.gradient, num_particles)

    def estimate(
        self,
        model: Model,
        posterior: Posterior,
        x: Tensor,
        num_particles: int,
        draws: Draws | None = None,
    ) -> tuple[Tensor, Densities]:
        """(objective [B] with the estimator's gradient, the densities behind it).

        `draws` from an earlier run, for the plain or the score-function gradient, replace new ones.
        """
        if not torch.is_grad_enabled():
            densities = score(model, x, draws or draw(posterior, x, num_particles))
            return self.goal.value(densities), densities
        return self.rule.estimate(self.goal, model, posterior, x, num_particles, draws)
