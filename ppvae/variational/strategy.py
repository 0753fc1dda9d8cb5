"""What every inference strategy is: the source of φ."""

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
    """The strategy behind a zoo name."""
    return STRATEGIES[name]


class Strategy(nn.Module):
    """Where φ comes from: `strategy(batch, bound) → φ`. One file of `inference/` each.

    A strategy is built for a model and its training data x [N, *event], and every strategy starts at the
    declared φ.

    Attributes:
        has_rows: whether φ belongs to a fixed xᵢ, so that data redrawn at each visit make no sense.
    """

    catalogue: ClassVar = STRATEGIES
    has_rows: ClassVar[bool] = False
    start: Tensor  # the declared row [width]; kept with the weights, since prior moments depend on the first θ

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
        """λ: what the optimiser steps; rows that step by themselves in `after_backward` are not among them."""
        return list(self.parameters())

    def step_rows(self) -> None:
        """Rows that took part in the backward pass step here."""

    def lookup(self, index: Tensor) -> Phi:
        """φ of the training rows `index`, as they stand, differentiable."""
        raise PpvaeError(f"{type(self).__name__} keeps no rows: ask for the posterior of x without index")

    def infer(self, x: Tensor, bound: Bound, *, seed: int = 0, start: Tensor | None = None) -> Posterior:
        """q(z | φ) of new data x [B, *event] with θ frozen; changes nothing.

        Args:
            bound: the objective at x.
            seed: of the draws that a strategy optimises with.
            start: rows [B, width] to start from, for strategies that optimise.
        """
        with torch.no_grad():
            return Posterior(bound.model, self(Batch(x, torch.arange(len(x), device=x.device)), bound))
