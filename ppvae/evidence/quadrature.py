"""Integrals over one or two continuous latents, by Gauss-Legendre quadrature on cells."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool1d, max_pool2d

from ppvae.blocks import DATA_BLOCK
from ppvae.evidence.method import Known
from ppvae.evidence.newton import modes
from ppvae.evidence.problem import Problem
from ppvae.pair.target import Target
from ppvae.progress import Progress

#: Gauss-Legendre nodes of a cell, in each dimension
_NODES = 8
#: the most halvings of a cell
_MOST_HALVINGS = 40
#: dimensions → the most cells for one datum
_MOST_CELLS = {1: 10_000, 2: 3000}
#: dimensions → the most modes of one datum, and grid points in each dimension of a cell
_MOST_MODES, _POINTS = {1: 40, 2: 12}, {1: 16, 2: 2}
#: within this many widths of a mode, cells are halved until they are at most four widths wide
_MARGIN = 8.0
#: a density this many nats below the highest mode is negligible
_NEGLIGIBLE = 45.0
#: dimensions → edges of the first cells: asinh of the distance from the prior's mean in its standard deviations
_EDGES = {
    1: (0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 10.0, 14.0, 20.0),
    2: (0.0, 0.6, 1.2, 1.8, 2.5, 3.2, 4.0, 5.0, 7.0, 10.0, 20.0),
}


def quadrature(problem: Problem, target: Target, tolerance: float) -> Known:
    """log p(x) of each datum by quadrature over the latents of the target, and its numerical error."""
    value = torch.full((len(problem.x),), math.nan, dtype=torch.float64, device=problem.x.device)
    error, blocks, done = torch.zeros_like(value), problem.parts(DATA_BLOCK), 0
    with Progress(problem.progress, sum(map(len, blocks)), "log p(x)") as bar:
        for at in blocks:
            value[at], error[at] = _Integral(target, problem.x[at], problem.chunk_size).solve(tolerance)
            done += len(at)
            bar.update(done)
    return Known(value, error)


@dataclass(frozen=True)
class _Cells:
    """Boxes in t [P, D], the log integral over each [P], and the datum that each belongs to [P]."""

    low: Tensor
    high: Tensor
    log_integral: Tensor
    owner: Tensor

    def select(self, which: Tensor) -> _Cells:
        return _Cells(self.low[which], self.high[which], self.log_integral[which], self.owner[which])


class _Integral:
    """∫ p(x, u) du for B datapoints, over u = mean + std sinh(t), |t| ≤ 20, which holds tails as heavy as Cauchy's.

    Cells of a grid are halved until the Gauss-Legendre integrals of the halves add up to that of the whole; cells
    around a mode, until they are about as wide as the mode.
    """

    def __init__(self, target: Target, x: Tensor, rows: int) -> None:
        self.target, self.x, self.rows = target, x, rows
        nodes, weights = np.polynomial.legendre.leggauss(_NODES)
        products = list(itertools.product(range(_NODES), repeat=target.size))
        like = {"dtype": torch.float64, "device": x.device}
        self.nodes = torch.tensor([[nodes[i] for i in product] for product in products], **like)
        self.log_weights = torch.tensor([math.prod(weights[i] for i in p) for p in products], **like).log()
        corners = list(itertools.product((0.0, 0.5), repeat=target.size))
        self.corners = torch.tensor(corners, **like)

    def log_density(self, t: Tensor, owner: Tensor) -> Tensor:
        """log p(x, u) + log |du/dt| [P, Q], in float64, at t [P, Q, D] for the datapoints `owner` [P]."""
        target, out = self.target, []
        for at, which in zip(t.split(size := max(1, self.rows // t.shape[1])), owner.split(size), strict=True):
            u = target.mean + target.std * at.sinh()
            density = target.log_joint(u.transpose(0, 1).to(target.mean), self.x[which]).T
            out.append(density.double() + (at.cosh().log() + target.std.double().log()).sum(-1))
        density = torch.cat(out)
        return torch.where(density.isfinite(), density, -math.inf)  # no mass where T(u) overflows

    def solve(self, tolerance: float) -> tuple[Tensor, Tensor]:
        """log ∫ [B] and its numerical error [B]."""
        cells, peak, modes_at, widths = self.first_cells()
        scale = peak.where(peak.isfinite(), 0.0)
        noise = 4 * torch.finfo(self.target.mean.dtype).eps * (1 + scale.abs())
        aim = noise.clamp_min(tolerance)  # a smaller error would be hidden by rounding
        done, error, spent = (torch.zeros_like(scale) for _ in range(3))
        number = len(self.corners)
        for halving in range(_MOST_HALVINGS + 1):
            owner, halves = cells.owner, self.halved(cells)
            now, before = (
                (value - scale[owner]).exp()
                for value in (halves.log_integral.reshape(-1, number).logsumexp(-1), cells.log_integral)
            )
            change = (now - before).abs()
            off, total = error.index_add(0, owner, change), done.index_add(0, owner, now)
            count = torch.bincount(owner, minlength=len(scale))
            spent += number * count
            fine = change <= torch.maximum((aim / 8 * total / count)[owner], noise[owner] * now)
            fine |= (off <= aim / 2 * total)[owner]
            margin = _MARGIN * widths[owner]  # a mode near the edge of a cell also reaches into the next one
            low, high = (modes_at[owner] - end.unsqueeze(1) for end in (cells.low, cells.high))
            inside = ((low > -margin) & (high < margin)).all(-1)
            narrow = (widths[owner] < (cells.high - cells.low).unsqueeze(1) / 4).any(-1)
            fine &= ~(inside & narrow).any(-1)
            fine |= (spent > _MOST_CELLS[self.target.size])[owner] | (halving == _MOST_HALVINGS)
            done.index_add_(0, owner[fine], now[fine])
            error.index_add_(0, owner[fine], change[fine])
            cells = halves.select((~fine).repeat_interleave(number))
            if not len(cells.owner):
                break
        return done.log() + peak, error / done + noise

    def first_cells(self) -> tuple[_Cells, Tensor, Tensor, Tensor]:
        """The cells that matter, the largest log density [B], and modes with their widths in t [B, K, D]."""
        target, batch, dims = self.target, len(self.x), self.target.size
        edges = torch.tensor(_EDGES[dims], dtype=torch.float64, device=self.x.device)
        edges = torch.cat([-edges[1:].flip(0), edges])
        points = _POINTS[dims]
        within = torch.arange(points, dtype=torch.float64, device=edges.device) / points
        axis = torch.cat([(edges[:-1, None] + edges.diff()[:, None] * within).flatten(), edges[-1:]])
        grid = torch.cartesian_prod(*[axis] * dims).reshape(-1, dims)
        everyone = torch.arange(batch, device=self.x.device)
        density = torch.cat([
            self.log_density(grid.expand(len(at), -1, -1), at) for at in everyone.split(max(1, self.rows // len(grid)))
        ])  # fmt: skip
        # climb from every local maximum of the grid: the slopes of a peak narrower than a cell still lead to it
        lattice = density.clamp_min(torch.finfo(torch.float64).min).reshape(batch, 1, *[len(axis)] * dims)
        pool = max_pool1d if dims == 1 else max_pool2d
        summits = (lattice == pool(lattice, 3, stride=1, padding=1)).flatten(1) & density.isfinite()
        heights, where = torch.where(summits, density, -math.inf).topk(_MOST_MODES[dims])
        where = torch.where(heights.isfinite(), where, density.argmax(-1, keepdim=True))
        start = (target.mean + target.std * grid[where].sinh()).to(target.mean)
        x = self.x.repeat_interleave(_MOST_MODES[dims], 0)
        result = modes(target, start.flatten(0, 1), x, self.rows)
        at = ((result.u - target.mean) / target.std).double().asinh().clamp(edges[0], edges[-1])
        widths = (result.axes.square() @ result.precision.unsqueeze(-1)).squeeze(-1).rsqrt() / at.cosh()
        at, widths = (part.reshape(batch, _MOST_MODES[dims], dims) for part in (at, widths))
        tops = self.log_density(at, everyone)
        peak = torch.maximum(density.amax(-1), tops.amax(-1))
        low = torch.cartesian_prod(*[edges[:-1]] * dims).reshape(-1, dims)
        high = torch.cartesian_prod(*[edges[1:]] * dims).reshape(-1, dims)
        near = pool(lattice, points + 1, stride=points).flatten(1) > peak.unsqueeze(-1) - _NEGLIGIBLE
        holds = ((at.unsqueeze(2) >= low) & (at.unsqueeze(2) <= high)).all(-1)  # [B, K, cells]
        owner, cell = (near | holds.any(1)).nonzero(as_tuple=True)
        return self.measured(low[cell], high[cell], owner), peak, at, widths

    def measured(self, low: Tensor, high: Tensor, owner: Tensor) -> _Cells:
        """The integrals over boxes, some at a time, since each box has _NODES to the power D nodes."""
        parts = []
        for at in torch.arange(len(owner), device=owner.device).split(max(1, self.rows // len(self.nodes))):
            half = (high[at] - low[at]).unsqueeze(1) / 2
            density = self.log_density(low[at].unsqueeze(1) + half * (1 + self.nodes), owner[at])
            parts.append((density + self.log_weights).logsumexp(-1) + half.squeeze(1).log().sum(-1))
        return _Cells(low, high, torch.cat(parts), owner)

    def halved(self, cells: _Cells) -> _Cells:
        """Each cell's 2^D parts, one after the other."""
        side = (cells.high - cells.low).unsqueeze(1)
        low = cells.low.unsqueeze(1) + side * self.corners
        owner = cells.owner.repeat_interleave(len(self.corners))
        return self.measured(low.flatten(0, 1), (low + side / 2).flatten(0, 1), owner)
