"""How far an importance-sampled estimate can be trusted: standard error, effective sample size, Pareto k̂."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from arviz_stats.base.array import array_stats
from torch import Tensor

#: an estimate from fewer effective draws than this is not vouched for
MIN_ESS = 100.0
#: k̂ reads the upper fifth of few draws, and a Pareto fit wants five
MIN_DRAWS = 25
#: draws that wait until they are taken in together
_FOLD = 400
#: weights whose logs differ by less than this are equal: the proposal is the posterior
_CONSTANT = 1e-4


def khat_threshold(num_samples: int) -> float:
    """k̂ up to min(1 − 1/log₁₀ S, 0.7) vouches for the estimate (Vehtari, Simpson, Gelman, Yao & Gabry 2024)."""
    return min(1 - 1 / math.log10(num_samples), 0.7) if num_samples > 1 else 0.0


def checkpoints(num_samples: int) -> tuple[int, ...]:
    """1, 2, 4, … up to S, and S: the numbers of draws after which the estimate is kept."""
    return (*(2**i for i in range((num_samples - 1).bit_length())), num_samples)


@dataclass
class Weights:
    """What is kept of the log weights of B datapoints, however many draws there are: sums, and the upper tail.

    Attributes:
        count: S so far.
        log_sum, log_sum_sq: log Σ w and log Σ w², [B].
        total, total_sq: Σ of single-draw bounds and of their squares, [B].
        lowest: min log w, [B].
        tail: the largest log weights, [M, B].
        running: K → log_mean of the first K draws [B], for the K of `checkpoints` so far.
        _pending: weights not yet taken in: sorting many at once costs less.
    """

    num_samples: int
    count: int
    log_sum: Tensor
    log_sum_sq: Tensor
    total: Tensor
    total_sq: Tensor
    lowest: Tensor
    tail: Tensor
    running: dict[int, Tensor] = field(default_factory=dict)
    _pending: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    _waiting: int = 0

    @classmethod
    def empty(cls, num_samples: int, like: Tensor) -> Weights:
        """Ready for `num_samples` draws of the datapoints of `like` [B]; sums are kept in float64."""
        nothing = torch.full(like.shape, -math.inf, dtype=torch.float64, device=like.device)
        zero = torch.zeros_like(nothing)
        return cls(num_samples, 0, nothing, nothing, zero, zero, -nothing, nothing[None][:0])

    @property
    def tail_size(self) -> int:
        """Draws that a Pareto tail of S draws is fitted to, and one more for its cut-off."""
        return math.floor(min(self.num_samples / 5, 3 * math.sqrt(self.num_samples))) + 1

    def add(self, log_w: Tensor, bound: Tensor) -> None:
        """Take in log weights and single-draw bounds [s, B]; the two differ where a site is enumerated besides."""
        self._pending.append((log_w, bound))
        self._waiting += len(log_w)
        if self._waiting >= _FOLD or self.count + self._waiting >= self.num_samples:
            self._fold()

    def _fold(self) -> None:
        log_w, bound = (torch.cat(part).double() for part in zip(*self._pending, strict=True))
        self._pending, self._waiting = [], 0
        before, self.count = self.count, self.count + len(log_w)
        due = [k for k in checkpoints(self.num_samples) if before < k <= self.count]
        for part in log_w.tensor_split([k - before for k in due if k < self.count]):
            self.log_sum = torch.logaddexp(self.log_sum, part.logsumexp(0))
            before += len(part)
            if before in due:
                self.running[before] = self.log_sum - math.log(before)
        self.log_sum_sq = torch.logaddexp(self.log_sum_sq, (2 * log_w).logsumexp(0))
        self.total = self.total + bound.sum(0)
        self.total_sq = self.total_sq + bound.square().sum(0)
        self.lowest = torch.minimum(self.lowest, log_w.min(0).values)
        both = torch.cat([self.tail, log_w])
        self.tail = both.topk(min(self.tail_size, len(both)), dim=0).values

    def log_mean(self) -> Tensor:
        """log (1/S) Σ w: the estimate of log p(x), [B]."""
        return self.log_sum - math.log(self.count)

    def mean_log(self) -> Tensor:
        """The estimate of the ELBO, [B]."""
        return self.total / self.count

    def mean_log_se(self) -> Tensor:
        """The standard error of `mean_log`, [B]; NaN for one draw."""
        if self.count < 2:
            return torch.full_like(self.total, math.nan)
        variance = (self.total_sq / self.count - self.mean_log().square()).clamp_min(0)
        return (variance / (self.count - 1)).sqrt()

    def ess(self) -> Tensor:
        """(Σ w)² / Σ w², between 1 and S, [B] (Kong 1992)."""
        return (2 * self.log_sum - self.log_sum_sq).exp()

    def standard_error(self) -> Tensor:
        """Of log_mean, by the delta method: the coefficient of variation of w over √S, [B]; NaN for one draw."""
        relative = (self.count / self.ess() - 1).clamp_min(0)
        return (relative / (self.count - 1)).sqrt() if self.count > 1 else torch.full_like(self.log_sum, math.nan)

    def constant(self) -> Tensor:
        """Whether all draws, two at least, weigh the same, as when q is the posterior, [B]."""
        return (self.tail[0] - self.lowest < _CONSTANT) & (self.count > 1)

    def khat(self) -> Tensor:
        """Pareto k̂ of the upper tail of w, [B].

        NaN where a tail shape has no meaning: for fewer than 25 draws, for constant weights, and for weights that
        take only a handful of values (a discrete latent), whose variance is finite.
        """
        out = torch.full_like(self.log_sum, math.nan)
        if self.count < MIN_DRAWS:
            return out
        tail, lowest = self.tail.cpu().numpy(), self.lowest.cpu().numpy()
        for i in (~self.constant()).nonzero().flatten().tolist():
            if len(np.unique(tail[:, i])) < max(5, len(tail) // 4) or not np.isfinite(tail[:, i]).all():
                continue
            # the fit reads nothing below the tail but how many draws there are; psislw takes − log w
            log_w = np.full(self.count, min(lowest[i], tail[-1, i]))
            log_w[-len(tail) :] = tail[::-1, i]
            out[i] = float(array_stats.psislw(-log_w)[1])
        return out

    def ok(self, khat: Tensor) -> Tensor:
        """Whether the estimate passes: k̂ within its threshold and at least 100 effective draws, [B] bool.

        Constant weights pass. Where k̂ is undefined for want of distinct values the effective draws decide; fewer
        than 25 draws pass only if constant.
        """
        enough = self.ess() >= MIN_ESS
        shape = (khat <= khat_threshold(self.count)) | khat.isnan()
        return self.constant() | (enough & shape & (self.count >= MIN_DRAWS))
