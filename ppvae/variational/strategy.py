"""The base class of inference strategies, the sources of φ."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from ppvae.catalogue import STRATEGIES
from ppvae.data.batch import Batch
from ppvae.errors import PpvaeError
from ppvae.pair.local import Phi
from ppvae.pair.model import Model
from ppvae.pair.posterior import Posterior
from ppvae.variational.bound import Bound


def list_inference() -> list[str]:
    """Names of the registered strategies."""
    return STRATEGIES.names()


def strategy_class(name: str) -> type[Strategy]:
    """The strategy of a zoo name."""
    return STRATEGIES[name]


class Strategy(nn.Module):
    """Where φ comes from: `strategy(batch, bound) → φ`. One file of `inference/` each.

    A strategy is built for a model and its training data x [N, *event], and starts at the declared φ.

    Attributes:
        has_rows: whether it keeps a row of φ for each fixed xᵢ, so that data redrawn at each visit are refused.
    """

    catalogue: ClassVar = STRATEGIES
    has_rows: ClassVar[bool] = False
    start: Tensor  # the declared row [width]; saved with the weights, since prior moments depend on the initial θ

    def __init__(self, model: Model, x: Tensor) -> None:
        super().__init__()
        self.layout = model.layout()
        self.register_buffer("start", self.layout.start.to(x.device, copy=True))

    def forward(self, batch: Batch, bound: Bound) -> Phi:
        """φ of a training batch; a strategy that refines φ calls `bound`."""
        raise PpvaeError(f"{type(self).__name__} has no forward(batch, bound): say where φ comes from")

    def warm_start(self, posterior: Callable[[Tensor], Phi], other: Strategy, x: Tensor) -> None:
        """Take over what another strategy learned for the same pair and training data x [N, *event].

        Args:
            posterior: the other's φ of the training rows [B].
            other: the strategy itself.
        """

    def dense_parameters(self) -> list[nn.Parameter]:
        """λ, the parameters that the optimiser steps; without rows, which `step_rows` steps."""
        return list(self.parameters())

    def step_rows(self) -> None:
        """Step the rows that were part of the backward pass."""

    def lookup(self, index: Tensor) -> Phi:
        """φ of the training rows `index` at present, differentiable."""
        raise PpvaeError(f"{type(self).__name__} keeps no rows: call posterior(x) without index")

    def infer(self, x: Tensor, bound: Bound, *, seed: int = 0, start: Tensor | None = None) -> Posterior:
        """q(z | φ) of new data x [B, *event] with θ frozen; the strategy does not change.

        Args:
            bound: the objective at x.
            seed: of the draws that a strategy optimises with.
            start: rows [B, width] to start from, for strategies that optimise.
        """
        with torch.no_grad():
            return Posterior(bound.model, self(Batch(x, torch.arange(len(x), device=x.device)), bound))
