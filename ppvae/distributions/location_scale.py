"""A distribution in other units than those in which it is computed."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
from pyro.distributions import constraints
from torch import Tensor

_NO_SHAPE: Any = ()


class LocationScale(dist.TorchDistribution):
    """x = shift + scale · y with y ~ base, a distribution over ℝ^D.

    log p(x) = log p_base((x − shift) / scale) − Σ log scale. The shift is subtracted from x, which loses nothing where
    both are large, rather than added to the location of the base.

    Args:
        base: of batch shape [...] and event shape [D].
        shift, scale: [D], scale > 0.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # type: ignore[assignment]

    def __init__(self, base: dist.TorchDistribution, shift: Tensor, scale: Tensor) -> None:
        self.base, self.shift, self.scale = base, shift, scale
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)
        self._validate_args = base._validate_args

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return self.base.has_rsample

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, 1)

    @property
    def mean(self) -> Tensor:
        return self.shift + self.scale * self.base.mean

    @property
    def variance(self) -> Tensor:
        return self.scale.square() * self.base.variance

    def expand(self, batch_shape: Any, _instance: Any = None) -> LocationScale:
        return LocationScale(self.base.expand(batch_shape), self.shift, self.scale)

    def sample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        return self.shift + self.scale * self.base.sample(sample_shape)

    def rsample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        return self.shift + self.scale * self.base.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self.base.log_prob((value - self.shift) / self.scale) - self.scale.log().sum()
