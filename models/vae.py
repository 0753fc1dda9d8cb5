"""Variational autoencoder.

    z ~ Normal(0, I)                                            z [latent_dim]
    x ~ Bernoulli(logits = f_θ(z))                              x [x_dim], or
    x ~ Normal(μ_θ(z), diag Σ_θ(z))

Kingma & Welling (2014), "Auto-Encoding Variational Bayes".
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import torch
from pyro.distributions import Normal, constraints
from torch import Tensor, nn

from ppvae import require
from ppvae.catalogue import register
from ppvae.nn.likelihood import make_likelihood
from ppvae.nn.networks import recognition
from ppvae.pair.local import Local, Phi
from ppvae.pair.model import Model


@register("vae", compare={"data": "digits", "epochs": 90})
class VAE(Model):
    """A Gaussian latent variable with a network as observation model.

    Args:
        x_dim: numbers in one datapoint.
        latent_dim: size of z.
        hidden: sizes of the decoder's hidden layers, from z to x; the encoder has them in reverse.
        likelihood: the name of a likelihood: "bernoulli" for x in {0, 1}, "gaussian" for real x (mean and variance
            networks), ….
        min_scale: floor of a Gaussian's standard deviation, in units of the data's own.
        activation: of both networks: "relu", "tanh", "elu", "silu", "gelu", "leaky-relu", "softplus" or "sigmoid".
    """

    def __init__(
        self,
        x_dim: int,
        latent_dim: int = 20,
        hidden: Sequence[int] = (200, 200),
        likelihood: str = "bernoulli",
        min_scale: float = 0.1,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.x_dim = require.count("x_dim", x_dim)
        self.latent_dim = require.count("latent_dim", latent_dim)
        self.hidden = require.sizes("hidden", hidden)
        self.activation = activation
        min_scale = require.positive("min_scale", min_scale)
        sizes = (latent_dim, *self.hidden, x_dim)
        self.decoder = make_likelihood(likelihood, *sizes, activation=activation, min_scale=min_scale)
        self.phi = {
            "loc": Local(torch.zeros(latent_dim)),
            "scale": Local(torch.ones(latent_dim), constraints.softplus_positive),
        }

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Normal(x.new_zeros(self.latent_dim), 1.0).to_event(1))
            pyro.sample("x", self.decoder(z), obs=x.flatten(1))

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", Normal(phi["loc"], phi["scale"]).to_event(1))

    def encoder(self) -> nn.Module:
        return recognition(self.x_dim, *reversed(self.hidden), activation=self.activation, units=self.decoder)

    def start(self, x: Tensor) -> None:
        self.decoder.start(x)
