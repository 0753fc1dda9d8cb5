"""The likelihood of x in {0, 1}."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from ppvae.catalogue import register
from ppvae.nn.likelihood import Likelihood
from ppvae.nn.networks import mlp, moments


@register("bernoulli", order=1, values="binary")
class Bernoulli(Likelihood):
    """Independent Bernoullis; their logits are a network of the features."""

    def __init__(self, *sizes: int, activation: str = "relu") -> None:
        super().__init__()
        self.logits = mlp(*sizes, activation=activation)

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=self.logits(features)).to_event(1)

    def start(self, x: Tensor) -> None:
        """Set the output's bias to the mean of the data."""
        mean, _ = moments(x)
        bias = self.logits[-1].bias
        assert isinstance(bias, Tensor)
        with torch.no_grad():
            bias.copy_(mean.clamp(0.01, 0.99).logit())
