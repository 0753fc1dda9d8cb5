"""The likelihood of real x."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor
from torch.nn.functional import softplus

from ppvae import require
from ppvae.catalogue import register
from ppvae.nn.likelihood import Likelihood
from ppvae.nn.networks import mlp
from ppvae.nn.units import HasUnits


@register("gaussian", order=2, values="real")
class Gaussian(HasUnits, Likelihood):
    """Independent Gaussians; mean and variance are each a network of the features, in units of the data's deviations.

    Args:
        min_scale: the standard deviation is at least this, in units of the data's own (per coordinate), so that the
            likelihood stays bounded on a point that it fits exactly (Mattei & Frellsen 2018).
    """

    def __init__(self, *sizes: int, activation: str = "relu", min_scale: float = 0.1) -> None:
        super().__init__()
        self.min_scale = require.positive("min_scale", min_scale)
        self.loc = mlp(*sizes, activation=activation)
        self.variance = mlp(*sizes, activation=activation)
        self.register_units(sizes[-1])

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        scale = (softplus(self.variance(features)) + self.min_scale**2).sqrt()
        return self.in_units_of_data(dist.Normal(self.loc(features), scale).to_event(1))

    def start(self, x: Tensor) -> None:
        """Learn the location and scale of the data."""
        self.learn_units(x)
