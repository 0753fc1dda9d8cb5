"""The device, the precision and the loggers of a fit: Lightning Fabric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.loggers.logger import Logger

from ppvae import require
from ppvae.errors import PpvaeError
from ppvae.training.settings import Precision


def checked_loggers(loggers: Logger | Sequence[Logger]) -> list[Logger]:
    each: list[Any] = list(loggers) if isinstance(loggers, (list, tuple)) else [loggers]
    for logger in each:
        if not isinstance(logger, Logger):
            raise PpvaeError(
                f"loggers must be Lightning loggers, such as lightning_fabric.loggers.CSVLogger(folder); "
                f"got {require.show(logger)}"
            )
    return each


def make_fabric(accelerator: str, precision: Precision, loggers: list[Logger]) -> Fabric:
    try:
        return Fabric(accelerator=accelerator, devices=1, precision=precision, loggers=loggers)
    except Exception as error:
        raise PpvaeError(f"accelerator {accelerator!r}: {str(error).splitlines()[0]}") from error
