"""The support of a distribution, and whether the support of one contains that of another."""

from __future__ import annotations

import math
from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import biject_to, transform_to

from ppvae.distributions.wrapped_normal import WrappedNormal


class Circle(type(constraints.unit_interval)):
    """Angles in [−π, π); torch declares ℝ for a density on the circle, over which it does not integrate to 1."""

    def __init__(self) -> None:
        super().__init__(-math.pi, math.pi)


@biject_to.register(Circle)
@transform_to.register(Circle)
def _onto_the_circle(circle: Circle) -> Any:
    return biject_to(constraints.interval(-math.pi, math.pi))


CIRCLE = Circle()
_PERIODIC = (torch.distributions.VonMises, dist.SineBivariateVonMises, dist.SineSkewed, WrappedNormal)
#: the share of an interval that a support may lack at each end: `uniform` keeps away from ends
_EDGE = 1e-5


def base_of(fn: Any) -> Any:
    """The distribution inside Independent, Masked and the like; a transformed one is its own base."""
    while hasattr(fn, "base_dist") and not isinstance(fn, torch.distributions.TransformedDistribution):
        fn = fn.base_dist
    return fn


def is_periodic(fn: Any) -> bool:
    """Whether the density is periodic: that of an angle."""
    return isinstance(base_of(fn), _PERIODIC)


def is_point(fn: Any) -> bool:
    """Whether the distribution is a point mass."""
    return isinstance(base_of(fn), dist.Delta)


def is_discrete(fn: Any) -> bool | None:
    """Whether values have probabilities rather than a density; None where the distribution does not say its support."""
    try:
        return fn.support.is_discrete
    except NotImplementedError:
        return None


def support_of(fn: Any) -> constraints.Constraint:
    """The set over which the density integrates to 1."""
    if not is_periodic(fn):
        return fn.support
    return constraints.independent(CIRCLE, fn.event_dim) if fn.event_dim else CIRCLE


def inner(support: constraints.Constraint) -> constraints.Constraint:
    """The support of one coordinate, where it is the same for all."""
    while isinstance(support, constraints.independent):
        support = cast(Any, support).base_constraint
    return support


def bounds(support: constraints.Constraint) -> tuple[Tensor, Tensor] | None:
    """The least and the greatest value of a coordinate, or None where a support is not an interval."""
    support = inner(support)
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if isinstance(support, type(constraints.real)):
        low, high = -math.inf, math.inf
    elif isinstance(support, type(constraints.boolean)):
        low, high = 0, 1
    elif isinstance(support, constraints.greater_than | constraints.greater_than_eq | type(_COUNTS)):
        high = math.inf
    elif isinstance(support, constraints.less_than):
        low = -math.inf
    if low is None or high is None:
        return None
    return torch.as_tensor(low), torch.as_tensor(high)


_COUNTS: Any = constraints.nonnegative_integer


def contains(outer: constraints.Constraint, part: constraints.Constraint) -> bool | None:
    """Whether a support contains another, up to the ends of an interval; None where the two cannot be compared."""
    ends, of_part = bounds(outer), bounds(part)
    if ends is None or of_part is None:
        return True if type(inner(outer)) is type(inner(part)) else None
    low, high = (end.double() for end in of_part)
    edge = _EDGE * torch.where((high - low).isfinite(), high - low, 0.0)
    below, above = ends[0].to(low) <= low + edge, ends[1].to(low) >= high - edge
    return bool(below.all()) and bool(above.all())
