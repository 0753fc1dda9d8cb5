"""The problem that a method solves: log p(x) of each datum under a pair."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ppvae.blocks import DATA_BLOCK, PARTICLE_BLOCK, Block
from ppvae.errors import PpvaeError
from ppvae.pair.compiled import CompiledJoint
from ppvae.pair.coverage import Uncovered, uncovered
from ppvae.pair.model import Model
from ppvae.pair.pair import ConvertedPair, Pair
from ppvae.pair.posterior import Guide, Posterior
from ppvae.pair.precision import converted
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
        notes: sentences that a reader of the result must know; parts of the same problem share them.
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
    notes: dict[str, None] = field(default_factory=dict)

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

    @cached_property
    def fault(self) -> Uncovered | None:
        """The latent for which draws of q cannot be weighed, or whose prior is not a density, or None."""
        return uncovered(self.model, self.posterior, self.x)

    def require_density(self, method: str) -> None:
        """Refuse a method that weighs draws of q, where q has no density on a part of the support of a latent."""
        if self.fault is not None:
            raise PpvaeError(
                f"{type(self.model).__name__}: {self.fault}: {method} weighs draws of the guide, so use method "
                "'prior', 'laplace', 'ais' or 'exact', or give the latent a density there"
            )

    def converted(self, dtype: torch.dtype) -> Problem:
        """The same problem in another precision, with the same q."""
        model = converted(self.model, dtype)
        other = copy.copy(self)
        other.__dict__ = {key: value for key, value in vars(self).items() if key not in ("target", "joint")}
        other.x = self.x.to(dtype)
        other.pair = ConvertedPair(self.pair, model, dtype)
        other.posterior = self.posterior.converted(model, dtype)
        other.start_guide = None if self.start_guide is None else self.start_guide.converted(model, dtype)
        return other

    def of(self, positions: Tensor) -> Problem:
        """The problem of these data alone."""
        other = copy.copy(self)
        other.__dict__ = {key: value for key, value in vars(self).items() if key not in ("target", "joint", "fault")}
        other.x, other.index, other.positions = self.x[positions], None, None
        other.posterior = self.posterior.select(positions)
        other.start_guide = None if self.start_guide is None else self.start_guide.select(positions)
        return other

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
