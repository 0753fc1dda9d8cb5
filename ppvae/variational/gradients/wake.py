"""The wake phases of reweighted wake-sleep."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ppvae.catalogue import register
from ppvae.pair.densities import Densities
from ppvae.pair.model import Model
from ppvae.pair.sites import Grad
from ppvae.variational.gradient import Gradient, refuse_theta_in_q
from ppvae.variational.objective import Objective, normalised_weights


@register("wake", order=7, objectives={"rws": "biased"})
class Wake(Gradient):
    """Reweighted wake-sleep: θ by the importance-weighted bound, φ by the weighted log q (Bornschein & Bengio 2015)."""

    draws: ClassVar[Grad] = "score"

    def suits(self, model: Model, num_particles: int) -> None:
        refuse_theta_in_q(model, self.name, "objective='iwae' with vimco or reparam")

    def surrogate(self, objective: Objective, densities: Densities, value: Tensor) -> Tensor:
        weights = normalised_weights(densities)
        return (weights * (densities.log_joint + densities.log_q)).sum(0)
