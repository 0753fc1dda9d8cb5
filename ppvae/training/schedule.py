"""The base class of learning-rate schedules, and a table of learning rates as published runs give it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ppvae import require
from ppvae.catalogue import SCHEDULES
from ppvae.errors import PpvaeError
from ppvae.options import Options, option


class Schedule(Options):
    """How a learning rate changes in training, as a multiple of the given one. One file of `schedules/` each.

    θ and λ have the same multiplier, so that the ratio of their learning rates stays.
    """

    def multiplier(self, step: int, steps_per_epoch: int, num_steps: int) -> float:
        """The factor of the learning rate at a step, ≥ 0.

        Args:
            step: the number of steps that are done, 0 at the start.
            steps_per_epoch: steps of one pass over the training data.
            num_steps: the most steps that the budget of epochs and steps allows.
        """
        raise PpvaeError(f"{type(self).__name__} has no multiplier(step, steps_per_epoch, num_steps): write it")


class Table(Schedule):
    """Learning rates with the number of epochs that each lasts; the last one stays until training ends."""

    lr: float = option(1e-3, "the learning rate that the multiplier refers to", above=0)
    pairs: tuple[tuple[int, float], ...] = option((), "of (epochs, lr)", called="schedule")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.pairs:
            raise PpvaeError("schedule is an empty list: give pairs of [epochs, lr], or a name")
        for epochs, lr in self.pairs:
            require.count("epochs of each pair in schedule", epochs)
            require.positive("lr of each pair in schedule", lr)

    def multiplier(self, step: int, steps_per_epoch: int, num_steps: int) -> float:
        ends = 0
        for epochs, lr in self.pairs:
            ends += epochs
            if step < ends * steps_per_epoch:
                return lr / self.lr
        return self.pairs[-1][1] / self.lr


def make_schedule(schedule: str | tuple[tuple[int, float], ...], options: Mapping[str, Any], lr: float) -> Schedule:
    """The schedule of that name, or of that list of (epochs, lr), for a learning rate of θ.

    Raises:
        PpvaeError: an unknown name or option, or a value out of bounds.
    """
    if isinstance(schedule, str):
        kind: type[Schedule] = SCHEDULES[schedule]
        try:
            return kind.of(options)
        except PpvaeError as error:
            raise PpvaeError(f"schedule {schedule}: {error}") from None
    if options:
        raise PpvaeError(
            "schedule_options are for a schedule with a name, and schedule is a list: remove schedule_options"
        )
    return Table(lr=lr, pairs=schedule)
