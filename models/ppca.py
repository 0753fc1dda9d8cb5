"""Probabilistic principal component analysis, and factor analysis: a reference with everything in closed form.

    z ~ Normal(0, I)                                            z [latent_dim]
    x ~ Normal(W z + b, Ψ)                                      x [x_dim]

Ψ = σ² I is Tipping & Bishop (1999), "Probabilistic Principal Component Analysis"; diagonal Ψ is factor
analysis. With M = I + Wᵀ Ψ⁻¹ W the posterior is Normal(M⁻¹ Wᵀ Ψ⁻¹ (x − b), M⁻¹). Its mean is linear in x and its
covariance the same for all x, so that a linear encoder is exact.
"""

from __future__ import annotations

import math
from typing import Literal

import pyro
import torch
from pyro.distributions import LowRankMultivariateNormal, MultivariateNormal, Normal, constraints
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppvae import require
from ppvae.catalogue import register
from ppvae.nn.units import HasUnits, StandardizedRows
from ppvae.pair.local import Local, Phi
from ppvae.pair.model import Model

_ONE = math.log(math.expm1(1.0))  # softplus⁻¹(1)


@register("ppca")
class PPCA(HasUnits, Model):
    """A linear Gaussian model; its parameters are in units of the data's deviations.

    Args:
        x_dim: numbers in one datapoint.
        latent_dim: size of z.
        noise: "isotropic" (pPCA) or "diagonal" (factor analysis).
        min_scale: floor of the noise's standard deviation, in units of the data's own.
    """

    def __init__(
        self,
        x_dim: int,
        latent_dim: int = 2,
        noise: Literal["isotropic", "diagonal"] = "isotropic",
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__()
        self.x_dim = require.count("x_dim", x_dim)
        self.latent_dim = require.count("latent_dim", latent_dim)
        self.noise = require.one_of("noise", noise, ("isotropic", "diagonal"))
        self.min_scale = require.positive("min_scale", min_scale)
        self.register_units(x_dim)
        self.weight = nn.Parameter(0.1 * torch.randn(x_dim, latent_dim))
        self.bias = nn.Parameter(torch.zeros(x_dim))
        self.raw_scale = nn.Parameter(torch.zeros(x_dim if noise == "diagonal" else 1))
        self.phi = {
            "loc": Local(torch.zeros(latent_dim)),
            "scale_tril": Local(torch.eye(latent_dim), constraints.lower_cholesky),
        }

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", MultivariateNormal(*self._prior()))
            inside = Normal(z @ self.weight.mT + self.bias, self._noise_scale()).to_event(1)
            pyro.sample("x", self.in_units_of_data(inside), obs=x.flatten(1))

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", MultivariateNormal(phi["loc"], scale_tril=phi["scale_tril"]))

    def encoder(self) -> nn.Module:
        return StandardizedRows(self)  # the strategy adds a linear head

    def start(self, x: Tensor) -> None:
        """Learn the location and scale of the data; isotropic noise needs one scale for all coordinates."""
        self.learn_units(x, common=self.noise == "isotropic")
        with torch.no_grad():
            self.raw_scale.fill_(_ONE)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) [B] = log Normal(x; b, W Wᵀ + Ψ)."""
        variance = self._noise_scale().square().expand(self.x_dim)
        inside = LowRankMultivariateNormal(self.bias, self.weight, variance)
        return self.in_units_of_data(inside).log_prob(x.flatten(1))

    def exact_phi(self, x: Tensor) -> Phi:
        scaled = self.weight / self._noise_scale().square().unsqueeze(-1)  # Ψ⁻¹ W
        precision = torch.eye(self.latent_dim, dtype=x.dtype, device=x.device) + self.weight.mT @ scaled
        covariance = torch.cholesky_inverse(torch.linalg.cholesky(precision))
        return {
            "loc": (self.inside(x.flatten(1)) - self.bias) @ scaled @ covariance,
            "scale_tril": torch.linalg.cholesky(covariance).expand(len(x), -1, -1),
        }

    def loadings(self) -> Tensor:
        """W [x_dim, latent_dim], in units of the data."""
        return self.scale.unsqueeze(-1) * self.weight

    def mean(self) -> Tensor:
        """b [x_dim], in units of the data."""
        return self.shift + self.scale * self.bias

    def noise_scale(self) -> Tensor:
        """Ψ^½, [1] or [x_dim], in units of the data."""
        return self.scale[: len(self.raw_scale)] * self._noise_scale()

    def _noise_scale(self) -> Tensor:
        return softplus(self.raw_scale) + self.min_scale

    def _prior(self) -> tuple[Tensor, Tensor]:
        zero = self.bias.new_zeros(self.latent_dim)
        return zero, torch.eye(self.latent_dim, dtype=zero.dtype, device=zero.device)
