"""A neural spline flow."""

from __future__ import annotations

from typing import Any

from torch import nn

from ppvae.catalogue import register
from ppvae.pair.flow import FlowFamily, inverted


@register("spline", order=6)
class Spline(FlowFamily):
    """A neural spline flow (Durkan et al. 2019), autoregressive."""

    def flow(self, size: int, context: int, transforms: int, networks: dict[str, Any]) -> nn.Module:
        import zuko

        return inverted(zuko.flows.NSF(size, context, transforms=transforms, **networks))
