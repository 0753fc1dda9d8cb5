"""A Gaussian whose covariance is diagonal plus low rank."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from ppvae import require
from ppvae.catalogue import register
from ppvae.pair.family import JointFamily, LocalSite, sample_site, shaped
from ppvae.pair.local import Local, Phi


@register("low-rank", order=3)
class LowRank(JointFamily):
    """q(z) = T # Normal(loc, W Wᵀ + diag scale²), W of a few columns, over all sites jointly (Rezende et al. 2014).

    With a factor u ~ Normal(0, I) multiplied by W, each site given those before it is Normal; its moments follow from
    the posterior of u.

    Args:
        rank: columns of W.
    """

    def __init__(self, sites: list[LocalSite], *, rank: int = 1) -> None:
        super().__init__(sites)
        self.rank = require.count("rank", rank)
        # a little correlation to start from: at W = 0 its gradient would vanish
        columns = torch.eye(len(self.mean))[:, torch.arange(rank) % len(self.mean)]
        self.phi = {
            "loc": Local(self.mean),
            "factor": Local(0.1 * self.std.unsqueeze(-1) * columns.to(self.std)),
            "scale": Local(self.std, constraints.softplus_positive),
        }

    def __call__(self, x: Tensor, phi: Phi) -> None:
        loc, factor, scale = phi["loc"], phi["factor"], phi["scale"]
        eye = torch.eye(self.rank, dtype=loc.dtype, device=loc.device)
        precision, pull = eye, factor.new_zeros(self.rank)  # of u given the sites so far
        with pyro.plate("data", len(x)):
            for site, at in self.parts():
                tril = torch.linalg.cholesky(precision)
                mean_u = torch.cholesky_solve(pull.unsqueeze(-1), tril).squeeze(-1)
                spread = torch.linalg.solve_triangular(tril, eye.expand_as(tril), upper=False).mT  # its square: Cov u
                block = factor[..., at, :]
                mean = loc[..., at] + (block @ mean_u.unsqueeze(-1)).squeeze(-1)
                variance = scale[..., at].square()
                z = sample_site(site, shaped(site, dist.LowRankMultivariateNormal(mean, block @ spread, variance)))
                weighed = block / variance.unsqueeze(-1)
                precision = precision + weighed.mT @ block
                pull = pull + (weighed.mT @ (z - loc[..., at]).unsqueeze(-1)).squeeze(-1)
