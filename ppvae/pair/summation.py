"""Discrete latents of the model alone, summed out of its joint."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from ppvae.pair.sites import Site


def sum_out(
    p: dict[str, Site], q: dict[str, Site], summed: int, keep: int, flat: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Sum the model's own discrete latents out of the joint, exactly, over the product of their values.

    Args:
        p, q: the sites of the model and of the guide.
        summed: the number of dims that only the model enumerated.
        keep: the number of dims to the right of these.
        flat: a log-density → [R, B].

    Returns:
        The log-likelihood and the log-prior of the guide's latents [R, B], and one term per site of the model.
    """
    dims = tuple(range(-keep - summed, -keep))

    def marginal(names: list[str]) -> Tensor:
        total = cast(Tensor, sum(p[name].log_prob for name in names))
        lead = total.dim() - keep
        if lead <= 0:
            return total
        return total.logsumexp(tuple(range(lead))) if total.dim() <= keep + summed else total.logsumexp(dims)

    latents = [name for name, site in p.items() if not site.observed]
    free = [name for name in latents if name in q and p[name].log_prob.dim() <= keep]
    log_joint = flat(marginal(list(p)))
    bound = [name for name in latents if name not in free]
    # log p of the guide's latents, the others summed out; without a latent of the guide they sum to 1
    log_prior = flat(marginal(latents)) if q else torch.zeros_like(log_joint)
    terms = {name: flat(p[name].log_prob) for name in free}
    named = [name for name in bound if name in q]
    if named:
        terms["+".join(named)] = log_prior - cast(Tensor, sum(terms.values()))
    terms["+".join(name for name, site in p.items() if site.observed)] = log_joint - log_prior
    return log_joint - log_prior, log_prior, terms
