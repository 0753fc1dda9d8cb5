"""The last layer of a decoder: features to the distribution of x."""

from __future__ import annotations

from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppvae import require
from ppvae.nn.networks import mlp, moments

Likelihood = Literal["bernoulli", "gaussian"]


class Output(nn.Module):
    """The likelihood p_θ(x | z) at the end of a decoder: z [..., sizes[0]] → a distribution over [sizes[-1]].

    Args:
        kind: "bernoulli": independent Bernoullis, logits a network of z. "gaussian": independent Gaussians,
            mean and variance each a network of z.
        sizes: of the networks, from z to x.
        min_scale: the Gaussian's standard deviation is at least this, in units of the data's own (per
            coordinate), so that the likelihood cannot run off to infinity on a point that it fits exactly
            (Mattei & Frellsen 2018).
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, kind: Likelihood, *sizes: int, min_scale: float = 0.1) -> None:
        super().__init__()
        self.kind = require.one_of("likelihood", kind, ("bernoulli", "gaussian"))
        self.min_scale = require.positive("min_scale", min_scale)
        if self.kind == "bernoulli":
            self.logits = mlp(*sizes)
        else:
            self.loc = mlp(*sizes)
            self.variance = mlp(*sizes)
            self.register_buffer("shift", torch.zeros(sizes[-1]))
            self.register_buffer("scale", torch.ones(sizes[-1]))

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        if self.kind == "bernoulli":
            return dist.Bernoulli(logits=self.logits(z)).to_event(1)
        loc = self.shift + self.scale * self.loc(z)
        scale = self.scale * (softplus(self.variance(z)) + self.min_scale**2).sqrt()
        return dist.Normal(loc, scale).to_event(1)

    def start(self, x: Tensor) -> None:
        """Set the output bias at the mean of the data x [N, *event], and a Gaussian's units to theirs."""
        mean, std = moments(x)
        with torch.no_grad():
            if self.kind == "bernoulli":
                bias = self.logits[-1].bias
                assert isinstance(bias, Tensor)
                bias.copy_(mean.clamp(0.01, 0.99).logit())
            else:
                self.shift.copy_(mean)
                self.scale.copy_(std)
