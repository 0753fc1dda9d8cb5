"""The device, the precision and the loggers of a fit: Lightning Fabric."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers.logger import Logger

from ppvae import require
from ppvae.errors import PpvaeError
from ppvae.randomness import block_seed, forked, reseed
from ppvae.training.settings import Settings


def checked_loggers(loggers: Logger | Sequence[Logger]) -> list[Logger]:
    each: list[Any] = list(loggers) if isinstance(loggers, (list, tuple)) else [loggers]
    for logger in each:
        if not isinstance(logger, Logger):
            raise PpvaeError(
                f"loggers must be Lightning loggers, such as lightning_fabric.loggers.CSVLogger(folder); "
                f"got {require.show(logger)}"
            )
    return each


@contextmanager
def machine(settings: Settings, loggers: Logger | Sequence[Logger]) -> Iterator[Fabric]:
    """The device of a fit, with its random numbers seeded; the caller's random state is restored.

    Raises:
        PpvaeError: the accelerator is missing, or a logger is not one of Lightning's.
    """
    each = checked_loggers(loggers)
    try:
        fabric = Fabric(accelerator=settings.accelerator, devices=1, precision=settings.precision, loggers=each)
    except Exception as error:
        raise PpvaeError(f"accelerator {settings.accelerator!r}: {str(error).splitlines()[0]}") from error
    with forked(fabric.device), torch.enable_grad():
        reseed(block_seed(settings.seed), fabric.device)
        yield fabric
