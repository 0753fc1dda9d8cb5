"""The mean-field family: independent Gaussians."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from pyro.distributions import constraints
from torch import Tensor

from ppvae.catalogue import register
from ppvae.pair.family import Family, LocalSite, sample_site
from ppvae.pair.local import Local, Phi


@register("mean-field", order=1)
class MeanField(Family):
    """q(z) = Πₛ T_s # Normal(loc_s, diag scale_s²).

    The family of Kucukelbir et al. (2017), "Automatic Differentiation Variational Inference", with one row
    per datapoint.
    """

    def __init__(self, sites: list[LocalSite]) -> None:
        self.sites = sites
        self.phi = {}
        for site in sites:
            self.phi[f"{site.name}_loc"] = Local(site.mean)
            self.phi[f"{site.name}_scale"] = Local(site.std, constraints.softplus_positive)

    def __call__(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            for site in self.sites:
                normal = dist.Normal(phi[f"{site.name}_loc"], phi[f"{site.name}_scale"])
                sample_site(site, normal.to_event(site.mean.dim()))
