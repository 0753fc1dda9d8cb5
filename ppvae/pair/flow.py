"""Families of normalising flows."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from ppvae import require
from ppvae.distributions.flow import ZukoFlow
from ppvae.nn.networks import activation_class
from ppvae.pair.family import JointFamily, LocalSite, sample_site, shaped
from ppvae.pair.local import Local, Phi


class FlowFamily(JointFamily):
    """q(z) = Πₛ T_s # flow_s(· | φ_s, z before s): normalising flows of zuko, conditioned on a context vector φ.

    The flow acts on values in units of the prior's moments and starts near a standard Normal there. The weights
    of its networks belong to the guide and are shared by all data; only the context is local.

    Args:
        context: size of the context vector of each site.
        transforms: the number of transforms that are composed.
        hidden: sizes of the hidden layers of their networks.
        activation: of the hidden layers: "relu", "tanh", "elu", "silu", "gelu", "leaky-relu", "softplus" or "sigmoid".
    """

    def __init__(
        self,
        sites: list[LocalSite],
        *,
        context: int = 16,
        transforms: int = 2,
        hidden: tuple[int, ...] = (32, 32),
        activation: str = "relu",
    ) -> None:
        super().__init__(sites)
        require.count("context", context)
        require.count("transforms", transforms)
        networks = {
            "hidden_features": list(require.sizes("hidden", hidden)),
            "activation": activation_class(activation),
        }
        self.phi = {
            **{f"{site.name}_loc": Local(site.mean.flatten()) for site in sites},
            **{f"{site.name}_scale": Local(site.std.flatten(), constraints.softplus_positive) for site in sites},
            **{f"{site.name}_context": Local(torch.zeros(context, dtype=self.mean.dtype)) for site in sites},
        }
        self.net = self.flows = nn.ModuleList(
            self.flow(site.size, context + at.start, transforms, networks) for site, at in self.parts()
        )

    def flow(self, size: int, context: int, transforms: int, networks: dict[str, Any]) -> nn.Module:
        """A lazy flow of zuko's over [size], given [context] numbers; `networks` are its arguments for networks."""
        raise NotImplementedError

    def __call__(self, x: Tensor, phi: Phi) -> None:
        before: list[Tensor] = []
        with pyro.plate("data", len(x)):
            for (site, _), net in zip(self.parts(), self.flows, strict=True):
                context = phi[f"{site.name}_context"]
                if before:
                    lead = torch.broadcast_shapes(context.shape[:-1], before[0].shape[:-1])
                    context = torch.cat([part.expand(*lead, part.shape[-1]) for part in (context, *before)], -1)
                # the cached last value spares the inversion of the flow at its own draw
                loc, scale = phi[f"{site.name}_loc"], phi[f"{site.name}_scale"]
                units = dist.transforms.AffineTransform(loc, scale, event_dim=1, cache_size=1)
                z = sample_site(site, shaped(site, dist.TransformedDistribution(ZukoFlow(net, context), [units])))
                before.append(z)


def inverted(flow: Any) -> nn.Module:
    """The inverse flow: fast to draw from, slow to score other values."""
    import zuko

    return zuko.flows.Flow([step.inv for step in flow.transform.transforms], flow.base)
