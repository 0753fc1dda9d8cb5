"""The score-function gradient with the other particles as baseline."""

from __future__ import annotations

from torch import Tensor

from ppvae.catalogue import register
from ppvae.pair.densities import Densities
from ppvae.variational.gradients.score import ScoreFunction
from ppvae.variational.objective import Objective


@register("loo", order=5, objectives={"elbo": "unbiased"}, particles=2)
class LeaveOneOut(ScoreFunction):
    """Score function with the mean of the other particles as baseline (Kool et al. 2019)."""

    def signal(self, objective: Objective, densities: Densities, value: Tensor) -> Tensor:
        signal = objective.signal(densities, value)
        return signal - (signal.sum(0) - signal) / (len(signal) - 1)
