"""log p(x, z) as a function of the continuous latents in unconstrained space, where it has gradients.

A latent z on any support is T(u), u in ℝⁿ, and its density has a Jacobian term:
log p(x, u) = log p(x, T(u)) + log |det ∂T/∂u|. Discrete latents that the model marks for enumeration are summed out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from ppvae.errors import PpvaeError
from ppvae.pair.bijections import bijection_onto
from ppvae.pair.densities import score
from ppvae.pair.family import LocalSite
from ppvae.pair.latents import local_sites
from ppvae.pair.model import Model
from ppvae.pair.sites import Draws, draw


class Target:
    """The continuous local latents of a model as one vector u [..., D].

    Attributes:
        sites: the latents, in the model's order.
        size: D.
        mean, std: of u under the prior, [D].
    """

    def __init__(self, model: Model, x: Tensor) -> None:
        """Read the latents from a trace of the model at data x [B, *event].

        Raises:
            PpvaeError: a latent is discrete and not summed out, is not local, or its support changes; or there is none.
        """
        self.model = model
        self.sites: list[LocalSite] = local_sites(model, x, way_out="choose a method without gradients")
        if not self.sites:
            raise PpvaeError(
                f"{type(model).__name__} has no continuous latent to follow a gradient in: choose another method"
            )
        self.mean = torch.cat([site.mean.flatten() for site in self.sites])
        self.std = torch.cat([site.std.flatten() for site in self.sites])
        self.size = len(self.mean)

    def values(self, u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """u [S, B, D] → the latents {name: [S, B, *event]}, and log |det ∂T/∂u| [S, B]."""
        values, log_det, at = {}, u.new_zeros(u.shape[:-1]), 0
        for site in self.sites:
            raw = u[..., at : at + site.size].reshape(*u.shape[:-1], *site.mean.shape)
            at += site.size
            if site.support is constraints.real:
                values[site.name] = raw
                continue
            bijection = bijection_onto(site.support)
            values[site.name] = bijection(raw)
            change = bijection.log_abs_det_jacobian(raw, values[site.name])
            log_det = log_det + change.flatten(2).sum(-1) if change.dim() > 2 else log_det + change
        return values, log_det

    def unconstrained(self, values: Mapping[str, Tensor]) -> Tensor:
        """The latents {name: [S, B, *event]} → u [S, B, D]: the inverse of `values`."""
        parts = []
        for site in self.sites:
            value = values[site.name]
            raw = value if site.support is constraints.real else bijection_onto(site.support).inv(value)
            parts.append(raw.reshape(*value.shape[:2], site.size))
        return torch.cat(parts, -1)

    def log_densities(self, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """(log p(u), log p(x | u)), each [S, B], at u [S, B, D] and data x [B, *event]."""
        values, log_det = self.values(u)
        densities = score(self.model, x, Draws.given(values))
        return densities.log_prior + log_det, densities.log_likelihood

    def log_joint(self, u: Tensor, x: Tensor) -> Tensor:
        """log p(x, u) [S, B]."""
        log_prior, log_likelihood = self.log_densities(u, x)
        return log_prior + log_likelihood

    def log_q(self, u: Tensor, x: Tensor, guide: Callable[[Tensor], Any]) -> Tensor:
        """log q(u) [S, B] of a guide over the same latents."""
        values, log_det = self.values(u)
        draws = draw(guide, x, len(u), values)
        total = log_det
        for site in draws.sites.values():
            total = total + site.log_prob
        return total
