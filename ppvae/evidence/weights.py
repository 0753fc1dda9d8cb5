"""Importance weights: the estimate, and how far it can be trusted.

That is the standard error, the effective sample size and Pareto k̂; also the Pareto-smoothed and jackknife estimates,
which may be closer to log p(x) than the plain one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from arviz_stats.base.array import array_stats
from torch import Tensor

#: an estimate from fewer effective draws than this does not pass
MIN_ESS = 100.0
#: of few draws k̂ uses the upper fifth, and a Pareto fit needs five
MIN_DRAWS = 25
#: draws that are collected before they are added to the sums together
_FOLD = 400
#: weights whose logs differ by less than this are equal: the proposal is the posterior
_CONSTANT = 1e-4


def khat_threshold(num_samples: int) -> float:
    """The largest k̂ that passes, min(1 − 1/log₁₀ S, 0.7) (Vehtari, Simpson, Gelman, Yao & Gabry 2024)."""
    return min(1 - 1 / math.log10(num_samples), 0.7) if num_samples > 1 else 0.0


def checkpoints(num_samples: int) -> tuple[int, ...]:
    """1, 2, 4, … up to S, and S: the numbers of draws after which the estimate is kept."""
    return (*(2**i for i in range((num_samples - 1).bit_length())), num_samples)


@dataclass
class Weights:
    """A summary of the log weights of B datapoints, of fixed size for any number of draws: sums, and the upper tail.

    Attributes:
        count: S so far.
        log_sum, log_sum_sq: log Σ w and log Σ w², [B].
        total, total_sq: Σ of single-draw bounds and of their squares, [B].
        lowest: min log w, [B].
        tail: the largest log weights, [M, B].
        running: K → log_mean of the first K draws [B], for the K of `checkpoints` so far.
        half: log_mean of the first half of the draws [B], once there are enough; NaN until then.
        _pending: weights that are not in the sums yet, as sorting many at once costs less.
        _kept: all log weights, where smoothed estimates are computed.
    """

    num_samples: int
    count: int
    log_sum: Tensor
    log_sum_sq: Tensor
    total: Tensor
    total_sq: Tensor
    lowest: Tensor
    tail: Tensor
    half: Tensor
    running: dict[int, Tensor] = field(default_factory=dict)
    _pending: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    _waiting: int = 0
    _kept: list[Tensor] | None = None

    @classmethod
    def empty(cls, num_samples: int, like: Tensor, *, smooth: bool = False) -> Weights:
        """Ready for `num_samples` draws of the datapoints of `like` [B]; sums are kept in float64.

        With `smooth` every draw is kept, as `log_mean_psis` and `log_mean_jackknife` need it.
        """
        nothing = torch.full(like.shape, -math.inf, dtype=torch.float64, device=like.device)
        zero = torch.zeros_like(nothing)
        kept = [] if smooth else None
        return cls(num_samples, 0, nothing, nothing, zero, zero, -nothing, nothing[None][:0], zero / 0, _kept=kept)

    @property
    def tail_size(self) -> int:
        """The number of draws in the Pareto tail of S draws, and one more for its cut-off."""
        return math.floor(min(self.num_samples / 5, 3 * math.sqrt(self.num_samples))) + 1

    def add(self, log_w: Tensor, bound: Tensor) -> None:
        """Add log weights and single-draw bounds [s, B]; the two differ where some sites are enumerated."""
        self._pending.append((log_w, bound))
        self._waiting += len(log_w)
        if self._waiting >= _FOLD or self.count + self._waiting >= self.num_samples:
            self._fold()

    def _fold(self) -> None:
        log_w, bound = (torch.cat(part).double() for part in zip(*self._pending, strict=True))
        self._pending, self._waiting = [], 0
        if self._kept is not None:
            self._kept.append(log_w)
        before, self.count = self.count, self.count + len(log_w)
        reported, half = checkpoints(self.num_samples), self.num_samples // 2
        due = sorted({k for k in (*reported, half) if before < k <= self.count})
        for part in log_w.tensor_split([k - before for k in due if k < self.count]):
            self.log_sum = torch.logaddexp(self.log_sum, part.logsumexp(0))
            before += len(part)
            if before in due and before in reported:
                self.running[before] = self.log_sum - math.log(before)
            if before == half:
                self.half = self.log_sum - math.log(half)
        self.log_sum_sq = torch.logaddexp(self.log_sum_sq, (2 * log_w).logsumexp(0))
        self.total = self.total + bound.sum(0)
        self.total_sq = self.total_sq + bound.square().sum(0)
        self.lowest = torch.minimum(self.lowest, log_w.min(0).values)
        both = torch.cat([self.tail, log_w])
        self.tail = both.topk(min(self.tail_size, len(both)), dim=0).values

    def log_mean(self) -> Tensor:
        """log (1/S) Σ w: the estimate of log p(x), [B]."""
        return self.log_sum - math.log(self.count)

    def last_doubling(self) -> Tensor:
        """L_S − L_{⌊S/2⌋}: what the second half of the draws added to the estimate, [B]; NaN for one draw.

        Where the bias falls as 1/S, its mean over data is about the bias that remains at S.
        """
        return self.log_mean() - self.half

    def log_mean_psis(self) -> Tensor:
        """log (1/S) Σ w with the upper tail of w Pareto-smoothed, [B] (Vehtari, Simpson, Gelman, Yao & Gabry 2024).

        Not a lower bound. Equal to `log_mean` where k̂ is undefined, as then no tail can be smoothed.

        Raises:
            ValueError: the draws were not kept.
        """
        log_w, out = self._all().cpu().numpy(), self.log_mean().clone()
        for i in (~self.khat().isnan()).nonzero().flatten().tolist():
            column = log_w[:, i]
            smoothed = array_stats.psislw(-column)[0]  # normalised; a draw below the tail shows by how much
            below = np.argsort(column - column.max())[self.count - self.tail_size]
            value = float(column[below] - smoothed[below]) - math.log(self.count)
            if math.isfinite(value):
                out[i] = value
        return out

    def log_mean_jackknife(self) -> Tensor:
        """S L_S − (S − 1) · the mean of L_{S−1}, each without one draw, [B] (Nowozin 2018, first order).

        It removes the 1/S term of the bias, and is not a lower bound. NaN for one draw, and where a single draw has
        all the weight.

        Raises:
            ValueError: the draws were not kept.
        """
        log_w, s = self._all(), self.count
        if s < 2:
            return torch.full_like(self.log_sum, math.nan)
        log_share = log_w - self.log_sum
        top = log_w.argmax(0, keepdim=True)
        # log (1 − share); of the largest weight, whose share may round to 1, by the sum of the others
        rest = torch.log1p(-log_share.exp().clamp_max(0.5))
        others = log_w.scatter(0, top, -math.inf).logsumexp(0, keepdim=True) - self.log_sum
        rest = rest.scatter(0, top, others)
        value = self.log_mean() + (s - 1) * math.log1p(-1 / s) - (s - 1) / s * rest.sum(0)
        value = torch.where(self.log_sum == -math.inf, self.log_sum, value)
        return torch.where(value == math.inf, math.nan, value)

    def _all(self) -> Tensor:
        if self._kept is None:
            raise ValueError("draws are kept only with smooth=True")
        return torch.cat(self._kept)

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
        """Whether all draws, at least two, have the same weight, as when q is the posterior, [B]."""
        return (self.tail[0] - self.lowest < _CONSTANT) & (self.count > 1)

    def khat(self) -> Tensor:
        """Pareto k̂ of the upper tail of w, [B].

        NaN where a tail shape has no meaning: for fewer than 25 draws, for constant weights, and for weights that
        take only a few values (a discrete latent), whose variance is finite.
        """
        out = torch.full_like(self.log_sum, math.nan)
        if self.count < MIN_DRAWS:
            return out
        tail, lowest = self.tail.cpu().numpy(), self.lowest.cpu().numpy()
        for i in (~self.constant()).nonzero().flatten().tolist():
            if len(np.unique(tail[:, i])) < max(5, len(tail) // 4) or not np.isfinite(tail[:, i]).all():
                continue
            low, quarter = tail[-1, i], tail[-1 - round(len(tail) / 4), i]
            if np.exp(quarter - tail[0, i]) == np.exp(low - tail[0, i]):  # the fit would divide by their difference
                out[i] = math.inf if quarter > low else math.nan  # a few draws outweigh all others, or many are equal
                continue
            # below the tail the fit depends only on the number of draws; psislw takes − log w
            log_w = np.full(self.count, min(lowest[i], tail[-1, i]))
            log_w[-len(tail) :] = tail[::-1, i]
            with np.errstate(over="ignore"):  # of a tail far heavier than any that passes
                out[i] = float(array_stats.psislw(-log_w)[1])
        return out

    def ok(self, khat: Tensor) -> Tensor:
        """Whether the estimate passes: k̂ within its threshold and at least 100 effective draws, [B] bool.

        Constant weights pass. Where k̂ is undefined since there are few distinct values, the effective draws decide;
        fewer than 25 draws pass only if constant.
        """
        enough = self.ess() >= MIN_ESS
        shape = (khat <= khat_threshold(self.count)) | khat.isnan()
        return self.constant() | (enough & shape & (self.count >= MIN_DRAWS))
