"""Whether a guide has a density wherever the latents of the model have one, as importance weights need it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.distributions import constraints

from ppvae.blocks import ROW_BLOCK
from ppvae.pair.normalisation import why_not_a_density
from ppvae.pair.posterior import Guide
from ppvae.pair.sites import GuideRecorder, ModelRecorder, Site
from ppvae.pair.supports import CIRCLE, base_of, contains, is_periodic, is_point, support_of
from ppvae.randomness import seeded

#: draws of the prior of each datum, at which q must have a density, where supports alone do not tell
_DRAWS = 8
#: a number far outside what a base distribution draws
_FAR = 1e4


@dataclass(frozen=True)
class Uncovered:
    """A latent for which weights p/q do not have the mean p(x).

    Attributes:
        name: of the latent.
        why: the end of a sentence that starts with "latent 'z'".
        improper: whether the model itself is at fault, so that no method has a p(x) to estimate.
        bounded: whether q has an ELBO, which is a lower bound of log p(x).
        trainable: whether the objective of training has a meaning.
    """

    name: str
    why: str
    improper: bool = False
    bounded: bool = True
    trainable: bool = True

    def __str__(self) -> str:
        return f"latent {self.name!r} {self.why}"


def uncovered(model: Callable[[Tensor], Any], guide: Guide, x: Tensor) -> Uncovered | None:
    """The first latent whose guide lacks a density where the model has one, at one draw for each datum, or None.

    Also the first latent whose prior is not a density.

    Args:
        x: data [N, *event].
    """
    with torch.no_grad(), seeded(0, device=x.device), pyro.validation_enabled(False):
        for rows in torch.arange(len(x), device=x.device).split(ROW_BLOCK):
            part = x[rows]
            q = GuideRecorder(len(part), 1, None, detach=True)
            with q:
                guide.select(rows)(part)
            values = {name: site.value for name, site in q.sites.items()}
            p = ModelRecorder(len(part), values, q.next_dim)
            with p:
                model(part)
            for name, site in p.sites.items():
                if not site.observed and (fault := _fault(name, site, q.sites.get(name))):
                    return fault
    return None


def _fault(name: str, p: Site, q: Site | None) -> Uncovered | None:
    if is_point(p.fn):
        return None
    if why := why_not_a_density(p.fn):
        return Uncovered(name, why, improper=True, bounded=False, trainable=False)
    if q is None:
        return None
    kind = type(base_of(q.fn)).__name__
    if is_point(q.fn):
        return Uncovered(name, "has a point mass in the guide, which has no density", bounded=False)
    if p.fn.support.is_discrete:
        lacks = _lacks(p.fn, q.fn, drawn=q.weight is None)
        return Uncovered(name, f"has values that its {kind} in the guide never takes") if lacks else None
    whole, part = support_of(p.fn), support_of(q.fn)
    if is_periodic(p.fn) and not _is_on_circle(q.fn):
        why = f"is an angle, and its {kind} in the guide is not periodic: use VonMises there, or remove the guide"
        return Uncovered(name, why, bounded=False, trainable=False)
    covered = contains(part, whole)
    if covered is None or not _is_simple(q.fn):
        covered = covered is not False and _has_density(p.fn, q.fn)
    return None if covered else Uncovered(name, f"has values where its {kind} in the guide has no density")


def _is_on_circle(fn: Any) -> bool:
    """Whether a distribution draws angles in [−π, π) alone."""
    base = base_of(fn)
    if contains(CIRCLE, support_of(fn)):
        return True
    if not isinstance(base, torch.distributions.TransformedDistribution):
        return False
    ends = base.base_dist.sample().new_tensor([-_FAR, _FAR])
    for transform in base.transforms:
        ends = transform(ends) if not transform.domain.event_dim else ends
    return bool(CIRCLE.check(ends).all())


def _lacks(p: Any, q: Any, *, drawn: bool) -> bool:
    """Whether a discrete q never takes a value that p may take; where it enumerates its values, q cancels."""
    if contains(support_of(q), support_of(p)) is False:
        return True
    if not (drawn and p.has_enumerate_support and q.has_enumerate_support):
        return False
    values = p.enumerate_support(expand=False)
    return bool((~_is_never(p.log_prob(values)) & _is_never(q.log_prob(values))).any())


def _is_never(log_p: Tensor) -> Tensor:
    """Where a probability is 0, which torch raises to eps if it was given as such; a logit of −inf may give NaN."""
    return log_p.isneginf() | log_p.isnan() | ((log_p - math.log(torch.finfo(log_p.dtype).eps)).abs() < 1e-3)


def _is_simple(fn: Any) -> bool:
    """Whether a density is positive on all of the support that it declares; a transform may map a smaller one."""
    base = base_of(fn)
    if isinstance(base, torch.distributions.TransformedDistribution):
        return bool(contains(support_of(base.base_dist), constraints.real))
    return True


def _has_density(p: Any, q: Any) -> bool:
    """Whether q has a density at draws of p."""
    z = p.sample((_DRAWS,))
    if not bool(q.support.check(z).all()):
        return False
    return not bool(q.log_prob(z).isneginf().any())
