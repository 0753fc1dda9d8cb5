"""The doubly reparameterised gradient."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ppvae.catalogue import register
from ppvae.errors import PpvaeError
from ppvae.pair.densities import Densities, score
from ppvae.pair.model import Model
from ppvae.pair.posterior import Posterior
from ppvae.pair.sites import Draws, Grad, draw
from ppvae.variational.gradient import Gradient, refuse_theta_in_q, with_gradient
from ppvae.variational.objective import Objective, normalised_weights


@register("dreg", order=3, objectives={"iwae": "unbiased"}, drops_score=True)
class DoublyReparameterised(Gradient):
    """Doubly reparameterised, with a copy of φ for each particle (Tucker et al. 2019).

    The gradient of θ is Σ w̄ ∂log w; that of φ is Σ w̄² ∂log w through the draws: each particle has a copy of φ, and
    the backward pass multiplies its gradient by w̄.
    """

    draws: ClassVar[Grad] = "path"
    unrecorded: ClassVar[tuple[str, str] | None] = ("dreg", "weighs gradients in the backward pass")

    def suits(self, model: Model, num_particles: int) -> None:
        if model.guide_modules:
            raise PpvaeError(
                f"{type(model).__name__}'s guide owns weights ({', '.join(model.guide_modules)}), which have no copy "
                "for each particle: dreg needs a guide of φ alone; use stl or reparam"
            )
        refuse_theta_in_q(model, self.name, "stl or reparam")

    def estimate(
        self,
        objective: Objective,
        model: Model,
        posterior: Posterior,
        x: Tensor,
        num_particles: int,
        draws: Draws | None = None,
    ) -> tuple[Tensor, Densities]:
        weights: list[Tensor] = []

        def weighed(gradient: Tensor) -> Tensor:
            return gradient * weights[0].reshape(*weights[0].shape, *[1] * (gradient.dim() - 2))

        copies = {}
        for name, value in posterior.phi.items():
            copy = value.unsqueeze(0).expand(num_particles, *value.shape).clone()
            if copy.requires_grad:
                copy.register_hook(weighed)
            copies[name] = copy
        densities = score(model, x, draw(Posterior(model, copies), x, num_particles, None, self.draws))
        if not densities.reparameterized or densities.enumerated:
            raise PpvaeError("dreg differentiates through every draw, and the guide has a discrete latent: use vimco")
        weights.append(normalised_weights(densities))
        surrogate = (weights[0] * densities.log_ratio).sum(0)
        return with_gradient(objective.value(densities), surrogate), densities
