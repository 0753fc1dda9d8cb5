"""The score-function gradient."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ppvae.catalogue import register
from ppvae.errors import PpvaeError
from ppvae.pair.densities import Densities
from ppvae.pair.sites import Grad
from ppvae.variational.gradient import Gradient
from ppvae.variational.objective import Objective


@register("score", order=4, objectives={"elbo": "unbiased", "iwae": "unbiased"})
class ScoreFunction(Gradient):
    """The score-function gradient, REINFORCE (Williams 1992)."""

    draws: ClassVar[Grad] = "score"

    def surrogate(self, objective: Objective, densities: Densities, value: Tensor) -> Tensor:
        if densities.enumerated and densities.sampled:
            raise PpvaeError(
                f"the guide has enumerated and drawn sites, which {self.name} cannot separate: use reparam"
            )
        if densities.enumerated:  # nothing was drawn: the sum carries the whole gradient
            return value
        return objective.surrogate(densities, value, self.signal(objective, densities, value))

    def signal(self, objective: Objective, densities: Densities, value: Tensor) -> Tensor:
        """What each draw's score is multiplied by, [B] or [S, B]: the objective's signal, less a baseline."""
        return objective.signal(densities, value)
