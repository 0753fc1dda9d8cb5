"""The base class of objectives: functions of the densities, [R, B] → [B], in nats/datum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ppvae.catalogue import OBJECTIVES
from ppvae.errors import PpvaeError
from ppvae.pair.densities import Densities
from ppvae.variational.objective_choice import KL


@dataclass(frozen=True)
class Objective:
    """What is maximised. One file of `objectives/` each, which writes `value(densities)`.

    Its registration has `kl_terms=True` where it uses kl, beta and free_bits, and may name `gradients`.

    Attributes:
        kl: "analytic" or "mc", the form of its KL terms.
        beta: weight of its KL terms.
        free_bits: nats of each site's KL that cost nothing.
        mean_over_draws: whether it is the mean of a number for each draw, so that more draws give the same objective
            with less noise; other objectives depend on the number of draws.
    """

    catalogue: ClassVar = OBJECTIVES
    mean_over_draws: ClassVar[bool] = False

    kl: KL = "mc"
    beta: float = 1.0
    free_bits: float = 0.0

    @property
    def unrecorded(self) -> tuple[str, str] | None:
        """(option, reason) where it cannot be compiled."""
        return None

    def value(self, densities: Densities) -> Tensor:
        """The objective [B]."""
        raise PpvaeError(f"{type(self).__name__} has no value(densities): write it")

    def signal(self, densities: Densities, value: Tensor) -> Tensor:
        """What each draw's score is multiplied by, without gradient: [B] or [S, B].

        Args:
            value: the objective at these densities.
        """
        return value.detach()

    def surrogate(self, densities: Densities, value: Tensor, signal: Tensor) -> Tensor:
        """[B], whose gradient at constant draws is the score-function estimate.

        Args:
            value: the objective at these densities.
            signal: what each draw's score is multiplied by, [B] or [S, B].
        """
        return (signal * densities.log_q).sum(0) + value


def normalised_weights(densities: Densities) -> Tensor:
    """w̄ = w / Σ w over rows [R, B], without gradient."""
    return (densities.log_ratio + densities.log_weight).detach().softmax(0)
