"""What a named data set is made of: a function of `data/sources/` to the values as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ppvae.data.readers import SPLITS

GENERATED_SIZES = [700, 150, 150]  # of generated data: rows are independent, so blocks are fair splits


LogProb = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Raw:
    """Values as they are, split by their maker or not.

    Attributes:
        x: part → [N, *event] float32; the parts are train, valid and test, or train and test, or all.
        y: part → [N] int64, or None.
        log_prob: the exact log density, [B, *event] → [B], where the distribution is known.
    """

    x: dict[str, Tensor]
    y: dict[str, Tensor] | None = None
    log_prob: LogProb | None = None


def permutation(size: int) -> Tensor:
    """The order [size] in which rows are split: results on the same data are comparable, whatever their seeds."""
    return torch.from_numpy(np.random.RandomState(20131220).permutation(size))  # NumPy has frozen this stream for good


def generator(seed: int, stream: str) -> torch.Generator:
    """Random numbers of one purpose: a split's binarisation, or the "source"."""
    return torch.Generator().manual_seed(stream_seed(seed, stream))


def stream_seed(seed: int, stream: str) -> int:
    # SeedSequence keeps the streams of neighbouring seeds apart, and takes seeds of any size
    sequence = np.random.SeedSequence(seed, spawn_key=((*SPLITS, "source").index(stream),))
    return int(sequence.generate_state(1)[0])


def in_blocks(x: Tensor, y: Tensor, sizes: list[int], log_prob: LogProb | None = None) -> Raw:
    xs, ys = (dict(zip(SPLITS, rows.split(sizes), strict=True)) for rows in (x, y))
    return Raw(xs, ys, log_prob)
