"""The likelihood of real x."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import softplus

from ppvae import require
from ppvae.catalogue import register
from ppvae.nn.likelihood import Likelihood
from ppvae.nn.networks import mlp, moments


@register("gaussian", order=2, values="real")
class Gaussian(Likelihood):
    """Independent Gaussians; mean and variance are each a network of the features.

    Args:
        min_scale: the standard deviation is at least this, in units of the data's own (per coordinate), so that the
            likelihood stays bounded on a point that it fits exactly (Mattei & Frellsen 2018).
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, *sizes: int, activation: str = "relu", min_scale: float = 0.1) -> None:
        super().__init__()
        self.min_scale = require.positive("min_scale", min_scale)
        self.loc = mlp(*sizes, activation=activation)
        self.variance = mlp(*sizes, activation=activation)
        self.register_buffer("shift", torch.zeros(sizes[-1]))
        self.register_buffer("scale", torch.ones(sizes[-1]))

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        loc = self.shift + self.scale * self.loc(features)
        scale = self.scale * (softplus(self.variance(features)) + self.min_scale**2).sqrt()
        return dist.Normal(loc, scale).to_event(1)

    def start(self, x: Tensor) -> None:
        """Set the location and scale of the output to those of the data."""
        mean, std = moments(x)
        with torch.no_grad():
            self.shift.copy_(mean)
            self.scale.copy_(std)
