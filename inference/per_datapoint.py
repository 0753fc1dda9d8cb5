"""Per-datapoint stochastic variational inference: one row φᵢ per datapoint.

The textbook algorithm optimises φᵢ to convergence, then takes a stochastic gradient step on θ at φᵢ*
(Hoffman, Blei, Wang & Paisley 2013, "Stochastic Variational Inference"); `inner_steps` goes from
this algorithm to simultaneous steps of rows and θ. Only the rows of the batch are read and written, each with its
own step count, so that a step costs the same for any number of datapoints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from ppvae import require
from ppvae.blocks import row_blocks
from ppvae.catalogue import register
from ppvae.data.batch import Batch
from ppvae.errors import PpvaeError
from ppvae.pair.local import Phi
from ppvae.pair.model import Model
from ppvae.pair.posterior import Posterior
from ppvae.variational.bound import Bound
from ppvae.variational.refinement import optimise_rows
from ppvae.variational.rows import RowFit, RowState, adam_step, fit_rows, row_gradient
from ppvae.variational.strategy import Strategy


@register("per-datapoint", compare={})
class PerDatapoint(Strategy):
    """A table of rows [N, width].

    Args:
        inner_steps: 1: rows and θ step together, from one backward pass. T > 1: T steps on the rows of the batch
            before each step of θ. "converge": the rows of the batch converge before each step of θ.
        lr: Adam's step for rows, in unconstrained units.
        tolerance: nats; a row has converged when its bound, on common random numbers, rises by less than
            this over 25 steps at each of three falling learning rates.
        max_steps: the most steps on a row of new data, and of "converge".
    """

    has_rows = True
    exp_avg: Tensor
    exp_avg_sq: Tensor
    steps: Tensor

    def __init__(
        self,
        model: Model,
        x: Tensor,
        *,
        inner_steps: int | Literal["converge"] = 1,
        lr: float = 0.05,
        tolerance: float = 0.01,
        max_steps: int = 1000,
    ) -> None:
        super().__init__(model, x)
        if isinstance(inner_steps, str) and inner_steps != "converge":
            raise PpvaeError(f"inner_steps must be a whole number ≥ 1 or 'converge', got {inner_steps!r}")
        self.inner_steps = inner_steps if isinstance(inner_steps, str) else require.count("inner_steps", inner_steps)
        self.lr = require.positive("lr", lr)
        self.tolerance = require.positive("tolerance", tolerance)
        self.max_steps = require.count("max_steps", max_steps)
        self.table = nn.Parameter(self.start.repeat(len(x), 1))
        # Adam's state of each row is saved with the strategy, for a resumed fit
        self.register_buffer("exp_avg", torch.zeros_like(self.table))
        self.register_buffer("exp_avg_sq", torch.zeros_like(self.table))
        self.register_buffer("steps", self.table.new_zeros(len(x)).detach())
        self._pending: tuple[Tensor, Tensor] | None = None

    def forward(self, batch: Batch, bound: Bound) -> Phi:
        rows = self.table.detach()[batch.index]
        if self.inner_steps == 1:
            self._pending = (batch.index, rows.requires_grad_())
        elif self.inner_steps == "converge":
            rows = self._converge(rows, bound, seed=int(torch.randint(2**31, ()))).rows
            self.table.data[batch.index] = rows
        else:
            for _ in range(int(self.inner_steps)):
                self._step(batch.index, rows, row_gradient(rows, lambda leaf: bound(self.layout.unpack(leaf))))
        return self.layout.unpack(rows)

    def warm_start(self, posterior: Callable[[Tensor], Phi], other: Strategy, x: Tensor) -> None:
        """Start from the other's φ of every training datum."""
        with torch.no_grad():
            for _, at in row_blocks(len(x), x.device):
                self.table.data[at] = self.layout.pack(posterior(at), len(at)).to(self.table)

    def dense_parameters(self) -> list[nn.Parameter]:
        return []

    def step_rows(self) -> None:
        if self._pending is not None:
            index, rows = self._pending
            self._pending = None
            if rows.grad is not None:
                self._step(index, rows.detach(), -rows.grad * len(rows))  # the loss is −bound, a mean over the batch

    def lookup(self, index: Tensor) -> Phi:
        return self.layout.unpack(self.table[index])

    def infer(self, x: Tensor, bound: Bound, *, seed: int = 0, start: Tensor | None = None) -> Posterior:
        rows = self.start.repeat(len(x), 1) if start is None else start
        result = optimise_rows(
            rows,
            bound,
            self.layout,
            lr=self.lr,
            max_steps=self.max_steps,
            tolerance=self.tolerance,
            seed=seed,
        )
        return Posterior(bound.model, self.layout.unpack(result.rows), result.converged)

    def _converge(self, rows: Tensor, bound: Bound, seed: int) -> RowFit:
        bound = replace(bound, block=len(rows))  # draws of a row do not depend on which other rows have converged
        return fit_rows(
            rows,
            lambda rows, which: bound(self.layout.unpack(rows), which),
            lr=self.lr,
            max_steps=self.max_steps,
            tolerance=self.tolerance,
            seed=seed,
        )

    def _step(self, index: Tensor, rows: Tensor, ascent: Tensor) -> None:
        """A step of Adam for the rows `index` of the table, and for their copies `rows`."""
        state = RowState(self.exp_avg[index], self.exp_avg_sq[index], self.steps[index])
        adam_step(rows, ascent, state, self.lr)
        self.table.data[index] = rows
        self.exp_avg[index], self.exp_avg_sq[index], self.steps[index] = (
            state.exp_avg,
            state.exp_avg_sq,
            state.steps,
        )
