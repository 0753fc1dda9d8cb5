"""Importance sampling from a Pyro guide."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol

import pyro
from torch import Tensor

from ppvae.check import one_line
from ppvae.densities import Densities, score
from ppvae.evidence.method import Block, Weighted
from ppvae.model import Model
from ppvae.sites import draw


class Guide(Protocol):
    """A Pyro program of x whose datapoints can be picked, such as a `ppvae.Posterior`."""

    def __call__(self, x: Tensor) -> Any: ...

    def select(self, index: Tensor) -> Guide: ...


class Proposal:
    """Weights p(x, z)/r(z) of draws from a guide r.

    Args:
        model: p.
        guide: r, for every datum.
        converged: [N] bool where r was optimised for each datum.
    """

    def __init__(self, model: Model, guide: Guide, converged: Tensor | None = None) -> None:
        self.model, self.guide, self.converged = model, guide, converged
        self._validated: set[int] = set()

    def weights(self, block: Block, particles: int, size: int) -> Iterator[Weighted]:
        x = block.x
        draws = draw(self.guide.select(block.positions), block.data[block.positions], particles)
        at = int(block.positions[0])
        for first in range(0, particles, size):
            # x is held against the support of its likelihood once
            with pyro.validation_enabled(at not in self._validated), one_line(type(self.model).__name__):
                densities = score(self.model, x, draws.part(block.rows, slice(first, first + size)))
            self._validated.add(at)
            yield _weighted(densities, min(size, particles - first), len(x))


def _weighted(densities: Densities, drawn: int, batch: int) -> Weighted:
    log_ratio = densities.log_ratio
    if not densities.enumerated:
        return Weighted(log_ratio, log_ratio)
    if not densities.sampled:  # the rows are every value there is
        log_marginal = (densities.log_weight + log_ratio).logsumexp(0, keepdim=True)
        return Weighted(log_marginal, densities.mean(log_ratio).unsqueeze(0), exact=True)
    # draw s weighs Σ_k q(k) w(k, zₛ); its bound is Σ_k q(k) log w(k, zₛ)
    log_q = densities.log_weight + math.log(drawn)
    log_w = (log_q + log_ratio).reshape(-1, drawn, batch).logsumexp(0)
    return Weighted(log_w, (log_q.exp() * log_ratio).reshape(-1, drawn, batch).sum(0))
