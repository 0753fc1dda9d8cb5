"""The state of an unfinished run: a fit that is stopped at any step and resumed ends like one that is not stopped.

On a CPU with the same number of threads, weights and history are then the same to the last bit. The file is read with
`torch.load(weights_only=True)`: it holds only tensors, numbers, words, lists and mappings.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import torch

from ppvae.errors import Interrupted, PpvaeError
from ppvae.runs.files import missing_parents, remove_empty, write_with
from ppvae.runs.folder import CHECKPOINT, CONFIG, METRICS, write_metrics
from ppvae.training.loop import Training


class Checkpoints:
    """Called after each step: writes checkpoint.pt from time to time and on Ctrl-C, and metrics.csv as it grows.

    Args:
        directory: of the run.
        seconds: the time between two checkpoints.
    """

    def __init__(self, directory: Path, seconds: float) -> None:
        self.directory, self.seconds = directory, seconds
        self.made = missing_parents(directory)
        self.last = time.monotonic()
        self.lines = 0
        self.steps = 0  # of the last checkpoint

    def __call__(self, training: Training, interrupted: bool) -> None:
        if len(training.result.history) != self.lines:
            self.lines = len(training.result.history)
            write_metrics(self.directory, training.result.history)
        if interrupted or time.monotonic() - self.last >= self.seconds:
            self.write(training)
            self.last = time.monotonic()
        if interrupted:
            raise Interrupted(
                f"interrupted at step {training.steps}; the run is kept: ppvae fit --resume {self.directory}"
            )

    def write(self, training: Training) -> None:
        """Write checkpoint.pt, in place of the last one."""
        state = training.state()
        write_with(self.directory / CHECKPOINT, lambda scratch: torch.save(state, scratch))
        self.steps = training.steps

    def restore(self, training: Training) -> None:
        """Continue the run from its last checkpoint.

        Raises:
            PpvaeError: the file is damaged, holds more than tensors and plain values, or belongs to another run.
        """
        path = self.directory / CHECKPOINT
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # errors of the disk, of the archive, or of its contents
            raise PpvaeError(
                f"{path} is missing or damaged, or holds more than tensors and plain values: remove "
                f"{self.directory} and start again"
            ) from error
        try:
            threads = state["threads"]
            training.restore(state)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            why = " ".join(str(error).split())[:200]
            raise PpvaeError(
                f"{path} is damaged or of another model ({type(error).__name__}: {why}): remove {self.directory} and "
                "start again"
            ) from error
        self.lines, self.steps = len(training.result.history), training.steps
        if threads != torch.get_num_threads():
            warnings.warn(
                f"the run started with {threads} threads and continues with {torch.get_num_threads()}: its last digits "
                "may differ from those of a run that is not stopped",
                stacklevel=2,
            )

    def discard(self) -> None:
        """The run has failed: remove it, unless a checkpoint holds some of its steps."""
        if self.steps == 0:
            for name in (CONFIG, METRICS, CHECKPOINT):
                (self.directory / name).unlink(missing_ok=True)
            remove_empty(self.made)

    def remove(self) -> None:
        """The run is finished."""
        (self.directory / CHECKPOINT).unlink(missing_ok=True)
