"""A prior must integrate to 1 over its support: what passes, and the faults that a user's own may have."""

import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints, transforms
from torch import Tensor

from ppvae.pair.normalisation import why_not_a_density


class Own(dist.Normal):
    def log_prob(self, value: Tensor) -> Tensor:
        return -0.5 * ((value - self.loc) / self.scale) ** 2 - self.scale.log() - 0.5 * math.log(2 * math.pi)


class TooHigh(dist.Normal):
    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) + math.log(1.05)


class Periodic(dist.Normal):
    """A von Mises of concentration 3 that says ℝ."""

    def log_prob(self, value: Tensor) -> Tensor:
        return 3 * value.cos() - math.log(2 * math.pi * 4.880793)


class Doubled(dist.Beta):
    """A Beta and its mirror image, each of weight 1."""

    support = constraints.interval(-1.0, 1.0)  # type: ignore[assignment]

    def log_prob(self, value: Tensor) -> Tensor:
        beta = dist.Beta(self.concentration1, self.concentration0, validate_args=False)
        return beta.log_prob(value.abs().clamp(1e-6, 1 - 1e-6))


class Joint(dist.MultivariateNormal):
    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value)


class JointTooHigh(dist.MultivariateNormal):
    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) + 0.2


@pytest.mark.parametrize(
    "fn",
    [
        dist.Normal(0.0, 1.0),
        dist.VonMises(0.0, 3.0),
        Own(torch.zeros(4, 3), 1e-4).to_event(1),
        Own(torch.tensor(1e3), 1e6),
        dist.TransformedDistribution(Own(0.0, 1.0), [transforms.ExpTransform()]),
        dist.TransformedDistribution(dist.Uniform(0.0, 1.0), [transforms.AffineTransform(0.0, 2.0)]),
        Joint(torch.zeros(5, 10), torch.eye(10)),
        Joint(torch.zeros(60), torch.eye(60)),
        dist.Poisson(3.0),
    ],
)
def test_a_density_passes(fn: Any) -> None:
    assert why_not_a_density(fn) is None


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (TooHigh(0.0, 1.0), "integrates to 1.05, not 1"),
        (TooHigh(torch.zeros(4, 3), 1.0).to_event(1), "integrates to 1.05, not 1"),
        (Periodic(0.0, 1.0), "declare the support over which it is normalised"),
        (Doubled(torch.tensor(2.0), torch.tensor(3.0)), "integrates to 2, not 1"),
        (JointTooHigh(torch.zeros(5, 10), torch.eye(10)), "integrates to 1.2"),
        (dist.TransformedDistribution(dist.VonMises(0.0, 1.0), [transforms.AffineTransform(0.0, 2.0)]), "not 1"),
        (dist.Normal(0.0, 1.0).mask(torch.tensor(False)), "is masked"),
        (dist.ImproperUniform(constraints.real, (), ()), "is improper"),
    ],
)
def test_what_is_no_density_is_named(fn: Any, words: str) -> None:
    """With the integral, which is exact to the digits shown or has a standard error of 0.01 (JointTooHigh)."""
    torch.manual_seed(3)
    assert words in str(why_not_a_density(fn))
