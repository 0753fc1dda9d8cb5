"""A learning rate that rises at the start.

Goyal et al. (2017), "Accurate, large minibatch SGD: Training ImageNet in 1 hour", section 2.2.
"""

from __future__ import annotations

from ppvae.catalogue import SCHEDULES
from ppvae.errors import PpvaeError
from ppvae.options import option
from ppvae.training.schedule import Schedule


@SCHEDULES.register("warm-up")
class WarmUp(Schedule):
    """The learning rate rises linearly to its value, and then stays there."""

    epochs: int | None = option(
        None, "how long it rises, in epochs; where neither epochs nor steps is given, 1", at_least=1
    )
    steps: int | None = option(None, "how long it rises, in steps, in place of epochs", at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs is not None and self.steps is not None:
            raise PpvaeError("epochs and steps were both given: remove one of them")

    def multiplier(self, step: int, steps_per_epoch: int, num_steps: int) -> float:
        length = (self.epochs or 1) * steps_per_epoch if self.steps is None else self.steps
        return min(1.0, (step + 1) / length)
