"""The top-down family of a layered Gaussian model."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from ppvae.catalogue import register
from ppvae.errors import PpvaeError
from ppvae.pair.family import Family, LocalSite
from ppvae.pair.local import Local, Phi
from ppvae.pair.model import Model
from ppvae.pair.prior import run_prior
from ppvae.randomness import seeded


@register("ladder", order=7)
class Ladder(Family):
    """q(z) = Πₛ p(zˢ | z above) Normal(zˢ; loc_s, diag scale_s²) / norm: the model's priors, each corrected by φ.

    The top-down family of Sønderby, Raiko, Maaløe, Sønderby & Winther (2016), "Ladder Variational Autoencoders": in the
    model's own order, each latent's conditional prior is multiplied by a Gaussian of φ, which weighs the two by their
    precisions. A Normal prior gives a Normal q, a correlated prior a correlated q, so that every KL term has a closed
    form. Where each latent is observed through a Gaussian of diagonal information, the family holds the true posterior.

    The guide is the model's own program, stopped after its last latent: q depends on θ.
    """

    #: q depends on θ: estimators that differentiate log q or the draws with respect to φ alone are refused
    uses_model = True

    def __init__(self, sites: list[LocalSite], model: Model, x: Tensor) -> None:
        self.model = model
        self.names = [site.name for site in sites]
        self.phi = {}
        for site in sites:
            self.phi[f"{site.name}_loc"] = Local(site.mean)
            # at twice the prior's width q is near the prior, and a change of loc still moves q by a fifth of it
            self.phi[f"{site.name}_scale"] = Local(2 * site.std, constraints.softplus_positive)
        start = {name: local.start.expand(len(x), *local.start.shape) for name, local in self.phi.items()}
        with torch.no_grad(), seeded(0, device=x.device):
            self(x, start)  # refuses a prior without such a product before training

    def __call__(self, x: Tensor, phi: Phi) -> None:
        def multiply(msg: Any, left: dict[str, None]) -> None:
            name = msg["name"]
            if name not in left:
                raise PpvaeError(
                    f"family 'ladder' needs the prior of {next(iter(left))!r}, and latent {name!r}, which the model "
                    "sums out, is drawn before it: draw it after, or choose another family"
                )
            try:
                msg["fn"] = product(msg["fn"], phi[f"{name}_loc"], phi[f"{name}_scale"])
            except NotImplementedError as error:
                raise PpvaeError(
                    f"family 'ladder' multiplies Gaussian priors, and latent {name!r} is a {error}: choose another "
                    "family"
                ) from error

        run_prior(self.model, x, self.names, multiply)


def product(prior: Any, loc: Tensor, scale: Tensor) -> Any:
    """The normalised product of a Gaussian prior [..., B, *event] and Normal(loc, diag scale²), each [B, *event].

    Raises:
        NotImplementedError: the prior is not Gaussian; the message is its name.
    """
    if isinstance(prior, torch.distributions.Independent):
        return dist.Independent(product(prior.base_dist, loc, scale), prior.reinterpreted_batch_ndims)
    if isinstance(prior, torch.distributions.Normal):
        total = prior.scale.square() + scale.square()
        mean = prior.loc + prior.scale.square() / total * (loc - prior.loc)
        return dist.Normal(mean, prior.scale * scale * total.rsqrt())
    if isinstance(prior, torch.distributions.MultivariateNormal):
        tril = prior._unbroadcasted_scale_tril  # a covariance that data and particles share is not copied
    elif isinstance(prior, torch.distributions.LowRankMultivariateNormal):
        tril = prior.scale_tril
    else:
        raise NotImplementedError(type(prior).__name__)
    # With Σ = L Lᵀ, D = diag scale² and I + Lᵀ D⁻¹ L = U Uᵀ, U upper triangular: (Σ⁻¹ + D⁻¹)⁻¹ = T Tᵀ, T = L U⁻ᵀ lower
    # triangular. No near-singular matrix is inverted. U is a Cholesky factor with rows and columns reversed.
    weighed = tril / scale.unsqueeze(-1)
    inner = torch.eye(tril.shape[-1], dtype=tril.dtype, device=tril.device) + weighed.mT @ weighed
    # a NaN row shows in its own bound, and does not disturb the others
    upper = torch.linalg.cholesky_ex(inner.flip(-1, -2)).L.flip(-1, -2)
    factor = torch.linalg.solve_triangular(upper.mT, tril.expand_as(upper), upper=False, left=False).tril()
    gap = ((loc - prior.loc) / scale.square()).unsqueeze(-1)
    mean = prior.loc + (factor @ (factor.mT @ gap)).squeeze(-1)
    return dist.MultivariateNormal(mean, scale_tril=factor)
