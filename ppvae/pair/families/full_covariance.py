"""A Gaussian of full covariance over all latents."""

from __future__ import annotations

import pyro
import torch
from pyro.distributions import constraints
from torch import Tensor

from ppvae.catalogue import register
from ppvae.distributions.triangular_normal import TriangularNormal
from ppvae.pair.family import JointFamily, LocalSite, sample_site, shaped
from ppvae.pair.local import Local, Phi


@register("full-covariance", order=2)
class FullCovariance(JointFamily):
    """q(z) = T # Normal(loc, L Lᵀ), over all sites jointly."""

    def __init__(self, sites: list[LocalSite]) -> None:
        super().__init__(sites)
        self.phi = {"loc": Local(self.mean), "scale_tril": Local(torch.diag(self.std), constraints.lower_cholesky)}

    def __call__(self, x: Tensor, phi: Phi) -> None:
        loc, tril = phi["loc"], phi["scale_tril"]
        noise: list[Tensor] = []  # ε of the sites so far: z = loc + L ε
        with pyro.plate("data", len(x)):
            for site, at in self.parts():
                mean, block = loc[..., at], tril[..., at, at]
                if noise:
                    before = torch.cat(noise, -1)
                    mean = mean + (tril[..., at, : at.start] @ before.unsqueeze(-1)).squeeze(-1)
                q = TriangularNormal(mean, block)
                noise.append(q.noise_of(sample_site(site, shaped(site, q))))
