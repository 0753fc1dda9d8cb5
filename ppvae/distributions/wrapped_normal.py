"""A Gaussian wrapped around the circle."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions.utils import broadcast_all

#: the largest standard deviation; from there on the density is uniform up to 3e-9
MOST = 2 * math.pi
#: turns on each side that are summed: six of the largest standard deviations
_TURNS = 6
_NO_SHAPE = torch.Size()
_CIRCLE = constraints.interval(-math.pi, math.pi)


class WrappedNormal(TorchDistribution):
    """The angle in [−π, π) of a Normal(loc, scale): p(z) = Σ_k Normal(z + 2πk; loc, scale).

    Draws are reparameterised (Falorsi, de Haan, Davidson & Forré 2019, "Reparameterizing Distributions on Lie Groups").

    Args:
        loc: any angle, [*batch].
        scale: standard deviation before it is wrapped, at most 2π.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real, "scale": constraints.interval(0.0, MOST)}  # type: ignore[assignment]
    has_rsample = True

    def __init__(self, loc: Tensor | float, scale: Tensor | float, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return _CIRCLE

    def expand(self, batch_shape: Any, _instance: Any = None) -> WrappedNormal:
        return WrappedNormal(self.loc.expand(batch_shape), self.scale.expand(batch_shape), validate_args=False)

    def rsample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        noise = torch.randn(self.shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
        return wrapped(self.loc + self.scale * noise)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        turns = 2 * math.pi * torch.arange(-_TURNS, _TURNS + 1, dtype=self.loc.dtype, device=self.loc.device)
        off = (wrapped(value - self.loc).unsqueeze(-1) + turns) / self.scale.unsqueeze(-1)
        return (-0.5 * off.square()).logsumexp(-1) - self.scale.log() - 0.5 * math.log(2 * math.pi)

    @property
    def mean(self) -> Tensor:
        """The mean direction."""
        return wrapped(self.loc)


def wrapped(angle: Tensor) -> Tensor:
    """The same angle in [−π, π)."""
    return (angle + math.pi).remainder(2 * math.pi) - math.pi
