"""Estimates of a gradient on copies of one datum, and how far their means lie from a reference."""

from __future__ import annotations

import math
from typing import Any

import pyro
import torch
from pyro.distributions import Normal, constraints
from torch import Tensor, nn

import ppvae
from ppvae.pair.local import Phi
from ppvae.pair.posterior import Posterior
from ppvae.variational.estimator import Estimator

#: estimates behind a mean, and of the reference
MANY, LONG = 40_000, 160_000
#: standard errors that a mean may lie from its reference. 14 estimators × 5 coordinates of φ and 2 of θ, 98 two-sided
#: comparisons of nearly normal means: false alarms below 98 · 2.7e-5 = 0.3%
SIGMAS = 4.2


class Chain(ppvae.Model):
    """Two layers, the second given the first in model and guide; the guide owns no weights."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.8, dtype=torch.float64))
        self.log_noise = nn.Parameter(torch.tensor(-0.5, dtype=torch.float64))
        one = torch.ones((), dtype=torch.float64)
        positive = constraints.positive
        self.phi = {
            "loc1": ppvae.Local(0.2 * one),
            "scale1": ppvae.Local(0.9 * one, positive),
            "loc2": ppvae.Local(0.3 * one),
            "tilt": ppvae.Local(0.4 * one),
            "scale2": ppvae.Local(0.7 * one, positive),
        }

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", Normal(x.new_zeros(()), 1.0))
            z2 = pyro.sample("z2", Normal(self.slope * z1.tanh(), 0.7))
            mean = (z2 + 0.3 * z1.square()).unsqueeze(-1)
            pyro.sample("x", Normal(mean, self.log_noise.exp()).to_event(1), obs=x)

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", Normal(phi["loc1"], phi["scale1"]))
            pyro.sample("z2", Normal(phi["loc2"] + phi["tilt"] * z1, phi["scale2"]))


def estimates(
    model: ppvae.Model, x: float, objective: str, gradient: str, particles: int, count: int, seed: int,
    kl: Any = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Values [N], gradients in unconstrained φ [N, width], and gradients in θ of 100 parts [100, parameters].

    N copies of one datum, each with a row of its own: one backward pass gives N independent estimates.
    """
    torch.manual_seed(seed)
    layout = model.layout()
    values, rows, theta = [], [], []
    for _ in range(100):
        leaf = layout.start.repeat(count // 100, 1).requires_grad_()
        data = torch.full((len(leaf), 1), x, dtype=torch.float64)
        estimator = Estimator(objective, gradient, kl)
        bound, _ = estimator.estimate(model, Posterior(model, layout.unpack(leaf)), data, particles)
        of_rows, *of_theta = torch.autograd.grad(bound.sum(), [leaf, *model.parameters()])
        values.append(bound.detach())
        rows.append(of_rows)
        theta.append(torch.stack(of_theta) / len(leaf))
    return torch.cat(values), torch.cat(rows), torch.stack(theta)


def mean(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the first dim, and its standard error."""
    return samples.mean(0), samples.std(0) / math.sqrt(len(samples))


def distance(samples: Tensor, reference: Tensor) -> Tensor:
    """Of the means, in standard errors of their difference."""
    (one, se), (other, other_se) = mean(samples), mean(reference)
    return (one - other).abs() / (se.square() + other_se.square()).sqrt().clamp_min(1e-12)
