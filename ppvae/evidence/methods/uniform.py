"""Naive Monte Carlo with uniform latents."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ppvae.catalogue import METHODS
from ppvae.errors import PpvaeError
from ppvae.evidence.problem import Problem
from ppvae.evidence.proposal import Proposal
from ppvae.pair.prior import PriorGuide
from ppvae.pair.sites import draw
from ppvae.pair.supports import inner, support_of
from ppvae.randomness import seeded


@METHODS.register("uniform", order=1, applies=("continuous", "mixed", "enumerated", "summed", "drawn"))
def uniform(problem: Problem) -> Proposal:
    """Naive Monte Carlo with z uniform over a bounded support: log (1/S) Σ p(x, zₛ)/u(zₛ).

    Every latent must lie in an interval, on a simplex, or take finitely many values; latents that a model would sum
    out are drawn. Few draws hit the small part of the support that has weight: a first method for teaching.
    """
    guide = PriorGuide(problem.model, problem.x, _uniform)
    with torch.no_grad(), seeded(0, device=problem.x.device):
        draw(guide, problem.x[:1])  # an unbounded support is refused before anything is computed
    return Proposal(problem.model, guide, joint=problem.joint)


def _uniform(name: str, fn: Any, x: Tensor) -> Any:
    """The uniform distribution over the support of a latent.

    Raises:
        PpvaeError: it does not exist.
    """
    if isinstance(fn, torch.distributions.Independent):
        return dist.Independent(_uniform(name, fn.base_dist, x), fn.reinterpreted_batch_ndims)
    for finite in (dist.Categorical, dist.OneHotCategorical, dist.Bernoulli):
        if isinstance(fn, finite):
            return finite(logits=torch.zeros_like(fn.logits))
    support = inner(support_of(fn))
    shape = fn.batch_shape + fn.event_shape
    if isinstance(support, constraints.interval | constraints.half_open_interval) and not support.is_discrete:
        low, high = (torch.as_tensor(end).to(x).expand(shape) for end in (support.lower_bound, support.upper_bound))
        # without the end points, which float32 draws can hit and where a density may be infinite
        edge = torch.finfo(x.dtype).eps * (high - low)
        return dist.Uniform(low + edge, high - edge, validate_args=False).to_event(fn.event_dim)
    if support is constraints.simplex:
        return dist.Dirichlet(x.new_ones(shape))
    raise PpvaeError(
        f"latent {name!r} is a {type(fn).__name__}: z has no uniform distribution over such a support: "
        'use method="prior"'
    )
