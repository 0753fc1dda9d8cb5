"""The small networks that several models share."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppvae import require

Likelihood = Literal["bernoulli", "gaussian"]


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers with ReLU between them: mlp(64, 200, 10) maps [..., 64] → [..., 10]."""
    layers: list[nn.Module] = []
    for i, o in pairwise(sizes):
        layers += [nn.ReLU(), nn.Linear(i, o)]
    return nn.Sequential(*layers[1:])


def recognition(x_dim: int, *hidden: int) -> nn.Sequential:
    """An encoder's body: x [B, *event] → features [B, hidden[-1]]."""
    return nn.Sequential(nn.Flatten(), mlp(x_dim, *hidden), nn.ReLU())


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [x_dim] of each coordinate of x [N, *event]; a constant one gets 1."""
    flat = x.detach().flatten(1).to(torch.get_default_dtype())
    std = flat.std(0, correction=0)
    return flat.mean(0), torch.where(std > 0, std, torch.ones_like(std))


class Standardize(nn.Module):
    """x [..., x_dim] → (x − mean) / std per coordinate."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.detach().clone())
        self.register_buffer("std", std.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def default_encoder(x: Tensor, hidden: int = 200) -> nn.Module:
    """A recognition network for data x [N, *event] of any kind: x → features [B, hidden]."""
    return nn.Sequential(nn.Flatten(), Standardize(*moments(x)), recognition(x[0].numel(), hidden, hidden))


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
