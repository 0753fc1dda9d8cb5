"""log p(x) without draws: in closed form, by a sum over values, or by quadrature."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.nn.functional import max_pool1d, max_pool2d

from ppvae import require
from ppvae.check import one_line
from ppvae.densities import score
from ppvae.errors import PpvaeError
from ppvae.evidence.laplace import modes
from ppvae.evidence.method import DATA_BLOCK, Certain, Question, method
from ppvae.evidence.naive import Story
from ppvae.model import Model, overrides
from ppvae.progress import Progress
from ppvae.randomness import seeded
from ppvae.sites import Draws, is_subsample
from ppvae.target import Target

#: products of values, at most, that are summed over
_MOST_VALUES = 100_000
#: dimensions, at most, that quadrature takes on
_MOST_DIMS = 2
#: data on which it is first looked whether log p(x, u) is quadratic
_FEW = 4
#: in prior standard deviations how far apart the points are at which it is looked, and in how many directions
_FAR, _DIRECTIONS = (1.0, 10.0, 100.0), 8
#: the stream of random numbers of these directions
_STREAM_CHECK = 43
#: Gauss-Legendre nodes of a cell, in each dimension
_NODES = 8
#: halvings of a cell
_MOST_HALVINGS = 40
#: dimensions → cells in all for one datum
_MOST_CELLS = {1: 10_000, 2: 3000}
#: dimensions → modes of one datum that are climbed to, and points of the grid in each dimension of a cell
_MOST_MODES, _POINTS = {1: 40, 2: 12}, {1: 16, 2: 2}
#: widths around a mode within which cells are halved until they are no wider than four
_MARGIN = 8.0
#: nats below the highest mode that matter no more
_NEGLIGIBLE = 45.0
#: dimensions → edges of the first cells: asinh of the distance from the prior's mean in its standard deviations
_EDGES = {
    1: (0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 10.0, 14.0, 20.0),
    2: (0.0, 0.6, 1.2, 1.8, 2.5, 3.2, 4.0, 5.0, 7.0, 10.0, 20.0),
}


@method("exact", applies=("continuous", "mixed", "enumerated", "summed", "drawn"))
def exact(asked: Question, *, tolerance: float = 1e-8) -> Certain:
    """No draws: a closed form, a sum over all values, or quadrature in one or two dimensions.

    In this order: the model's own log_prob(x); where all latents are discrete and take finitely many values, the sum
    over these; where log p(x, u) is quadratic in the continuous latents, the Gaussian integral; over up to two of them
    in unconstrained space, adaptive Gauss-Legendre quadrature from all modes that a grid leads to. `log_marginal_se` is
    the numerical error, as far as it shows: a peak far narrower than the grid, aside from all slopes, would not.

    Args:
        tolerance: error in nats at which quadrature stops, if rounding or a limit on cells does not stop it before: of
            single precision 1e-5 or so remains, and as much of the kinks that a ReLU network has in two dimensions.

    Raises:
        PpvaeError: none of these applies.
    """
    require.positive("tolerance", tolerance)
    model = asked.model
    if overrides(model, "log_prob"):
        with torch.no_grad():
            value = model.log_prob(asked.x)
        return Certain(value, torch.zeros_like(value))
    with torch.no_grad(), pyro.validation_enabled(False):
        latents = Story(model, asked.x).latents
        if all(site["fn"].support.is_discrete for site in latents.values()):
            return _enumerated(asked, latents)
        try:
            target = asked.target
        except PpvaeError as error:
            raise PpvaeError(f'{_without(model)}, and {error}, such as method="importance"') from None
        _validate(target, asked.x)
        with one_line(type(model).__name__):
            found = _gaussian(asked, target)
            if found is None and target.size <= _MOST_DIMS:
                found = _quadrature(asked, target, tolerance)
    if found is None:
        raise PpvaeError(
            f"{_without(model)}, is not linear Gaussian, and quadrature takes {_MOST_DIMS} continuous latent "
            f'dimensions where it has {target.size}: use method="importance", or another that draws'
        )
    return found


def _without(model: Model) -> str:
    return f"{type(model).__name__} has no exact log_prob(x)"


def _blocks(asked: Question, rows: int) -> list[Tensor]:
    """Positions of the wanted data, some at a time."""
    everyone = torch.arange(len(asked.x), device=asked.x.device) if asked.positions is None else asked.positions
    return list(everyone.split(max(1, rows)))


def _validate(target: Target, x: Tensor) -> None:
    """x is held against the support of its likelihood."""
    with pyro.validation_enabled(True), one_line(type(target.model).__name__):
        for part in x.split(DATA_BLOCK):
            target.log_joint(target.mean.expand(1, len(part), -1), part)


# sums


def _enumerated(asked: Question, latents: dict[str, Any]) -> Certain:
    count = 1
    for name, site in latents.items():
        fn = site["fn"]
        if not fn.has_enumerate_support or fn.event_shape:
            raise PpvaeError(
                f"{_without(asked.model)}, and its latent {name!r} ({type(fn).__name__}) has no list of values to sum "
                'over: use method="importance"'
            )
        count *= len(fn.enumerate_support(expand=False))
    if count > _MOST_VALUES:
        raise PpvaeError(
            f'{_without(asked.model)}, and its latents take {count} values together: use method="importance"'
        )
    value = asked.x.new_full((len(asked.x),), math.nan)
    with one_line(type(asked.model).__name__), pyro.validation_enabled(True):
        for at in _blocks(asked, asked.chunk_size // count):
            nothing = Draws({}, len(at), 1, next_dim=-3, reparameterized=True, analytic=False)
            value[at] = score(_marking(asked.model), asked.x[at], nothing).log_joint[0]
    return Certain(value, torch.zeros_like(value))


def _marking(model: Model) -> Callable[[Tensor], None]:
    """The model's program with every latent marked for enumeration."""

    def marking(x: Tensor) -> None:
        with _Marks():
            model.model(x)

    return marking


