"""A mixture of diagonal Gaussians."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from ppvae import require
from ppvae.catalogue import register
from ppvae.distributions.mixture import DiagonalMixture
from ppvae.pair.family import JointFamily, LocalSite, sample_site, shaped
from ppvae.pair.local import Local, Phi


@register("mixture", order=4)
class Mixture(JointFamily):
    """q(z) = T # Σ_c π_c Normal(loc_c, diag scale_c²), over all sites jointly.

    Its draws carry pathwise gradients (Jankowiak & Karaletsos 2019, "Pathwise derivatives for multivariate
    distributions"). Each site given those before it is a mixture, whose weights
    depend on their values.

    Args:
        num_components: C, the number of components.
    """

    #: the pathwise derivative cannot be differentiated again
    differentiable_once = True

    def __init__(self, sites: list[LocalSite], *, num_components: int = 3) -> None:
        super().__init__(sites)
        self.num_components = require.count("num_components", num_components, least=2)
        # components start apart, or they would all stay the same
        apart = torch.linspace(-0.5, 0.5, num_components, dtype=self.mean.dtype).unsqueeze(-1)
        self.phi = {
            "logits": Local(torch.zeros(num_components, dtype=self.mean.dtype)),
            "locs": Local(self.mean + apart * self.std),
            "scales": Local(self.std.expand(num_components, -1).clone(), constraints.softplus_positive),
        }

    def __call__(self, x: Tensor, phi: Phi) -> None:
        logits, locs, scales = phi["logits"], phi["locs"], phi["scales"]
        with pyro.plate("data", len(x)):
            for site, at in self.parts():
                loc, scale = locs[..., at], scales[..., at]
                shape = torch.broadcast_shapes(logits.shape, loc.shape[:-1])
                # a NaN row shows in its own bound, and does not disturb the others
                weights = logits.nan_to_num().expand(shape)
                full = (loc.expand(*shape, site.size), scale.expand(*shape, site.size), weights)
                z = sample_site(site, shaped(site, DiagonalMixture(*full)))
                logits = logits + dist.Normal(loc, scale).log_prob(z.unsqueeze(-2)).sum(-1)
