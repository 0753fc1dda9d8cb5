"""Independent draws of q for many data, from a seed and the position of each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ppvae.check import one_line
from ppvae.errors import PpvaeError
from ppvae.evidence.method import DATA_BLOCK, PARTICLE_BLOCK
from ppvae.fitted import Fit
from ppvae.posterior import Posterior
from ppvae.randomness import block_seed, forked, reseed
from ppvae.sites import sample_sites


@contextmanager
def evaluating(fit: Fit) -> Iterator[None]:
    """Where draws are made: without gradients, and with the caller's random state given back."""
    device = fit.strategy.start.device
    with torch.no_grad(), forked(device), pyro.validation_enabled(False), one_line(type(fit.model).__name__):
        yield


@dataclass(frozen=True)
class Cell:
    """Data and draws that random numbers are drawn for together.

    Attributes:
        data: which of the N data.
        draws: which of the draws.
        positions: [DATA_BLOCK] in the data; the last one again beyond the end.
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
    """Every cell of `num_draws` draws of `size` data, draws outermost, the global generator seeded for each."""
    for group, first in enumerate(range(0, num_draws, PARTICLE_BLOCK)):
        for block, at in enumerate(range(0, size, DATA_BLOCK)):
            reseed(block_seed(*key, block, group), device)
            positions = (at + torch.arange(DATA_BLOCK, device=device)).clamp_max(size - 1)
            data = slice(at, min(at + DATA_BLOCK, size))
            yield Cell(data, slice(first, min(first + PARTICLE_BLOCK, num_draws)), positions)


def gather(fit: Fit, size: int, num_draws: int, of: Callable[[Cell], Sequence[Any]], *key: int) -> list[Any]:
    """`of(cell)` for every cell: tensors [draws, data, …], or dicts of them, each put together as [S, N, …]."""
    groups: dict[int, list[Sequence[Any]]] = {}  # first draw → every block of data
    with evaluating(fit):
        for cell in cells(size, num_draws, fit.strategy.start.device, *key):
            groups.setdefault(cell.draws.start, []).append(of(cell))
    rows = [[_join(each, 1) for each in zip(*group, strict=True)] for group in groups.values()]
    return [_join(each, 0) for each in zip(*rows, strict=True)]


def _join(parts: Sequence[Any], dim: int) -> Any:
    if isinstance(parts[0], dict):
        return {name: torch.cat([part[name] for part in parts], dim) for name in parts[0]}
    return torch.cat(list(parts), dim)


def guide_values(posterior: Posterior, x: Tensor, index: Tensor) -> dict[str, Tensor]:
    """One draw of z ~ q(z | x) for each of the positions `index` [n] in x: site → [n, *event].

    A discrete site is drawn, whether or not it is marked for enumeration.
    """
    sites = sample_sites(poutine.trace(posterior.select(index)).get_trace(x[index]))
    return {name: site["value"] for name, site in sites.items() if not site["infer"].get("_deterministic")}


def latents(posterior: Posterior, x: Tensor, index: Tensor) -> dict[str, Tensor]:
    """The same; raises PpvaeError where q has no latent."""
    values = guide_values(posterior, x, index)
    if not values:
        raise PpvaeError("the guide has no latent: there is no q to look at")
    return values


def names(values: Mapping[str, Tensor]) -> list[str]:
    """A name a coordinate of the latents {site: [S, B, *event]}."""
    return [each for site, value in values.items() for each in numbered(site, value.shape[2:])]


def numbered(name: str, shape: Sequence[int]) -> list[str]:
    """A name a number of an array of this shape: z, z[3] or z[0,2]."""
    places = itertools.product(*map(range, shape))
    return [f"{name}[{','.join(map(str, place))}]" if place else name for place in places]


def coordinates(values: Mapping[str, Tensor]) -> Tensor:
    """The latents {site: [S, B, *event]} as numbers [S, B, D], in the order of `names`."""
    return torch.cat([value.double().reshape(*value.shape[:2], -1) for value in values.values()], -1)
