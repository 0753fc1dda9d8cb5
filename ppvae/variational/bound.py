"""The objective as a function of φ."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import TransformedDistribution

from ppvae.pair.local import Phi
from ppvae.pair.model import Model
from ppvae.pair.posterior import Posterior
from ppvae.pair.sites import Draws, draw
from ppvae.variational.estimator import Estimator


@dataclass
class Bound:
    """φ → the objective per datum [B], at the data x [B, *event].

    `bound(phi, which)` is for some of the datapoints: phi holds only their rows. With `block`, at least B, draws are
    made for that many positions for every `which`, so that the noise of a datum depends on its position and not on
    the other data.
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
        """Draws for the positions `which`, selected from draws for the whole block; they carry the gradient to φ."""
        everyone = torch.arange(len(x), device=x.device)
        which = everyone if which is None else which
        by_score = self.estimator.by_score
        grad = "score" if by_score else "full"
        if len(x) == block and torch.equal(which, everyone):
            return draw(posterior, x, self.num_particles, grad=grad)
        row = torch.zeros(
            block, dtype=torch.long, device=x.device
        )  # draws at positions outside `which` are not used: any row will do
        row[which] = everyone
        all_of = draw(posterior.select(row), x[row], self.num_particles, grad=grad)
        if any(site.weight is not None for site in all_of.sites.values()):
            return all_of.part(which, slice(None))
        values = {name: value[:, which] for name, value in all_of.raw_values.items()}
        # the guide runs again, so that KL terms are integrated with the distributions of x alone
        draws = draw(posterior, x, self.num_particles, values)
        draws.reparameterized = all_of.reparameterized
        for name, site in all_of.sites.items():
            if isinstance(site.fn, TransformedDistribution) and not by_score:  # else the flow would be inverted
                draws.sites[name]._log_prob = site.log_prob[:, which]
        return draws
