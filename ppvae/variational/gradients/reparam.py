"""The plain reparameterised gradient."""

from __future__ import annotations

from ppvae.catalogue import register
from ppvae.variational.gradient import Gradient


@register("reparam", order=1, objectives={"elbo": "unbiased", "iwae": "unbiased"}, analytic_kl=True)
class Reparameterised(Gradient):
    """The gradient through the draws, z = g(ε, φ) (Kingma & Welling 2014)."""
