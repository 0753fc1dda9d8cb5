"""The continuous local latents of a model."""

from __future__ import annotations

import math

import torch
from pyro import poutine
from pyro.distributions import constraints
from torch import Tensor

from ppvae.errors import PpvaeError
from ppvae.pair.bijections import bijection_onto
from ppvae.pair.family import LocalSite
from ppvae.pair.model import Model
from ppvae.pair.sites import marked, sample_sites
from ppvae.pair.supports import base_of, inner, support_of
from ppvae.randomness import seeded

#: number of prior draws for the starting moments
_PRIOR_DRAWS = 1000


def local_sites(model: Model, x: Tensor, *, way_out: str = "give a guide") -> list[LocalSite]:
    """The continuous local latents of a model, in its own order, with the moments of their prior.

    Args:
        x: some data [B, *event]; only its shape, and the prior given it, matters.
        way_out: the advice in error messages.

    Raises:
        PpvaeError: a latent is discrete and not marked for enumeration, is not local, or its support changes.
    """
    batch = x[: min(len(x), 4)]
    with torch.no_grad(), seeded(0, device=x.device):
        trace = poutine.trace(model).get_trace(batch)
        latents = {
            name: site for name, site in sample_sites(trace).items() if not site["is_observed"] and not marked(site)
        }
        sites: list[tuple[str, constraints.Constraint, int]] = []
        for name, site in latents.items():
            fn = site["fn"]
            if len(fn.batch_shape) != 1:
                raise PpvaeError(
                    f"latent {name!r} is not local: its batch shape {tuple(fn.batch_shape)} must be [B], "
                    'inside pyro.plate("data", len(x))'
                )
            if fn.support.is_discrete:
                raise PpvaeError(
                    f"latent {name!r} is discrete ({type(base_of(fn)).__name__}) and has no mean field: {way_out}, "
                    'or mark it infer={"enumerate": "parallel"} if its values can be summed out'
                )
            support = _base_support(support_of(fn))
            if any(b.dim() > len(fn.event_shape) for b in vars(inner(support)).values() if isinstance(b, Tensor)):
                raise PpvaeError(
                    f"the support of latent {name!r} depends on the batch or on another latent, and has no fixed "
                    f"bijection: {way_out}"
                )
            sites.append((name, support, len(fn.event_shape)))
        moments = _prior_moments(model, batch, sites)
    return [LocalSite(*site[:3], *moments[site[0]]) for site in sites]


def _prior_moments(
    model: Model, x: Tensor, sites: list[tuple[str, constraints.Constraint, int]]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation of each site under the prior, in unconstrained space, over the batch."""
    repeats = math.ceil(_PRIOR_DRAWS / len(x))
    drawn = sample_sites(poutine.trace(model).get_trace(x.repeat(repeats, *[1] * (x.dim() - 1))))
    out = {}
    for name, support, _ in sites:
        raw = bijection_onto(support).inv(drawn[name]["value"])
        # heavy tails without moments (Cauchy) must not decide where inference starts
        low, mid, high = (raw.quantile(q, dim=0) for q in (0.16, 0.5, 0.84))
        spread = (high - low) / 2
        clipped = raw.clamp(mid - 4 * spread, mid + 4 * spread)
        out[name] = clipped.mean(0), clipped.std(0).clamp_min(1e-4)
    return out


def _base_support(support: constraints.Constraint) -> constraints.Constraint:
    """real for every independent(real): the common case needs no bijection."""
    return constraints.real if inner(support) is constraints.real else support