class _Marks(Messenger):
    def _pyro_sample(self, msg: Any) -> None:
        if not (msg["is_observed"] or is_subsample(msg)):
            msg["infer"] = {**msg["infer"], "enumerate": "parallel"}


# Gaussian integrals


def _gaussian(asked: Question, target: Target) -> Certain | None:
    """None where log p(x, u) is not quadratic in u for every datum."""
    device = asked.x.device
    value = torch.full((len(asked.x),), math.nan, dtype=torch.float64, device=device)
    error = torch.zeros_like(value)
    for at in [_blocks(asked, _FEW)[0], *_blocks(asked, DATA_BLOCK)]:
        x = asked.x[at]
        with seeded(asked.seed, _STREAM_CHECK, device=device):
            noise = torch.randn(_DIRECTIONS, 1, target.size, dtype=target.mean.dtype, device=device)
        if not _quadratic(target, noise, x, asked.chunk_size):
            return None
        found = modes(target, target.mean.expand(len(at), -1), x, asked.chunk_size)
        if not found.usable.all():
            return None
        value[at] = found.log_integral(target)
        # draws of the Gaussian posterior weigh p(x), all of them, but for rounding
        u = found.u + (found.scale_tril(target) @ noise.unsqueeze(-1)).squeeze(-1)
        quadratic = found.log_joint.double() - 0.5 * noise.double().square().sum(-1)
        error[at] = (_log_joint(target, u, x, asked.chunk_size).double() - quadratic).abs().amax(0)
    return Certain(value, error)


