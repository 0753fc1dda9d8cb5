"""The bounds of q as it is, which stand beside the estimate of any other method."""

from __future__ import annotations

import math

import torch

from ppvae.evidence.estimates import Estimates, estimate
from ppvae.evidence.problem import Problem
from ppvae.evidence.proposal import Proposal
from ppvae.evidence.rounding import Rounding

#: column → units of the estimate from q as it is, which is reported beside that of the chosen methods
PLAIN = {"iwae_bound": "nats/datum", "iwae_bound_se": "nats/datum"}


def plain_columns(problem: Problem, rounding: Rounding | None = None, plain: Estimates | None = None) -> Estimates:
    """The bounds of q as it is: elbo, iwae_bound from exactly num_samples draws, and their errors.

    NaN where q has none.

    Args:
        rounding: measures the rounding of the draws.
        plain: the columns of plain importance sampling, where they are known.
    """
    fault = problem.fault
    if fault is not None and not fault.bounded:
        nan = torch.full((len(problem.x),), math.nan, dtype=torch.float64, device=problem.x.device)
        return dict.fromkeys(("elbo", "elbo_se", *PLAIN), nan)
    if plain is None or fault is not None:
        plain = estimate(problem, Proposal(problem.model, problem.posterior, joint=problem.joint), rounding=rounding)
    return {
        "elbo": plain["elbo"],
        "elbo_se": plain["elbo_se"],
        "iwae_bound": plain["log_marginal"],
        "iwae_bound_se": plain["log_marginal_se"],
    }
