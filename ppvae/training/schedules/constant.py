"""The learning rate as it is."""

from __future__ import annotations

from ppvae.catalogue import SCHEDULES
from ppvae.training.schedule import Schedule


@SCHEDULES.register("constant")
class Constant(Schedule):
    """The learning rate stays as it is."""

    def multiplier(self, step: int, steps_per_epoch: int, num_steps: int) -> float:
        return 1.0
