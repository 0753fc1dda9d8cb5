"""The units of real data, learned from training data: networks compute in them, log p stays in those of the data."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from ppvae.distributions.location_scale import LocationScale


class HasUnits:
    """A module that keeps the location and scale of each coordinate of x in buffers.

    Then learning rates, floors and initial weights mean the same whatever x is measured in: multiplying x by a number,
    or adding one, changes log p(x) by minus the log of its factor, and nothing else.
    """

    shift: Tensor
    scale: Tensor

    def register_units(self: Any, size: int) -> None:
        """Add the buffers for x of `size` numbers; until units are learned they are those of the data."""
        self.register_buffer("shift", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.register_load_state_dict_pre_hook(_earlier)

    def learn_units(self, x: Tensor, *, common: bool = False) -> tuple[Tensor, Tensor]:
        """Set shift and scale to the mean and deviation of each coordinate of x [N, *event]; both in double precision.

        Args:
            common: one scale for all coordinates, the root of their mean variance.
        """
        rows = x.detach().flatten(1).double()
        mean, scale = rows.mean(0), deviations(rows, torch.finfo(self.scale.dtype).eps)
        if common:
            scale = scale.square().mean().sqrt().expand_as(scale)
        with torch.no_grad():
            self.shift.copy_(mean)
            self.scale.copy_(scale)
        return mean, scale

    def inside(self, x: Tensor) -> Tensor:
        """x [..., D] in the learned units."""
        return (x - self.shift) / self.scale

    def in_units_of_data(self, fn: TorchDistribution) -> LocationScale:
        """A distribution over x in the learned units as one over x."""
        return LocationScale(fn, self.shift, self.scale)


def _earlier(module: Any, weights: dict[str, Any], prefix: str, *_: Any) -> None:
    """Earlier versions computed in the units of the data where the weights hold no others."""
    if any(name.startswith(prefix) for name in weights):
        weights.setdefault(f"{prefix}shift", torch.zeros_like(module.shift))
        weights.setdefault(f"{prefix}scale", torch.ones_like(module.scale))


def deviations(x: Tensor, eps: float) -> Tensor:
    """The standard deviation [D] of each column of x [N, D].

    A constant column gets the root of the mean variance of the others, or 1 where all are constant. A column whose
    deviation is within 10 eps of its largest value counts as constant: it varies only by rounding.
    """
    std = x.std(0, correction=0)
    varies = std > 10 * eps * x.abs().amax(0)
    typical = std[varies].square().mean().sqrt() if varies.any() else torch.ones((), dtype=x.dtype)
    return torch.where(varies, std, typical)


class Standardize(nn.Module):
    """x [..., D] → (x − mean) / std per coordinate."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.detach().clone())
        self.register_buffer("std", std.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class StandardizedRows(Standardize):
    """x [B, *event] → rows [B, D] in the units of a module; encoders of earlier versions saw x as it is."""

    def __init__(self, units: HasUnits) -> None:
        super().__init__(units.shift, units.scale)
        self.register_load_state_dict_pre_hook(_as_it_is)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


def _as_it_is(module: Any, weights: dict[str, Any], prefix: str, *_: Any) -> None:
    weights.setdefault(f"{prefix}mean", torch.zeros_like(module.mean))
    weights.setdefault(f"{prefix}std", torch.ones_like(module.std))
