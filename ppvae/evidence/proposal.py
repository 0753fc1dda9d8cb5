"""Importance sampling from a Pyro guide."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pyro
import torch
from torch import Tensor

from ppvae.blocks import PARTICLE_BLOCK, Block
from ppvae.evidence.method import CHECKED, Sampler, Weighted
from ppvae.evidence.widening import Widened, tails_of, widens
from ppvae.pair.compiled import CompiledJoint
from ppvae.pair.densities import Densities, score
from ppvae.pair.faults import explained
from ppvae.pair.model import Model
from ppvae.pair.posterior import Guide
from ppvae.pair.sites import Draws, draw


class Proposal(Sampler):
    """Weights p(x, z)/r(z) of draws from a guide r.

    Args:
        model: p.
        guide: r, for every datum.
        converged: [N] bool where r was optimised for each datum.
        joint: log p(x, z), compiled; if given, it is used in place of the model's program.
    """

    def __init__(
        self, model: Model, guide: Guide, converged: Tensor | None = None, joint: CompiledJoint | None = None
    ) -> None:
        self.model, self.guide, self.converged, self.joint = model, guide, converged, joint
        self._validated: set[int] = set()

    def weights(self, block: Block, particles: int, size: int) -> Iterator[Weighted]:
        x = block.x
        draws = self.draws(self.proposal(block), block.data[block.positions], particles)
        at = int(block.positions[0])
        plain = type(self).weighed is Proposal.weighed and all(site.weight is None for site in draws.sites.values())
        if self.joint is not None and plain:
            yield from self._compiled(block, self.joint, draws, particles, size)
            return
        for first in range(0, particles, size):
            # check once that x lies in the support of its likelihood
            with pyro.validation_enabled(at not in self._validated), explained(type(self.model).__name__):
                densities = score(self.model, x, draws.part(block.rows, slice(first, first + size)))
            self._validated.add(at)
            weighted = self.weighed(densities, min(size, particles - first), len(x))
            yield weighted if first else self._with_draws(weighted, block, draws)

    def _with_draws(self, weighted: Weighted, block: Block, draws: Draws) -> Weighted:
        """The weights with the first few draws behind them."""
        few = draws.part(block.rows, slice(0, min(CHECKED, draws.particles)))
        guide = self.proposal(block).select(block.rows)
        return replace(weighted, draws=few, guide=guide)

    def _compiled(
        self, block: Block, joint: CompiledJoint, draws: Draws, particles: int, size: int
    ) -> Iterator[Weighted]:
        """As `weights`, always in the shape of whole blocks, so that one record is enough; the rest is dropped."""
        x = block.data[block.positions]
        if int(block.positions[0]) not in self._validated:
            with pyro.validation_enabled(True), explained(type(self.model).__name__):
                score(self.model, x, draws.part(torch.arange(len(x), device=x.device), slice(0, 1)))
            self._validated.add(int(block.positions[0]))
        log_q = sum((site.log_prob for site in draws.sites.values()), x.new_zeros(()))
        size = min(size, PARTICLE_BLOCK)
        for first in range(0, particles, size):
            some = (first + torch.arange(size, device=x.device)).clamp_max(particles - 1)
            log_joint = joint(x, {name: value[some] for name, value in draws.raw_values.items()})
            log_w = (log_joint - log_q[some])[: particles - first, block.rows]
            weighted = Weighted(log_w, log_w)
            yield weighted if first else self._with_draws(weighted, block, draws)

    @property
    def start_guide(self) -> Guide | None:
        """r before it is widened."""
        return self.guide.guide if isinstance(self.guide, Widened) else self.guide

    def with_student_tails(self, x: Tensor) -> Proposal | None:
        """The same with a Student t in place of each Gaussian of r, or None where r has no Gaussian."""
        guide = self.guide.guide if isinstance(self.guide, Widened) else self.guide
        size = widens(guide, x)
        if not size:
            return None
        return Proposal(self.model, Widened(guide, 1.0, tails_of(size)), self.converged, self.joint)

    def proposal(self, block: Block) -> Guide:
        """r of all data of a block."""
        return self.guide.select(block.positions)

    def draws(self, guide: Guide, x: Tensor, particles: int) -> Draws:
        """Draws of r for all data x [B, *event] of a block."""
        return draw(guide, x, particles)

    def weighed(self, densities: Densities, drawn: int, batch: int) -> Weighted:
        """The weights of `drawn` draws for `batch` data, from the densities under both programs."""
        log_ratio = densities.log_ratio
        if not densities.enumerated:
            return Weighted(log_ratio, log_ratio)
        if not densities.sampled:  # the rows are all values
            log_marginal = densities.weighed_ratio().logsumexp(0, keepdim=True)
            return Weighted(log_marginal, densities.mean(log_ratio).unsqueeze(0), exact=True)
        # the weight of draw s is Σ_k q(k) w(k, zₛ); its bound is Σ_k q(k) log w(k, zₛ)
        log_q = densities.log_weight + math.log(drawn)
        log_w = densities.weighed_ratio(math.log(drawn)).reshape(-1, drawn, batch).logsumexp(0)
        bound = log_q.exp() * log_ratio.masked_fill(log_q.isneginf(), 0.0)
        return Weighted(log_w, bound.reshape(-1, drawn, batch).sum(0))
