"""Importance sampling from a mixture of q and the prior."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ppvae.errors import PpvaeError
from ppvae.evidence.method import Weighted
from ppvae.evidence.proposal import Proposal
from ppvae.pair.densities import Densities
from ppvae.pair.model import Model
from ppvae.pair.posterior import Guide
from ppvae.pair.prior import PriorGuide
from ppvae.pair.sites import Draws, draw


class Defended(Proposal):
    """Weights p(x, z)/r(z) of draws from r = (1 − a) q + a p(z), which are at most p(x | z)/a.

    Defensive importance sampling (Hesterberg 1995, "Weighted average importance sampling and defensive mixture
    distributions"). Every draw, from q or from the prior, is weighed by the mixture.

    Args:
        model: p.
        guide: q, for every datum.
        share: a.
        x: some data.
    """

    def __init__(self, model: Model, guide: Guide, share: float, x: Tensor) -> None:
        super().__init__(model, guide)
        self.share, self.prior = share, PriorGuide(model, x)

    def draws(self, guide: Guide, x: Tensor, particles: int) -> Draws:
        q = draw(guide, x, particles)
        enumerated = [name for name, site in q.sites.items() if site.weight is not None]
        if len(enumerated) == len(q.sites):
            return q  # nothing is drawn
        if enumerated:
            raise PpvaeError(
                f"defence= is a share of draws, and the guide enumerates {enumerated[0]!r} and draws others: "
                f"remove defence, or let the model sum {enumerated[0]!r} out"
            )
        p = draw(self.prior, x, particles).raw_values
        from_prior = torch.rand(particles, len(x), device=x.device) < self.share
        values = {}
        for name, value in q.raw_values.items():
            which = from_prior.reshape(*from_prior.shape, *[1] * (value.dim() - 2))
            values[name] = torch.where(which, p[name], value)
        return draw(guide, x, particles, values)

    def weighed(self, densities: Densities, drawn: int, batch: int) -> Weighted:
        if densities.enumerated or not densities.sampled:
            return super().weighed(densities, drawn, batch)
        log_q = densities.log_q
        log_q = torch.where(log_q.isnan(), -math.inf, log_q)  # outside the support of q
        parts = math.log1p(-self.share) + log_q, math.log(self.share) + densities.log_prior
        log_weight = densities.log_joint - torch.logaddexp(*parts)
        return Weighted(log_weight, log_weight)
