"""A learning rate that falls in steps."""

from __future__ import annotations

from ppvae.catalogue import SCHEDULES
from ppvae.options import option
from ppvae.training.schedule import Schedule


@SCHEDULES.register("step")
class Step(Schedule):
    """The learning rate is multiplied by a factor each time that some epochs have passed."""

    every: int = option(50, "epochs between two changes", at_least=1)
    factor: float = option(0.5, "what each change multiplies the learning rate by", above=0)

    def multiplier(self, step: int, steps_per_epoch: int, num_steps: int) -> float:
        return self.factor ** (step // (self.every * steps_per_epoch))
