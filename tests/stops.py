"""Training that stops in the middle: by an error, or as a kill stops it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from torch import Tensor

from ppvae.training.loop import Training


class Failed(Exception):
    """An error, which a run may handle."""


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill."""


@contextmanager
def stopped_before(
    step: int, error: type[BaseException] = Failed, when: Callable[[], bool] = lambda: True
) -> Iterator[None]:
    """The block must end with `error`, raised before a fit takes the step of that number, counted from 0.

    Args:
        when: whether the fit that trains is the one to stop; where it gives False, the step is taken.
    """
    take = Training.take_step

    def stopping(self: Training, index: Tensor) -> float:
        if self.steps == step and when():
            raise error
        return take(self, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "take_step", stopping)
        with pytest.raises(error):
            yield
