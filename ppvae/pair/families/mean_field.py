"""The mean-field family: independent Gaussians, wrapped around the circle where a latent is an angle."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import biject_to

from ppvae.catalogue import register
from ppvae.distributions.wrapped_normal import MOST, WrappedNormal
from ppvae.pair.family import Family, LocalSite, sample_site
from ppvae.pair.local import Local, Phi

#: standard deviation of an angle without a preferred direction
_UNIFORM = math.pi / math.sqrt(3)


@register("mean-field", order=1)
class MeanField(Family):
    """q(z) = Πₛ T_s # Normal(loc_s, diag scale_s²), where T_s wraps the Gaussian around the circle for an angle.

    The family of Kucukelbir et al. (2017), "Automatic Differentiation Variational Inference", with one row
    per datapoint.
    """

    takes_angles = True

    def __init__(self, sites: list[LocalSite]) -> None:
        self.sites = sites
        self.phi = {}
        for site in sites:
            loc, scale = Local(site.mean), Local(site.std, constraints.softplus_positive)
            if site.periodic:
                angle = biject_to(site.support)(site.mean)
                slope = MOST * site.mean.sigmoid() * (-site.mean).sigmoid()
                spread = (slope * site.std).clamp(1e-4, _UNIFORM)
                loc, scale = Local(angle), Local(spread, constraints.interval(0.0, MOST))
            self.phi[f"{site.name}_loc"], self.phi[f"{site.name}_scale"] = loc, scale

    def __call__(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            for site in self.sites:
                loc, scale = phi[f"{site.name}_loc"], phi[f"{site.name}_scale"]
                if site.periodic:
                    pyro.sample(site.name, WrappedNormal(loc, scale).to_event(site.mean.dim()))
                else:
                    sample_site(site, dist.Normal(loc, scale).to_event(site.mean.dim()))
