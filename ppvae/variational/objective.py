"""What is maximised: functions of the densities, [R, B] → [B], in nats/datum."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from ppvae.errors import PpvaeError
from ppvae.pair.densities import Densities

KL = Literal["analytic", "mc"]
ObjectiveName = Literal["elbo", "iwae", "rws"]
OBJECTIVES: tuple[ObjectiveName, ...] = get_args(ObjectiveName)


def elbo(densities: Densities, kl: KL = "mc", beta: float = 1.0, free_bits: float = 0.0) -> Tensor:
    """The evidence lower bound L[q] = E_q[log p(x, z) − log q(z)] ≤ log p(x) per datum [B].

    Args:
        densities: of any number of particles.
        kl: "analytic" replaces log q − log p by KL(q ‖ p) site by site wherever that is exact and registered
            (Kingma & Welling 2014, appendix B); "mc" keeps the draws, whose noise vanishes as q nears the truth
            (Roeder et al. 2017).
        beta: weight of the KL terms (Higgins et al. 2017, β-VAE); below 1 the result is no lower bound.
        free_bits: nats of each site's KL, averaged over the batch, that cost nothing (Kingma et al. 2016): below
            that its term is constant. For training; no lower bound per datum.
    """
    if kl not in get_args(KL):
        raise PpvaeError(f"kl must be 'analytic' or 'mc', got {kl!r}")
    if kl == "mc" and beta == 1 and not free_bits:
        return densities.mean(densities.log_ratio)
    if not free_bits:
        return densities.mean(densities.log_likelihood - beta * densities.kl(analytic=kl == "analytic"))
    bound = densities.mean(densities.log_likelihood)
    for term in densities.kl_sites(analytic=kl == "analytic").values():
        term = densities.mean(term)
        bound = bound - beta * (term if bool(term.mean() > free_bits) else torch.full_like(term, free_bits))
    return bound


def iwae(densities: Densities) -> Tensor:
    """The importance-weighted bound log (1/S) Σ p(x, zₛ)/q(zₛ | x) ≤ log p(x) in expectation, per datum [B].

    Tightens as S grows, and is the ELBO at S = 1 (Burda, Grosse & Salakhutdinov 2016). Rows of an enumerated site
    are weighed by q, so that the average over its values is exact.
    """
    return (densities.log_ratio + densities.log_weight).logsumexp(0)


def normalised_weights(densities: Densities) -> Tensor:
    """w̄ = w / Σ w over rows [R, B], without gradient."""
    return (densities.log_ratio + densities.log_weight).detach().softmax(0)


def log_mean_of_others(log_w: Tensor) -> Tensor:
    """What log (1/S) Σ w would be if draw s weighed the geometric mean of the others: [S, B] → [S, B].

    The leave-one-out baseline of VIMCO (Mnih & Rezende 2016).
    """
    size = len(log_w)
    others = (log_w.sum(0, keepdim=True) - log_w) / (size - 1)
    swapped = log_w.unsqueeze(0).expand(size, *log_w.shape).clone()
    index = torch.arange(size, device=log_w.device)
    swapped[index, index] = others
    return swapped.logsumexp(1) - math.log(size)
