"""The problem that a method solves: log p(x) of each datum under a pair."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ppvae.blocks import DATA_BLOCK, PARTICLE_BLOCK, Block
from ppvae.pair.compiled import CompiledJoint
from ppvae.pair.model import Model
from ppvae.pair.pair import Pair
from ppvae.pair.posterior import Guide, Posterior
from ppvae.pair.target import Target


@dataclass
class Problem:
    """The problem that a method solves: log p(x) of each datum under a pair.

    Attributes:
        x: data [N, *event].
        index: positions of x in the training set, or None.
        seed: of all draws.
        num_samples: draws that each datum will get.
        chunk_size: particles × datapoints scored at once.
        progress: whether to show a progress bar; None on a terminal only.
        positions: [A], the positions in x of the data to estimate; None for all.
        compile: whether to run the model compiled.
        smooth: whether to compute also the estimates that are not lower bounds.
        start_guide: a guide of every datum that is closer to the posterior than q, or None.
    """

    pair: Pair
    x: Tensor
    index: Tensor | None
    seed: int
    num_samples: int
    chunk_size: int = DATA_BLOCK * PARTICLE_BLOCK
    progress: bool | None = False
    positions: Tensor | None = None
    compile: bool = False
    smooth: bool = False
    start_guide: Guide | None = None

    @property
    def model(self) -> Model:
        return self.pair.model

    @cached_property
    def posterior(self) -> Posterior:
        """q of every datum, as the pair gives it."""
        return self.pair.posterior(self.x, self.index, seed=self.seed)

    @cached_property
    def target(self) -> Target:
        """The continuous latents; raises PpvaeError where the model has none, or draws a discrete one."""
        return Target(self.model, self.x)

    @cached_property
    def joint(self) -> CompiledJoint | None:
        """log p(x, z), compiled, where `compile` is set."""
        return CompiledJoint(self.model) if self.compile else None

    @property
    def everyone(self) -> Tensor:
        """Positions of all data, [N]."""
        return torch.arange(len(self.x), device=self.x.device)

    def parts(self, rows: int) -> list[Tensor]:
        """Positions of the wanted data, at most `rows` (at least one) at a time."""
        wanted = self.everyone if self.positions is None else self.positions
        return list(wanted.split(max(1, rows)))

    def at(self, positions: Tensor, num_samples: int | None = None) -> Problem:
        """The same problem for some of the data; it keeps what is known about q."""
        other = copy.copy(self)
        other.positions = positions.sort().values
        other.num_samples = self.num_samples if num_samples is None else num_samples
        return other

    def blocks(self) -> Iterator[tuple[int, Block]]:
        """(number, block) of every block that has wanted data."""
        size = len(self.x)
        wanted = self.everyone if self.positions is None else self.positions
        for number in range((size + DATA_BLOCK - 1) // DATA_BLOCK):
            first = number * DATA_BLOCK
            rows = wanted[(wanted >= first) & (wanted < first + DATA_BLOCK)] - first
            if len(rows):
                positions = (first + torch.arange(DATA_BLOCK, device=self.x.device)).clamp_max(size - 1)
                yield number, Block(positions, rows, self.x)
