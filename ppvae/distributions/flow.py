"""A normalising flow as a Pyro distribution."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

_NO_SHAPE = torch.Size()


class ZukoFlow(dist.TorchDistribution):
    """A zuko flow at a context [..., C] as a Pyro distribution; it caches the density of its last draw."""

    arg_constraints: ClassVar[dict[str, Any]] = {}  # type: ignore[assignment]
    has_rsample = True

    def __init__(self, flow: nn.Module, context: Tensor) -> None:
        self.flow, self.context = flow, context
        self.inner = flow(context)
        self.drawn: tuple[Tensor, Tensor] | None = None
        super().__init__(context.shape[:-1], self.inner.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real_vector

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Any:
        return ZukoFlow(self.flow, self.context.expand(*batch_shape, self.context.shape[-1]))

    def rsample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        value, log_prob = self.inner.rsample_and_log_prob(sample_shape)
        self.drawn = (value, log_prob)
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        if self.drawn is not None and self.drawn[0] is value:
            return self.drawn[1]
        return self.inner.log_prob(value)
