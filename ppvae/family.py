"""The default family: a mean field over the local sites of a model, in unconstrained space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to, constraints

from ppvae.errors import PpvaeError
from ppvae.local import Local, Phi
from ppvae.model import Model, overrides
from ppvae.randomness import seeded
from ppvae.sites import sample_sites

#: prior draws behind the starting moments
_PRIOR_DRAWS = 1000


@dataclass(frozen=True)
class _Site:
    name: str
    support: constraints.Constraint
    event_dim: int  # of the site's value
    raw_event_dim: int  # of the unconstrained value


class MeanField:
    """q(z) = Πₛ T_s # Normal(loc_s, diag scale_s²), T_s the bijection from ℝⁿ onto the support of site s.

    Sites are sampled in the model's own order. The family of Kucukelbir et al. (2017), "Automatic
    Differentiation Variational Inference", one row a datapoint.
    """

    def __init__(self, sites: list[_Site]) -> None:
        self.sites = sites

    def __call__(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            for site in self.sites:
                normal = dist.Normal(phi[f"{site.name}_loc"], phi[f"{site.name}_scale"])
                q = normal.to_event(site.raw_event_dim)
                if site.support is not constraints.real:
                    q = dist.TransformedDistribution(q, [biject_to(site.support)])
                    q = q.to_event(site.event_dim - len(q.event_shape))
                pyro.sample(site.name, q)


def prepare(model: Model, x: Tensor) -> Model:
    """Give the model its default guide and φ where it declares none; returns the same model.

    Args:
        x: some data [B, *event]; only its shape, and the prior given it, matters.

    Raises:
        PpvaeError: half a pair (a guide without phi, or phi without a guide), or a latent for which no mean
            field exists (a count): the way out is to give a guide.
    """
    if overrides(model, "guide") or model._family is not None:
        return model
    if model.phi:
        raise PpvaeError(f"{type(model).__name__} declares phi and no guide: write guide(x, phi), or drop phi")
    batch = x[: min(len(x), 4)]
    with torch.no_grad(), seeded(0, device=x.device):
        trace = poutine.trace(model).get_trace(batch)
        latents = {
            name: site
            for name, site in sample_sites(trace).items()
            if not site["is_observed"] and site["infer"].get("enumerate") != "parallel"
        }
        sites, phi = [], {}
        for name, site in latents.items():
            fn = site["fn"]
            if len(fn.batch_shape) != 1:
                raise PpvaeError(
                    f"latent {name!r} is not local: its batch shape {tuple(fn.batch_shape)} must be [B], "
                    'inside pyro.plate("data", len(x))'
                )
            if fn.support.is_discrete:
                raise PpvaeError(
                    f"latent {name!r} is discrete ({type(_base(fn)).__name__}) and has no mean field: give a guide, "
                    'or mark it infer={"enumerate": "parallel"} if its values can be summed out'
                )
            support = _base_support(fn.support)
            if any(b.dim() > len(fn.event_shape) for b in vars(_inner(support)).values() if isinstance(b, Tensor)):
                raise PpvaeError(
                    f"the support of latent {name!r} comes with the batch or with another latent, and has no fixed "
                    "bijection: give a guide"
                )
            raw = biject_to(support).inv(site["value"])
            sites.append(_Site(name, support, len(fn.event_shape), raw.dim() - 1))
        moments = _prior_moments(model, batch, sites)
    for site in sites:
        mean, std = moments[site.name]
        phi[f"{site.name}_loc"] = Local(mean)
        phi[f"{site.name}_scale"] = Local(std, dist.constraints.softplus_positive)
    model._family = MeanField(sites)
    model.phi = phi
    return model


def _prior_moments(model: Model, x: Tensor, sites: list[_Site]) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation of each site under the prior, in unconstrained space, over the batch."""
    repeats = math.ceil(_PRIOR_DRAWS / len(x))
    drawn = sample_sites(poutine.trace(model).get_trace(x.repeat(repeats, *[1] * (x.dim() - 1))))
    out = {}
    for site in sites:
        raw = biject_to(site.support).inv(drawn[site.name]["value"])
        # a tail too heavy to have moments (Cauchy) must not decide where inference starts
        low, mid, high = (raw.quantile(q, dim=0) for q in (0.16, 0.5, 0.84))
        spread = (high - low) / 2
        clipped = raw.clamp(mid - 4 * spread, mid + 4 * spread)
        out[site.name] = clipped.mean(0), clipped.std(0).clamp_min(1e-4)
    return out


def _base(fn: Any) -> Any:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def _inner(support: constraints.Constraint) -> constraints.Constraint:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def _base_support(support: constraints.Constraint) -> constraints.Constraint:
    """real for every independent(real): the common case needs no bijection."""
    return constraints.real if _inner(support) is constraints.real else support
