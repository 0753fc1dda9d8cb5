"""Deep latent Gaussian model.

    h^L ~ Normal(0, I)                                          h^l [latent_dims[l - 1]]
    h^l ~ Normal(T_l(h^{l+1}), G_l G_lᵀ)      l = L−1, …, 1
    x   ~ Bernoulli(logits = T_0(h^1)), or Normal(μ(h^1), diag Σ(h^1))          x [x_dim]

Every T_l is a network and every G_l a learned lower-triangular matrix. h^1 is the layer next to x.
Rezende, Mohamed & Wierstra (2014), "Stochastic Backpropagation and Approximate Inference in Deep Generative
Models".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pyro
import torch
from pyro.distributions import MultivariateNormal, Normal, constraints
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppvae import require
from ppvae.catalogue import register
from ppvae.nn.likelihood import make_likelihood
from ppvae.nn.networks import mlp, recognition
from ppvae.pair.local import Local, Phi
from ppvae.pair.model import Model


@register("dlgm", compare={"data": "digits", "epochs": 90})
class DLGM(Model):
    """L stochastic layers, each Gaussian with a nonlinear mean and a learned covariance given the layer above.

    Args:
        x_dim: numbers in one datapoint.
        latent_dims: sizes of h^1, …, h^L, from the layer next to x upwards.
        hidden: units of the hidden layer of each network.
        likelihood: the name of a likelihood: "bernoulli" for x in {0, 1}, "gaussian" for real x, ….
        family: "chain": q(h^1 | φ) q(h^2 | h^1) …, whose upper links are networks that the guide owns;
            "factorised": q(h^1 | φ) q(h^2 | φ) …, whose parameters are all in φ.
        min_scale: floor of a Gaussian likelihood's standard deviation, in units of the data's own.
        activation: of all networks: "relu", "tanh", "elu", "silu", "gelu", "leaky-relu", "softplus" or "sigmoid".
    """

    guide_modules = ("links",)

    def __init__(
        self,
        x_dim: int,
        latent_dims: Sequence[int] = (20, 10),
        hidden: int = 200,
        likelihood: str = "bernoulli",
        family: Literal["chain", "factorised"] = "chain",
        min_scale: float = 0.1,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.x_dim = require.count("x_dim", x_dim)
        self.dims = require.sizes("latent_dims", latent_dims)
        self.hidden = require.count("hidden", hidden)
        self.family = require.one_of("family", family, ("chain", "factorised"))
        self.depth = len(self.dims)
        self.activation = activation
        min_scale = require.positive("min_scale", min_scale)
        sizes = (self.dims[0], hidden, x_dim)
        self.decoder = make_likelihood(likelihood, *sizes, activation=activation, min_scale=min_scale)
        below_above = list(zip(self.dims, self.dims[1:], strict=False))
        # T_1, …, T_{L−1}
        self.means = nn.ModuleList(mlp(above, hidden, below, activation=activation) for below, above in below_above)
        self.factors = nn.ParameterList(torch.zeros(below, below) for below, _ in below_above)  # G_l, unconstrained
        # q(h^{l+1} | h^l) = Normal(loc, scale), both from one network
        chain = self.family == "chain"
        self.links = nn.ModuleList(
            mlp(below, hidden, 2 * above, activation=activation) for below, above in below_above if chain
        )
        self.phi = {}
        for level, dim in enumerate(self.dims[:1] if chain else self.dims, 1):
            self.phi[f"loc{level}"] = Local(torch.zeros(dim))
            self.phi[f"scale{level}"] = Local(torch.ones(dim), constraints.softplus_positive)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            h = pyro.sample(f"h{self.depth}", Normal(x.new_zeros(self.dims[-1]), 1.0).to_event(1))
            for level in range(self.depth - 1, 0, -1):
                mean = self.means[level - 1](h)
                h = pyro.sample(f"h{level}", MultivariateNormal(mean, scale_tril=self.covariance_factor(level)))
            pyro.sample("x", self.decoder(h), obs=x.flatten(1))

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            if self.family == "factorised":  # in the model's order, so that each KL term has a closed form
                for level in range(self.depth, 0, -1):
                    pyro.sample(f"h{level}", Normal(phi[f"loc{level}"], phi[f"scale{level}"]).to_event(1))
                return
            h = pyro.sample("h1", Normal(phi["loc1"], phi["scale1"]).to_event(1))
            for level, link in enumerate(self.links, 2):
                loc, raw = link(h).chunk(2, -1)
                h = pyro.sample(f"h{level}", Normal(loc, softplus(raw) + 1e-4).to_event(1))

    def encoder(self) -> nn.Module:
        return recognition(self.x_dim, self.hidden, self.hidden, activation=self.activation, units=self.decoder)

    def start(self, x: Tensor) -> None:
        self.decoder.start(x)

    def covariance_factor(self, level: int) -> Tensor:
        """G_level, lower triangular with a positive diagonal; the identity at the start."""
        raw = self.factors[level - 1]
        # softplus(0.5413) = 1
        return raw.tril(-1) + torch.diag_embed(softplus(raw.diagonal() + 0.5413) + 1e-4)
