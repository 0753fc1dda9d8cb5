"""The untreated values of a named data set, which a function in `data/sources/` returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ppvae.data.preparation import Preparation
from ppvae.data.readers import SPLITS

GENERATED_SIZES = [700, 150, 150]  # of generated data: rows are independent, so blocks are fair splits


LogProb = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Raw:
    """Untreated values, with or without the splits of their publisher.

    Attributes:
        x: part → [N, *event] floating; the parts are train, valid and test, or train and test, or all.
        y: part → [N] int64, or None.
        log_prob: the exact log density, [B, *event] → [B], where the distribution is known.
        learned: what reading them has learned about preparing such data.
    """

    x: dict[str, Tensor]
    y: dict[str, Tensor] | None = None
    log_prob: LogProb | None = None
    learned: Preparation = field(default_factory=lambda: Preparation("real"))


def permutation(size: int) -> Tensor:
    """The order [size] in which rows are split; it does not depend on a seed, so that results are comparable."""
    return torch.from_numpy(
        np.random.RandomState(20131220).permutation(size)
    )  # NumPy guarantees that this stream does not change


def generator(seed: int, stream: str) -> torch.Generator:
    """The random numbers of one stream: of the binarisation of a split, or "source" for generated data."""
    return torch.Generator().manual_seed(stream_seed(seed, stream))


def binarised(x: Tensor, seed: int, split: str) -> Tensor:
    """Bernoulli(x) draws; each split has a stream, so that test does not depend on train."""
    return torch.bernoulli(x, generator=generator(seed, split))


def stream_seed(seed: int, stream: str) -> int:
    # SeedSequence makes the streams of similar seeds independent, and takes seeds of any size
    sequence = np.random.SeedSequence(seed, spawn_key=((*SPLITS, "source").index(stream),))
    return int(sequence.generate_state(1)[0])


def in_blocks(x: Tensor, y: Tensor, sizes: list[int], log_prob: LogProb | None = None) -> Raw:
    xs, ys = (dict(zip(SPLITS, rows.split(sizes), strict=True)) for rows in (x, y))
    return Raw(xs, ys, log_prob)
