"""A learning rate that falls along half a cosine.

Loshchilov & Hutter (2017), "SGDR: Stochastic gradient descent with warm restarts", without the restarts.
"""

from __future__ import annotations

import math

from ppvae.catalogue import SCHEDULES
from ppvae.options import option
from ppvae.training.schedule import Schedule


@SCHEDULES.register("cosine")
class Cosine(Schedule):
    """The learning rate falls along half a cosine over the budget of epochs and steps."""

    final: float = option(0.0, "the fraction of the learning rate that is left at the end", at_least=0, at_most=1)

    def multiplier(self, step: int, steps_per_epoch: int, num_steps: int) -> float:
        done = min(1.0, step / num_steps)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2
