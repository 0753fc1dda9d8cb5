"""Fixed blocks of data and draws: random numbers are drawn for a whole block, also where only a part is used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ppvae.randomness import block_seed, reseed


@dataclass(frozen=True)
class Cell:
    """Data and draws whose random numbers are drawn together.

    Attributes:
        data: the range of the N data.
        draws: the range of the draws.
        positions: [DATA_BLOCK] in the data; beyond the end the last one is repeated.
    """

    data: slice
    draws: slice
    positions: Tensor

    @property
    def index(self) -> Tensor:
        """Positions of the rows of one batch that holds every draw, [draws · DATA_BLOCK]."""
        return self.positions.repeat(self.draws.stop - self.draws.start)

    def of(self, x: Tensor) -> Tensor:
        """Positions of the data in x, [data]."""
        return torch.arange(self.data.start, self.data.stop, device=x.device)

    def cut(self, rows: Tensor) -> Tensor:
        """Rows [draws · DATA_BLOCK, *event] of such a batch → [draws, data, *event]."""
        return rows.unflatten(0, (-1, DATA_BLOCK))[:, : self.data.stop - self.data.start]


def cells(size: int, num_draws: int, device: torch.device, *key: int) -> Iterator[Cell]:
    """Every cell of `num_draws` draws of `size` data, draws in the outer loop; each cell seeds the global generator."""
    for group, first in enumerate(range(0, num_draws, PARTICLE_BLOCK)):
        for block, at in enumerate(range(0, size, DATA_BLOCK)):
            reseed(block_seed(*key, block, group), device)
            positions = (at + torch.arange(DATA_BLOCK, device=device)).clamp_max(size - 1)
            data = slice(at, min(at + DATA_BLOCK, size))
            yield Cell(data, slice(first, min(first + PARTICLE_BLOCK, num_draws)), positions)


#: data optimised at once: enough to fill the processor, few enough that memory does not grow with the data
ROW_BLOCK = 500


def row_blocks(size: int, device: torch.device | None = None) -> Iterator[tuple[int, Tensor]]:
    """(number, positions) of each block of rows."""
    yield from enumerate(torch.arange(size, device=device).split(ROW_BLOCK))


#: random numbers are drawn for fixed blocks of this many datapoints and particles
DATA_BLOCK, PARTICLE_BLOCK = 100, 50


@dataclass(frozen=True)
class Block:
    """Positions of data whose random numbers are drawn together, and the rows of them that are wanted.

    Draws are made for the full block, so that those of a datum depend on its position and not on which others are
    wanted.

    Attributes:
        positions: [DATA_BLOCK] in the data; beyond the end the last one is repeated.
        rows: [B], the rows of the block that are wanted.
        data: all data [N, *event].
    """

    positions: Tensor
    rows: Tensor
    data: Tensor

    @property
    def wanted(self) -> Tensor:
        """Positions of the wanted rows in the data, [B]."""
        return self.positions[self.rows]

    @property
    def x(self) -> Tensor:
        """The wanted data [B, *event]."""
        return self.data[self.wanted]

    def normal(self, particles: int, *shape: int) -> Tensor:
        """Standard Normal noise [particles, B, *shape] of the wanted rows."""
        noise = torch.randn(particles, DATA_BLOCK, *shape, dtype=self.data.dtype, device=self.data.device)
        return noise[:, self.rows]

    def uniform(self, particles: int, *shape: int) -> Tensor:
        """Uniform noise on [0, 1), [particles, B, *shape], of the wanted rows."""
        noise = torch.rand(particles, DATA_BLOCK, *shape, dtype=self.data.dtype, device=self.data.device)
        return noise[:, self.rows]
