"""The rounding of log weights, measured: a few draws are scored again in another precision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyro
import torch
from torch import Tensor

from ppvae.blocks import Block
from ppvae.evidence.method import CHECKED, Known, Weighted, prepared
from ppvae.evidence.problem import Problem
from ppvae.pair.densities import score
from ppvae.pair.posterior import Guide
from ppvae.pair.precision import converted, default_precision
from ppvae.pair.sites import Draws, draw
from ppvae.randomness import seeded

#: rounding below this many nats, or below this share of the standard error, does not matter
_FLOOR, _SHARE = 2e-3, 0.25
#: rounding in double precision is this much smaller than in single precision
_RATIO = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
#: the number of data on which a value known without draws is computed again
_FEW = 10
#: a block is checked where its values are this many times as large as those that were checked
_LARGER = 1.5


class RoundingError(Exception):
    """Single precision rounds log weights by too much; the argument is by how many nats."""


class Rounding:
    """Measures the rounding of a problem's log weights.

    Attributes:
        unknown: why the rounding could not be measured, or None.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem, self.unknown = problem, None
        self.is_double = problem.x.dtype == torch.float64
        self.dtype = torch.float32 if self.is_double else torch.float64
        self._model = None
        self._largest, self._number = 0.0, 0

    def wants(self, block: Block) -> bool:
        """Whether a block is checked: the first, second, fourth, …, and one with larger values than those checked."""
        self._number += 1
        largest = float(block.x.abs().max())
        if largest <= _LARGER * self._largest and self._number & (self._number - 1):
            return False
        self._largest = max(self._largest, largest)
        return True

    def too_large(self, rounding: Tensor, error: Tensor) -> Tensor:
        """Whether the rounding matters beside the standard errors, [B]; raises RoundingError in single precision."""
        # NaN where an estimate has no error, as from one draw
        matters = rounding > torch.maximum(_SHARE * error.nan_to_num(nan=0.0), torch.full_like(error, _FLOOR))
        if not self.is_double and self.unknown is None and bool(matters.any()):
            raise RoundingError(float(rounding[matters].max()))
        return matters

    def of_draws(self, block: Block, weighted: Weighted) -> Tensor:
        """Nats by which the log weights of a block's data are rounded, on average over draws by their weight, [B]."""
        none = torch.zeros(len(block.rows), dtype=torch.float64, device=block.data.device)
        if weighted.draws is None:
            return none
        x, draws, guide = block.x, weighted.draws, weighted.guide
        ours = score(self.problem.model, x, draws).log_joint.double()
        try:
            with default_precision(self.dtype):
                theirs = score(self._other(), x.to(self.dtype), draws.converted(self.dtype)).log_joint.double()
                if guide is not None and all(site.weight is None for site in draws.sites.values()):
                    ours = ours - _log_q(guide, x, draws)
                    other = guide.converted(self._other(), self.dtype)
                    theirs = theirs - _log_q(other, x.to(self.dtype), draws.converted(self.dtype))
        except Exception as error:  # any error of a program that is written for one precision
            self.unknown = _first_line(error)
            return none if self.is_double else none + math.inf
        same = (ours == theirs) | theirs.isnan()  # −inf in both
        off = torch.where(same, 0.0, (ours - theirs).abs())
        share = theirs.nan_to_num(nan=-math.inf).softmax(0).nan_to_num(nan=0.0)
        return self._scaled((share * off).nan_to_num(nan=0.0).sum(0))

    def of_known(self, method: str, options: Mapping[str, Any], known: Known) -> Tensor:
        """Nats by which values known without draws are rounded, [N]: the largest difference on a few of the data."""
        problem, size = self.problem, len(known.log_marginal)
        largest = problem.x.flatten(1).abs().amax(1).argmax()
        few = torch.linspace(0, size - 1, min(_FEW, size), device=problem.x.device).long()
        few = torch.cat([few, largest[None]]).unique()
        other = problem.of(few).converted(self.dtype)
        try:
            with default_precision(self.dtype):
                again = prepared(other, method, options)
        except Exception as error:
            self.unknown = _first_line(error)
            return torch.full_like(known.log_marginal.double(), 0.0 if self.is_double else math.inf)
        assert isinstance(again, Known)
        off = (again.log_marginal.double() - known.log_marginal.double()[few]).abs()
        off = torch.where(off.isnan(), 0.0, off)
        return self._scaled(off.max()).expand(size)

    def _scaled(self, off: Tensor) -> Tensor:
        """The rounding of single precision, or what it makes that of double precision."""
        return torch.where(off.isfinite(), off * _RATIO, 0.0) if self.is_double else off

    def _other(self):
        if self._model is None:
            self._model = converted(self.problem.model, self.dtype)
        return self._model


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _log_q(guide: Guide, x: Tensor, draws: Draws) -> Tensor:
    again = draw(guide, x, draws.particles, draws.raw_values)
    zero = torch.zeros(draws.particles, draws.batch, dtype=torch.float64, device=x.device)
    return sum((site.log_prob.double() for site in again.sites.values()), zero)


def is_coarse(problem: Problem) -> float | None:
    """Nats by which single precision rounds log weights at draws of q, where that matters, else None."""
    rounding = Rounding(problem)
    with torch.no_grad(), pyro.validation_enabled(False):
        for number, block in problem.blocks():
            if rounding.wants(block):
                with seeded(problem.seed, number, device=problem.x.device):
                    guide = problem.posterior.select(block.wanted)
                    draws = draw(guide, block.x, CHECKED)
                off = rounding.of_draws(block, Weighted(problem.x, problem.x, draws=draws, guide=guide))
                try:
                    rounding.too_large(off, torch.zeros_like(off))
                except RoundingError as error:
                    return error.args[0]
    return None
