"""The evidence lower bound."""

from __future__ import annotations

from typing import ClassVar, get_args

import torch
from torch import Tensor

from ppvae import require
from ppvae.catalogue import register
from ppvae.pair.densities import Densities
from ppvae.variational.objective import Objective
from ppvae.variational.objective_choice import KL


@register("elbo", order=1, kl_terms=True)
class ELBO(Objective):
    """The evidence lower bound, E_q[log p(x, z) − log q(z)] (Jordan, Ghahramani, Jaakkola & Saul 1999)."""

    mean_over_draws: ClassVar[bool] = True

    @property
    def unrecorded(self) -> tuple[str, str] | None:
        return ("free_bits", "depends on the value of the KL") if self.free_bits else None

    def value(self, densities: Densities) -> Tensor:
        return elbo(densities, self.kl, self.beta, self.free_bits)

    def signal(self, densities: Densities, value: Tensor) -> Tensor:
        kl = self.beta * densities.kl(analytic=False)
        return (densities.log_likelihood - kl).detach()

    def surrogate(self, densities: Densities, value: Tensor, signal: Tensor) -> Tensor:
        # a draw's score is independent of the other draws, and E[∂ log q / ∂φ] = 0, so that term is not needed
        return (signal * densities.log_q + densities.log_likelihood + self.beta * densities.log_prior).mean(0)


def elbo(densities: Densities, kl: KL = "mc", beta: float = 1.0, free_bits: float = 0.0) -> Tensor:
    """The evidence lower bound L[q] = E_q[log p(x, z) − log q(z)] ≤ log p(x) per datum [B].

    Args:
        densities: of any number of particles.
        kl: "analytic" replaces log q − log p by KL(q ‖ p) site by site wherever that is exact and registered
            (Kingma & Welling 2014, appendix B); "mc" uses the draws, whose noise vanishes as q approaches the
            posterior (Roeder et al. 2017).
        beta: weight of the KL terms (Higgins et al. 2017, β-VAE); below 1 the result is not a lower bound.
        free_bits: nats of each site's KL, averaged over the batch, that cost nothing (Kingma et al. 2016): below
            that its term is constant. For training only: the result is not a lower bound per datum.
    """
    require.one_of("kl", kl, get_args(KL))
    if kl == "mc" and beta == 1 and not free_bits:
        return densities.mean(densities.log_ratio)
    if not free_bits:
        return densities.mean(densities.log_likelihood - beta * densities.kl(analytic=kl == "analytic"))
    bound = densities.mean(densities.log_likelihood)
    for term in densities.kl_sites(analytic=kl == "analytic").values():
        term = densities.mean(term)
        bound = bound - beta * (term if bool(term.mean() > free_bits) else torch.full_like(term, free_bits))
    return bound
