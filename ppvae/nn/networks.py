"""Small networks that several models share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from ppvae import require
from ppvae.nn.units import HasUnits, Standardize, StandardizedRows

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "leaky-relu": nn.LeakyReLU,
    "softplus": nn.Softplus,
    "sigmoid": nn.Sigmoid,
}


def activation_class(activation: str) -> Callable[[], nn.Module]:
    """The class of the activation of that name; raises PpvaeError for an unknown name."""
    return ACTIVATIONS[require.one_of("activation", activation, ACTIVATIONS)]


def mlp(*sizes: int, activation: str = "relu") -> nn.Sequential:
    """Linear layers with an activation between them: mlp(64, 200, 10) maps [..., 64] → [..., 10]."""
    between = activation_class(activation)
    layers: list[nn.Module] = []
    for i, o in pairwise(sizes):
        layers += [between(), nn.Linear(i, o)]
    return nn.Sequential(*layers[1:])


def recognition(x_dim: int, *hidden: int, activation: str = "relu", units: object = None) -> nn.Sequential:
    """An encoder's body: x [B, *event] → features [B, hidden[-1]].

    Args:
        units: a module that has units, in which the network then sees x.
    """
    rows = StandardizedRows(units) if isinstance(units, HasUnits) else nn.Flatten()
    body = mlp(x_dim, *hidden, activation=activation)
    return nn.Sequential(rows, body, activation_class(activation)())


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [x_dim] of each coordinate of x [N, *event]; 1 for a constant one."""
    flat = x.detach().flatten(1)
    flat = flat.to(torch.promote_types(flat.dtype, torch.get_default_dtype()))
    std = flat.std(0, correction=0)
    return flat.mean(0), torch.where(std > 0, std, torch.ones_like(std))


def default_encoder(x: Tensor, hidden: int = 200, activation: str = "relu") -> nn.Module:
    """A recognition network for data x [N, *event] of any kind: x → features [B, hidden]."""
    body = recognition(x[0].numel(), hidden, hidden, activation=activation)
    return nn.Sequential(nn.Flatten(), Standardize(*moments(x)), body)
