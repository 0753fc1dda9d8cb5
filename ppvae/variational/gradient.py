"""The base class of gradient estimators: the value of an objective, with the estimate as its gradient."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ppvae.catalogue import GRADIENTS, OBJECTIVES
from ppvae.errors import PpvaeError
from ppvae.pair.densities import Densities, score
from ppvae.pair.model import Model
from ppvae.pair.posterior import Posterior
from ppvae.pair.sites import Draws, Grad, draw
from ppvae.variational.objective import Objective
from ppvae.variational.objective_choice import gradients_of


class Gradient:
    """How the gradient of an objective is estimated. One file of `gradients/` each.

    Most define `draws` and `surrogate`; one that is not a function of the densities defines `estimate`. The
    registration names the `objectives` that it goes with.

    Attributes:
        draws: what carries the gradient: "full", the draws and log q; "path", the draws alone; "score", log q alone,
            where draws are constants.
        unrecorded: (name, reason) where it cannot be compiled.
    """

    catalogue: ClassVar = GRADIENTS
    draws: ClassVar[Grad] = "full"
    unrecorded: ClassVar[tuple[str, str] | None] = None

    @property
    def name(self) -> str:
        """The name that it is registered under."""
        return GRADIENTS.name_of(type(self)) or type(self).__name__

    def suits(self, model: Model, num_particles: int) -> None:
        """Refuse a model that the estimator does not work for; raises PpvaeError."""

    def estimate(
        self,
        objective: Objective,
        model: Model,
        posterior: Posterior,
        x: Tensor,
        num_particles: int,
        draws: Draws | None = None,
    ) -> tuple[Tensor, Densities]:
        """(objective [B] with the estimator's gradient, the densities behind it).

        Args:
            x: data [B, *event].
            num_particles: S draws for each datum.
            draws: from an earlier run in the mode of the attribute `draws`; they replace new ones.

        Raises:
            PpvaeError: the estimator needs draws that carry a gradient, and the guide draws a discrete latent.
        """
        densities = score(model, x, draws or draw(posterior, x, num_particles, None, self.draws))
        if self.draws != "score" and not densities.reparameterized:
            others = [repr(name) for name in _of(objective) if GRADIENTS[name].draws == "score"]
            choose = f", or choose gradient={' or '.join(others)}" if others else ""
            raise PpvaeError(
                "the guide draws a discrete latent, which has no reparameterised gradient: mark the "
                f'site infer={{"enumerate": "parallel"}}{choose}'
            )
        value = objective.value(densities)
        surrogate = self.surrogate(objective, densities, value)
        return value if surrogate is value else with_gradient(value, surrogate), densities

    def surrogate(self, objective: Objective, densities: Densities, value: Tensor) -> Tensor:
        """[B], whose gradient is the estimate; the value itself where draws carry it.

        Args:
            value: the objective at these densities.
        """
        return value


def with_gradient(value: Tensor, surrogate: Tensor) -> Tensor:
    """The value [B] with the gradient of the surrogate [B]."""
    return value.detach() + (surrogate - surrogate.detach())


def refuse_theta_in_q(model: Model, gradient: str, others: str) -> None:
    """Refuse a family whose q depends on θ; `others` names what to use instead."""
    if model.guide_family is not None and model.guide_family.uses_model:
        raise PpvaeError(
            f"the q of this family depends on θ, and {gradient} needs a q that depends on φ alone: use {others}"
        )


def _of(objective: Objective) -> list[str]:
    """Names of the estimators that go with an objective."""
    name = OBJECTIVES.name_of(type(objective))
    return [] if name is None else list(gradients_of(name))