def _quadratic(target: Target, noise: Tensor, x: Tensor, rows: int) -> bool:
    """Whether third differences of log p(x, u) vanish along some lines, near the prior and far from it."""
    tolerance = 0.1 * math.sqrt(torch.finfo(noise.dtype).eps)
    for far in _FAR:
        start = target.mean + far * target.std * noise.flip(0)
        line = [start + k * far * target.std * noise for k in range(4)]
        points = torch.cat(line).expand(-1, len(x), -1)
        a, b, c, d = _log_joint(target, points, x, rows).chunk(4)
        scale = torch.stack([a, b, c, d]).abs().amax(0)
        if not bool(((d - a - 3 * (c - b)).abs() <= tolerance * scale).all()):  # NaN is no quadratic form
            return False
    return True


def _log_joint(target: Target, u: Tensor, x: Tensor, rows: int) -> Tensor:
    """log p(x, u) [S, B] at u [S, B, D], so many rows at a time."""
    return torch.cat([target.log_joint(part, x) for part in u.split(max(1, rows // len(x)))])


# quadrature


def _quadrature(asked: Question, target: Target, tolerance: float) -> Certain:
    value = torch.full((len(asked.x),), math.nan, dtype=torch.float64, device=asked.x.device)
    error, blocks, done = torch.zeros_like(value), _blocks(asked, DATA_BLOCK), 0
    with Progress(asked.progress, sum(map(len, blocks)), "log p(x)") as bar:
        for at in blocks:
            value[at], error[at] = _Integral(target, asked.x[at], asked.chunk_size).solve(tolerance)
            done += len(at)
            bar.update(done)
    return Certain(value, error)


@dataclass(frozen=True)
class _Cells:
    """Boxes in t, the function's integral over each, and whose function it is: [P, D], [P, D], [P] (log), [P]."""

    low: Tensor
    high: Tensor
    log_integral: Tensor
    owner: Tensor

    def select(self, which: Tensor) -> _Cells:
        return _Cells(self.low[which], self.high[which], self.log_integral[which], self.owner[which])


class _Integral:
    """∫ p(x, u) du for B datapoints, over u = mean + std sinh(t), |t| ≤ 20: tails as heavy as Cauchy's fit in.

    Cells of a grid are halved until the integral over the halves, by Gauss-Legendre, is that over the whole; those
    around a mode, until they are about as wide as it.
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
        return torch.where(density.isfinite(), density, -math.inf)  # where T(u) overflows there is nothing

    def solve(self, tolerance: float) -> tuple[Tensor, Tensor]:
        """log ∫ [B] and its numerical error [B]."""
        cells, peak, modes_at, widths = self.first_cells()
        scale = peak.where(peak.isfinite(), 0.0)
        noise = 4 * torch.finfo(self.target.mean.dtype).eps * (1 + scale.abs())
        aim = noise.clamp_min(tolerance)  # what rounding hides is not looked for
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
            margin = _MARGIN * widths[owner]  # what reaches over the edge of a cell is easily missed
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
        # climb from every local maximum of the grid: what is narrower than its meshes still slopes towards its peak
        lattice = density.clamp_min(torch.finfo(torch.float64).min).reshape(batch, 1, *[len(axis)] * dims)
        pool = max_pool1d if dims == 1 else max_pool2d
        summits = (lattice == pool(lattice, 3, stride=1, padding=1)).flatten(1) & density.isfinite()
        heights, where = torch.where(summits, density, -math.inf).topk(_MOST_MODES[dims])
        where = torch.where(heights.isfinite(), where, density.argmax(-1, keepdim=True))
        start = (target.mean + target.std * grid[where].sinh()).to(target.mean)
        x = self.x.repeat_interleave(_MOST_MODES[dims], 0)
        found = modes(target, start.flatten(0, 1), x, self.rows)
        at = ((found.u - target.mean) / target.std).double().asinh().clamp(edges[0], edges[-1])
        widths = (found.axes.square() @ found.precision.unsqueeze(-1)).squeeze(-1).rsqrt() / at.cosh()
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
        """The integrals over boxes, some at a time: each has as many nodes as there are products of them."""
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
