"""A multivariate Student t of diagonal scale."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

_NO_SHAPE = torch.Size()


class StudentT(dist.TorchDistribution):
    """The multivariate Student t of diagonal scale: loc + scale · ε/√(χ²/df), one χ² for the whole event.

    Args:
        df: degrees of freedom.
        loc, scale: [..., *event].
        event_dim: dims of the event.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # type: ignore[assignment]
    has_rsample = True

    def __init__(self, df: float, loc: Tensor, scale: Tensor, event_dim: int) -> None:
        self.df = df
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        split = self.loc.dim() - event_dim
        super().__init__(self.loc.shape[:split], self.loc.shape[split:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, self.event_dim)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Any:
        shape = (*batch_shape, *self.event_shape)
        return StudentT(self.df, self.loc.expand(shape), self.scale.expand(shape), self.event_dim)

    def rsample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        shape = torch.Size((*sample_shape, *self.batch_shape))
        noise = torch.randn((*shape, *self.event_shape), dtype=self.loc.dtype, device=self.loc.device)
        half = torch.full(shape, self.df / 2, dtype=self.loc.dtype, device=self.loc.device)
        precision = torch.distributions.Gamma(half, half, validate_args=False).sample()  # χ²/df
        return self.loc + self.scale * noise * precision.rsqrt().reshape(*shape, *[1] * self.event_dim)

    def log_prob(self, value: Tensor) -> Tensor:
        size, df = self.event_shape.numel(), self.df
        event = tuple(range(-self.event_dim, 0))
        square, log_scale = ((value - self.loc) / self.scale).square(), self.scale.log()
        if event:
            square, log_scale = square.sum(event), log_scale.sum(event)
        norm = math.lgamma((df + size) / 2) - math.lgamma(df / 2) - size / 2 * math.log(df * math.pi)
        return norm - log_scale - (df + size) / 2 * torch.log1p(square / df)
