"""Supports that contain one another, and densities on the circle."""

import copy
import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch.distributions import biject_to

from ppvae.pair.supports import CIRCLE, Circle, contains, inner, is_periodic, support_of

SHIFTED = constraints.interval(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize(
    ("outer", "part", "expected"),
    [
        (constraints.real, constraints.positive, True),
        (constraints.positive, constraints.real, False),
        (constraints.positive, constraints.nonnegative, True),
        (constraints.real_vector, constraints.real, True),
        (constraints.unit_interval, SHIFTED, False),
        (constraints.interval(0.0, 2.0), SHIFTED, True),
        (constraints.interval(1e-7, 1.0), constraints.unit_interval, True),
        (constraints.simplex, constraints.simplex, True),
        (constraints.simplex, constraints.real, None),
        (constraints.boolean, constraints.integer_interval(0, 2), False),
        (constraints.integer_interval(0, 2), constraints.boolean, True),
        (constraints.boolean, constraints.nonnegative_integer, False),
        (constraints.less_than(0.0), constraints.real, False),
    ],
)
def test_which_support_contains_which(outer: Any, part: Any, expected: bool | None) -> None:
    assert contains(outer, part) is expected


def test_a_copy_of_a_support_is_the_same_support() -> None:
    """Models are copied, and their supports with them."""
    assert contains(copy.deepcopy(constraints.real), constraints.positive)
    assert isinstance(inner(copy.deepcopy(support_of(dist.VonMises(0.0, 1.0)))), Circle)


@pytest.mark.parametrize(
    "fn",
    [
        dist.VonMises(0.5, 2.0),
        dist.VonMises(torch.zeros(3), 2.0).to_event(1),
        dist.SineBivariateVonMises(*torch.tensor([0.1, 0.2, 2.0, 1.0, 0.5])),
    ],
)
def test_the_support_of_an_angle_is_the_circle(fn: Any) -> None:
    """torch says ℝ, on which the density would have an infinite integral."""
    assert is_periodic(fn)
    support = support_of(fn)
    assert inner(support) is CIRCLE
    assert support.event_dim == fn.event_dim
    u = torch.linspace(-5, 5, 11)
    assert bool((biject_to(CIRCLE)(u).abs() < math.pi).all())
