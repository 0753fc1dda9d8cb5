"""Adam on rows: every datapoint has its own moments, step count and stopping rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from ppvae.randomness import forked, reseed


class RowBound(Protocol):
    """The objective [A], in nats, of the datapoints `which` [A] at rows [A, width]."""

    def __call__(self, rows: Tensor, which: Tensor) -> Tensor: ...


#: multiples of the learning rate; each row goes through all of them before it counts as converged
LR_LADDER = (1.0, 0.3, 0.1)
#: steps between two checks of the bound
WINDOW = 25
_BETA1, _EPS = 0.9, 1e-8
#: decay of the second moment; short in `fit_rows`, where a row's first gradients may be thousands of times its last
_BETA2, _BETA2_SHORT = 0.999, 0.9


@dataclass
class RowState:
    """Adam's state [A, width], [A, width], [A]. Each row counts its own steps, so that the first is not too long."""

    exp_avg: Tensor
    exp_avg_sq: Tensor
    steps: Tensor

    @classmethod
    def zeros(cls, rows: Tensor) -> RowState:
        return cls(torch.zeros_like(rows), torch.zeros_like(rows), rows.new_zeros(len(rows)))

    def forget(self, which: Tensor) -> None:
        """Set the state of some rows to zero, in place."""
        for part in (self.exp_avg, self.exp_avg_sq, self.steps):
            part[which] = 0

    def select(self, index: Tensor) -> RowState:
        return RowState(self.exp_avg[index], self.exp_avg_sq[index], self.steps[index])


def adam_step(rows: Tensor, grad: Tensor, state: RowState, lr: float | Tensor, beta2: float = _BETA2) -> None:
    """One ascent step of Adam (Kingma & Ba 2015) in place, bias-corrected row by row; lr a number or [A, 1]."""
    state.steps += 1
    state.exp_avg.lerp_(grad, 1 - _BETA1)
    state.exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    t = state.steps.unsqueeze(-1)
    mean = state.exp_avg / (1 - _BETA1**t)
    scale = (state.exp_avg_sq / (1 - beta2**t)).sqrt_().add_(_EPS)
    rows += lr * mean / scale


def row_gradient(rows: Tensor, bound: Callable[[Tensor], Tensor]) -> Tensor:
    """∂ Σᵢ boundᵢ / ∂ rows; row i's bound depends on row i alone, so this is the gradient of every row."""
    with torch.enable_grad():
        leaf = rows.detach().requires_grad_()
        (grad,) = torch.autograd.grad(bound(leaf).sum(), leaf)
    return grad


@dataclass
class RowFit:
    """Rows [N, width], the bound at each on the common draws [N] (nats), and whether it converged [N]."""

    rows: Tensor
    bound: Tensor
    converged: Tensor
    steps: int


def fit_rows(
    start: Tensor, bound: RowBound, *, lr: float, max_steps: int, tolerance: float, seed: int, checks: int = 8
) -> RowFit:
    """Optimise all rows at once, each until its own bound stops rising.

    Each gradient uses new draws. Every 25 steps each row's bound is compared with its best so far, both on the
    same `checks` × fixed draws (common random numbers), so that noise does not look like progress. Where it rose
    by less than `tolerance`, the row continues from its best point at the next rung of `LR_LADDER`; a row
    that fails to rise at the last rung has converged and stays at its best point. Rows that need no further step
    cost nothing.

    Args:
        start: rows [N, width].
        bound: the objective at some of the rows, whose draws must not depend on the other rows (`Bound.block`);
            called with gradients and new draws, and under no_grad for checks.
        lr: Adam's step at the first rung, in unconstrained units.
        max_steps: the most steps; a row that needs more is returned as not converged.
        tolerance: nats.
        seed: of all draws; the caller's random state is restored.
        checks: how many evaluations of the bound a check averages.
    """
    rows = start.detach().clone()
    everyone = torch.arange(len(rows), device=rows.device)
    converged = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    if not rows.numel():
        return RowFit(rows, rows.new_zeros(len(rows)), torch.ones_like(converged), 0)
    ladder = rows.new_tensor(LR_LADDER) * lr

    def check(which: Tensor, at: Tensor) -> Tensor:
        """The bound; a row has the same draws at every check."""
        reseed(seed, rows.device)
        with torch.no_grad():
            return torch.stack([bound(at, which) for _ in range(checks)]).mean(0)

    with forked(rows.device):
        best = check(everyone, rows)
        active, current = everyone, rows.clone()
        state = RowState.zeros(current)
        rung = torch.zeros_like(active)
        steps = 0
        while steps < max_steps and len(active):
            reseed(seed + 1 + steps, rows.device)
            todo = min(WINDOW, max_steps - steps)
            for _ in range(todo):
                grad = row_gradient(current, partial(bound, which=active))
                adam_step(current, grad, state, ladder[rung, None], _BETA2_SHORT)
            steps += todo
            now = check(active, current)
            risen = now > best[active] + tolerance
            better = now > best[active]
            rows[active[better]] = current[better]
            best[active[better]] = now[better]
            rung += (~risen).long()
            done = rung >= len(LR_LADDER)
            converged[active[done & now.isfinite()]] = True
            keep = ~done
            # a row that did not rise continues from its best point, in smaller steps and with a new state, as the old
            # state may hold a NaN, say from outside a support
            current[~risen] = rows[active[~risen]]
            state.forget(~risen)
            active, current, rung, state = active[keep], current[keep], rung[keep], state.select(keep)
    return RowFit(rows, best, converged, steps)
