"""Bidirectional Monte Carlo: log p(x) of simulated data, from below and from above."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr
from torch import Tensor

from ppvae import require
from ppvae.blocks import DATA_BLOCK, PARTICLE_BLOCK, Block
from ppvae.entry import entry
from ppvae.errors import PpvaeError
from ppvae.evidence.annealing import Annealing, covers
from ppvae.evidence.estimates import estimate
from ppvae.evidence.method import Sampler, Weighted, check_options_of, options_of
from ppvae.evidence.methods.ais import ais
from ppvae.evidence.problem import Problem
from ppvae.evidence.proposal import Proposal
from ppvae.evidence.rounding import is_coarse
from ppvae.pair.pair import Pair, require_pair
from ppvae.pair.precision import default_precision
from ppvae.randomness import stream
from ppvae.tasks.sampling import sample

#: streams of random numbers
_REVERSE = stream("diagnostics/bidirectional/reverse")
_IMPORTANCE = stream("diagnostics/bidirectional/importance")
_OTHERS = stream("diagnostics/bidirectional/others")
_SCOPE = (
    "data simulated from the model: how well these methods estimate log p of such data; they do not judge estimates "
    "for real data, whose posteriors may be harder"
)


@entry
def bdmc(
    pair: Pair,
    num_data: int = 50,
    num_samples: int = 16,
    *,
    num_importance: int = 1000,
    seed: int = 0,
    chunk_size: int = DATA_BLOCK * PARTICLE_BLOCK,
    progress: bool | None = False,
    **options: Any,
) -> xr.Dataset:
    """Sandwich log p(x) of data simulated from the model between stochastic bounds (Grosse, Ghahramani & Adams 2015).

    The latents z that a simulated x came from are an exact draw of p(z | x). Forward AIS chains bound log p(x) from
    below, in expectation. Chains that start at z and pass the same transitions in reverse order have weights with
    E w = 1/p(x), so that −log of their mean bounds log p(x) from above, in expectation (Wu, Burda, Salakhutdinov &
    Grosse 2017). Where the bounds meet, both are right. K importance samples of q give cheaper and looser bounds; for
    the bound from above z is one of them.

    Args:
        pair: a trained pair with continuous latents, and discrete ones summed out by the model.
        num_data: N, the number of simulated data. A larger N keeps the data of a smaller one and adds to them.
        num_samples: chains per datum, in each direction.
        num_importance: K, importance samples of q per datum.
        seed: of all random numbers; the caller's random state is restored.
        chunk_size: particles × datapoints scored at once, which limits memory.
        progress: show a progress bar; where None, only on a terminal.
        options: of method "ais".

    Returns:
        Dataset over dim `datum`, all in nats: lower (forward AIS) with lower_se, upper (reverse AIS) with upper_se,
        gap = upper − lower, iwae_lower with iwae_lower_se, iwae_upper (q with z among its draws; NaN where the guide is
        not over the continuous latents alone, or has no density on a part of their support). upper_se is the
        error over chains that share one start z, and iwae_upper has one z: only the spread over data shows how much
        they depend on z. Attributes: mean_gap and mean_gap_se over data, num_data, the settings, scope.

    Raises:
        PpvaeError: an argument is out of range, an option is unknown, AIS does not apply to the pair, or `sample`
            refuses the model.
    """
    require_pair(pair)
    check_options_of("ais", options)
    require.count("num_data", num_data)
    require.count("num_samples", num_samples)
    require.count("num_importance", num_importance)
    require.count("chunk_size", chunk_size)
    require.count("seed", seed, least=0)
    simulated = sample(pair, num_data, seed=seed)
    problem = Problem(pair, pair.as_input(simulated.x), None, seed, num_samples, chunk_size, progress)
    if problem.fault is not None and problem.fault.improper:
        raise PpvaeError(f"{type(pair.model).__name__}: {problem.fault}")
    with ExitStack() as precision:
        if is_coarse(problem) is not None:  # single precision rounds log weights by too much
            problem = problem.converted(torch.float64)
            precision.enter_context(default_precision(torch.float64))
        latents = {name: value.to(problem.x).unsqueeze(0) for name, value in simulated.latents.items()}
        columns = _bounds(problem, ais(problem, **options), latents, num_importance)
    columns["gap"] = columns["upper"] - columns["lower"]
    gap = columns["gap"].cpu().numpy()
    attributes = {
        "mean_gap": float(gap.mean()),
        "mean_gap_se": float(gap.std(ddof=1) / math.sqrt(num_data)) if num_data > 1 else math.nan,
        "scope": _SCOPE,
        "num_data": num_data,
        "num_samples": num_samples,
        "num_importance": num_importance,
        "seed": seed,
        **{name: parameter.default for name, parameter in options_of("ais").items()},
        **options,
    }
    return xr.Dataset(
        {name: ("datum", value.cpu().numpy(), {"units": "nats/datum"}) for name, value in columns.items()},
        coords={"datum": np.arange(num_data)},
        attrs=attributes,
    )


def _bounds(problem: Problem, chains: Annealing, latents: dict[str, Tensor], num_importance: int) -> dict[str, Tensor]:
    """The bounds of each datum, given the latents [1, N, *event] that it came from."""
    with torch.no_grad():
        truth = problem.target.unconstrained(latents)
    forward = estimate(problem, chains)
    backward = estimate(problem, _Backwards(chains, truth), _REVERSE)
    columns = {
        "lower": forward["log_marginal"],
        "lower_se": forward["log_marginal_se"],
        "upper": -backward["log_marginal"],
        "upper_se": backward["log_marginal_se"],
    }
    if problem.fault is not None:  # weights of draws of q have another mean than p(x)
        nan = torch.full_like(columns["lower"], math.nan)
        return columns | dict.fromkeys(("iwae_lower", "iwae_lower_se", "iwae_upper"), nan)
    proposal = Proposal(problem.model, problem.posterior)
    iwae = estimate(problem.at(problem.everyone, num_importance), proposal, _IMPORTANCE)
    return columns | {
        "iwae_lower": iwae["log_marginal"],
        "iwae_lower_se": iwae["log_marginal_se"],
        "iwae_upper": _with_truth(problem.at(problem.everyone, num_importance - 1), proposal, truth),
    }


@dataclass
class _Backwards(Sampler):
    """Reverse chains from true latents u [1, N, D]; the mean weight estimates 1/p(x)."""

    chains: Annealing
    truth: Tensor

    def weights(self, block: Block, particles: int, size: int) -> Iterator[Weighted]:
        start = self.truth[:, block.wanted].expand(particles, -1, -1)
        log_weight = self.chains.run(block, start, size, reverse=True)
        yield Weighted(log_weight, log_weight)


def _with_truth(others: Problem, proposal: Proposal, truth: Tensor) -> Tensor:
    """log (1/K)(w(z) + Σ w of K − 1 draws of q), [N].

    K latents, one of them (at a random place) from p(z | x) and the others from q, have the density of K draws of q
    times mean w / p(x). Under it E log mean w − log p(x) is a KL divergence from the density of K draws of q, and so
    ≥ 0; under q it is minus the reverse divergence.
    """
    target, posterior = others.target, others.posterior
    if not covers(target, posterior, others.x):
        return truth.new_full(truth.shape[1:2], math.nan, dtype=torch.float64)
    parts = []
    with torch.no_grad(), pyro.validation_enabled(False):
        for _, block in others.blocks():
            u, x = truth[:, block.wanted], block.x
            log_q = target.log_q(u, x, posterior.select(block.wanted))
            parts.append((target.log_joint(u, x) - log_q).squeeze(0).double())
    log_weight = torch.cat(parts)
    if not others.num_samples:
        return log_weight
    rest = estimate(others, proposal, _OTHERS)["log_marginal"] + math.log(others.num_samples)
    return torch.logaddexp(rest, log_weight) - math.log(others.num_samples + 1)
