"""An inverse autoregressive flow."""

from __future__ import annotations

from typing import Any

from torch import nn

from ppvae.catalogue import register
from ppvae.pair.flow import FlowFamily, inverted


@register("iaf", order=5)
class InverseAutoregressive(FlowFamily):
    """An inverse autoregressive flow (Kingma et al. 2016): one pass to draw, one pass per dim to score other values."""

    def flow(self, size: int, context: int, transforms: int, networks: dict[str, Any]) -> nn.Module:
        import zuko

        return inverted(zuko.flows.MAF(size, context, transforms=transforms, **networks))
