"""What every inference strategy is: the source of φ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import TransformedDistribution

from ppvae.errors import PpvaeError
from ppvae.gradients import Estimator
from ppvae.local import Phi
from ppvae.model import Model
from ppvae.posterior import Posterior
from ppvae.sites import Draws, draw


@dataclass(frozen=True)
class Batch:
    """Data x [B, *event] and their positions in the training set, index [B]."""

    x: Tensor
    index: Tensor


@dataclass
class Bound:
    """φ → the objective per datum [B], at the data x [B, *event].

    `bound(phi, which)` is for some of the datapoints: phi holds their rows alone. With `block`, at least B, draws
    are made for that many positions whatever `which` is, so that the noise of a datum depends on its position
    and not on the others that are there.
    """

    model: Model
    x: Tensor
    estimator: Estimator
    num_particles: int = 1
    block: int | None = None

    def __call__(self, phi: Phi, which: Tensor | None = None) -> Tensor:
        x = self.x if which is None else self.x[which]
        posterior = Posterior(self.model, phi)
        draws = None if self.block is None else self._draws(posterior, x, which, self.block)
        return self.estimator.estimate(self.model, posterior, x, self.num_particles, draws)[0]

    def _draws(self, posterior: Posterior, x: Tensor, which: Tensor | None, block: int) -> Draws:
        """Draws for the positions `which`, out of draws for every position of the block; they carry φ's gradient."""
        everyone = torch.arange(len(x), device=x.device)
        which = everyone if which is None else which
        by_score = self.estimator.by_score
        grad = "score" if by_score else "full"
        if len(x) == block and torch.equal(which, everyone):
            return draw(posterior, x, self.num_particles, grad=grad)
        row = torch.zeros(block, dtype=torch.long, device=x.device)  # any row does where nobody looks
        row[which] = everyone
        all_of = draw(posterior.select(row), x[row], self.num_particles, grad=grad)
        if any(site.weight is not None for site in all_of.sites.values()):
            return all_of.part(which, slice(None))
        values = {name: value[:, which] for name, value in all_of.raw_values.items()}
        # once more through the guide: KL terms are integrated with the distributions of x alone
        draws = draw(posterior, x, self.num_particles, values)
        draws.reparameterized = all_of.reparameterized
        for name, site in all_of.sites.items():
            if isinstance(site.fn, TransformedDistribution) and not by_score:  # a flow would have to be inverted
                draws.sites[name]._log_prob = site.log_prob[:, which]
        return draws


class Strategy(nn.Module):
    """Where φ comes from: `strategy(batch, bound) → φ`. One file of `inference/` each.

    A strategy is built for a model and its training data x [N, *event], and every strategy starts at the
    declared φ.

    Attributes:
        refuses_dynamic: whether φ belongs to a fixed xᵢ, so that data redrawn at each visit make no sense.
    """

    refuses_dynamic = False
    start: Tensor  # the declared row [width]; kept with the weights, since prior moments depend on the first θ

    def __init__(self, model: Model, x: Tensor) -> None:
        super().__init__()
        self.layout = model.layout()
        self.register_buffer("start", self.layout.start.to(x.device, copy=True))

    def forward(self, batch: Batch, bound: Bound) -> Phi:
        """φ of a training batch; a strategy that refines φ calls `bound`."""
        raise PpvaeError(f"{type(self).__name__} has no forward(batch, bound): say where φ comes from")

    def begin_from(self, posterior: Callable[[Tensor], Phi], other: Strategy, x: Tensor) -> None:
        """Take over what another strategy learned for the same pair and training data x [N, *event].

        Args:
            posterior: the other's φ of the training rows [B].
            other: the strategy itself.
        """

    def dense_parameters(self) -> list[nn.Parameter]:
        """λ: what the optimiser steps; rows that step by themselves in `after_backward` are not among them."""
        return list(self.parameters())

    def after_backward(self) -> None:
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
