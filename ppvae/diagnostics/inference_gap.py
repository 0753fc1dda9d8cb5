"""The gap between log p(x) and the ELBO, split into the loss by the family and the loss by the source of φ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ppvae import require
from ppvae.blocks import Block
from ppvae.catalogue import FAMILIES
from ppvae.diagnostics.best_q import (
    STREAM_REFINE,
    STREAM_REPORT,
    BestQ,
    all_weights,
    best_of_family,
    best_of_own_family,
    is_best_known,
    with_family,
)
from ppvae.entry import entry
from ppvae.errors import PpvaeError
from ppvae.evidence.estimates import certain, estimate, summary
from ppvae.evidence.marginal import check_method, estimates
from ppvae.evidence.method import Sampler, prepared
from ppvae.evidence.problem import Problem
from ppvae.evidence.proposal import Proposal
from ppvae.evidence.rounding import is_coarse
from ppvae.evidence.weights import Weights, khat_threshold
from ppvae.evidence.widening import widened
from ppvae.options import check_options
from ppvae.pair.pair import Pair, require_pair
from ppvae.pair.precision import default_precision
from ppvae.randomness import block_seed
from ppvae.variational.refinement import refine

#: the columns of log p(x)
_OF_P = ("log_marginal", "log_marginal_se", "ess", "khat", "ok")
#: the columns that need the best q of the pair's own family
_OF_STAR = {
    f"{name}{se}"
    for name in ("elbo_star", "approximation_gap", "amortization_gap", "family_gain")
    for se in ("", "_se")
}
#: units of columns that are not in nats
_UNITS = {"ess": "draws", "khat": "", "ok": "", "converged": "", "family_converged": ""}


@entry
def gaps(
    pair: Pair,
    x: Tensor,
    index: Tensor | None = None,
    *,
    families: Sequence[str] | Mapping[str, Mapping[str, Any]] = (),
    num_samples: int = 1000,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    lr: float = 0.03,
    max_steps: int = 1000,
    tolerance: float = 0.02,
    particles: int = 16,
    seed: int = 0,
) -> xr.Dataset:
    """Split log p(x) − L[q] into the loss by the family and the loss by the source of φ.

    L[q*] is the bound of the best q of the same family for each datum by itself, under the same model:

        log p(x) − L[q] = (log p(x) − L[q*])   approximation gap: the family
                        + (L[q*] − L[q])       amortization gap: the encoder; for rows of a table, their optimisation

    (Cremer, Li & Duvenaud 2018, "Inference Suboptimality in Variational Autoencoders"). q* is searched from two
    starts, q itself (warm) and the declared φ (cold). The better one is chosen on separate draws, so that the choice
    does not bias the reported bounds, which come from new draws. Where the optimiser falls short of q*, the
    approximation gap is too large and the amortization gap too small by the same amount. Errors are paired: the draws
    of q, of q* and of log p(x) use the same random numbers.

    Where the guide computes its distributions from x and has no φ, q* is searched in rows of their parameters. Where
    they cannot be written as rows (a flow, a distribution that depends on another latent), q* and both gaps are NaN.

    Args:
        pair: a trained pair, which does not change.
        x: data [N, *event]; training and test data have different gaps.
        index: the positions of x in the training set, to use q as training left it.
        families: names of other families, or {name: options}, each optimised for each datum under the same model.
            Those that own weights (the flows) are fitted to x first.
        num_samples: draws for each reported number.
        method: of `log_marginal`, for log p(x); where None, "exact" if that applies, else importance sampling from a
            slightly widened q* of the family with the tightest bound.
        options: of the method.
        lr, max_steps, tolerance, particles: of the optimisation, as `ppvae.variational.refinement.refine` has them;
            more particles bring it closer to the optimum.
        seed: of all draws; the caller's random state is restored.

    Returns:
        Dataset over dim `datum` in nats: elbo, elbo_star, log_marginal, approximation_gap, amortization_gap, each with
        its standard error `_se`; ess, khat, ok of log_marginal: where ok is False it is a lower bound, and the
        approximation gap with it; converged; start, where q* came from: "warm", "cold", or "q" where neither was
        better than q. With families, over (family, datum): family_elbo_star; family_gap = log p(x) − family_elbo_star;
        family_gain = family_elbo_star − elbo_star, the gain by another family where both have their best φ, each with
        its error; family_converged. `ppvae.summarise(result, "amortization_gap")` averages over data.

    Raises:
        PpvaeError: x has the wrong shape or is not finite, an argument is out of range, a family, method or option is
            unknown, a family cannot take the latents of the model, or q is a point mass.
    """
    require_pair(pair)
    require.count("num_samples", num_samples, least=2)
    require.count("seed", seed, least=0)
    others = _checked(families)
    if method is None and options is not None:
        raise PpvaeError("options are for a method of log_marginal: also give method")
    if method is not None:
        check_method(method, options)
    x = pair.as_input(x)
    problem = Problem(pair, x, index, seed, num_samples)
    name = type(pair.model).__name__
    if problem.fault is not None and not problem.fault.bounded:
        raise PpvaeError(f"{name}: {problem.fault}: its ELBO does not exist, so there is no gap to split")
    with ExitStack() as precision:
        if is_coarse(problem) is not None:  # single precision rounds log weights by too much
            problem = problem.converted(torch.float64)
            precision.enter_context(default_precision(torch.float64))
        return _gaps(problem, others, method, options, lr, max_steps, tolerance, particles)


def _gaps(
    problem: Problem,
    others: Mapping[str, Mapping[str, Any]],
    method: str | None,
    options: Mapping[str, Any] | None,
    lr: float,
    max_steps: int,
    tolerance: float,
    particles: int,
) -> xr.Dataset:
    x, seed, num_samples = problem.x, problem.seed, problem.num_samples
    if method is None:
        p = _exact(problem)
        if p is None:
            problem.require_density("gaps")
    else:
        results = estimates(problem, method, options)
        p = {name: torch.as_tensor(results[name].values, device=x.device) for name in _OF_P}
    improve = partial(
        refine,
        x=x,
        lr=lr,
        max_steps=max_steps,
        tolerance=tolerance,
        particles=particles,
        seed=block_seed(seed, STREAM_REFINE),
    )
    models = [with_family(problem, name, of) for name, of in others.items()]
    own = best_of_own_family(problem, improve)
    stars = {
        name: best_of_family(problem, improve, own, model, name, of)
        for model, (name, of) in zip(models, others.items(), strict=True)
    }
    columns = gap_columns(problem, own, stars, p)
    if not is_best_known(problem):
        for name in _OF_STAR & columns.keys():
            columns[name] = torch.full_like(columns[name], math.nan)
    data: dict[str, Any] = {}
    for name, column in columns.items():
        dims = ("datum",) if column.dim() == 1 else ("family", "datum")
        data[name] = (dims, column.cpu().numpy(), {"units": _UNITS.get(name, "nats/datum")})
    data["start"] = ("datum", own.start)
    data["approximation_gap"][2]["bound"] = "a lower bound where ok is False"
    coords: dict[str, Any] = {"datum": np.arange(len(x))}
    if others:
        coords["family"] = list(others)
    return xr.Dataset(
        data,
        coords=coords,
        attrs={
            "num_samples": num_samples,
            "method": method or ("refined" if p is None else "exact"),
            "lr": lr,
            "max_steps": max_steps,
            "tolerance": tolerance,
            "particles": particles,
            "seed": seed,
            "khat_threshold": khat_threshold(num_samples),
        },
    )


def gap_columns(
    problem: Problem, own: BestQ, others: Mapping[str, BestQ], p: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Columns [N], and those of other families [F, N], from new draws that all of them share."""
    stars = [own, *others.values()]
    tightest = torch.stack([star.bound for star in stars]).argmax(0)
    wide = [Proposal(star.posterior.model, widened(star.posterior, problem.x)) for star in stars]
    narrow = [Proposal(star.posterior.model, star.posterior) for star in stars]
    plain = Proposal(problem.model, problem.posterior)
    parts: list[dict[str, Tensor]] = []
    for number, block in problem.blocks():
        q = all_weights(problem, plain, block, number, STREAM_REPORT)[1]
        best = torch.stack([all_weights(problem, star, block, number, STREAM_REPORT)[1] for star in narrow])
        if p is None:
            part, ratio = _log_marginal(problem, wide, tightest, block, number)
        else:
            part = {name: column[block.wanted] for name, column in p.items()}
            ratio = torch.zeros_like(q)
        # the log of a mean of weights moves by a draw's weight over that mean
        gap, gap_se = part["log_marginal"] - best.mean(1), _error(ratio - best)
        if p is not None:
            gap_se = (gap_se.square() + part["log_marginal_se"].square()).sqrt()
        part |= {
            "elbo": q.mean(0),
            "elbo_se": _error(q),
            "elbo_star": best[0].mean(0),
            "elbo_star_se": _error(best[0]),
            "approximation_gap": gap[0],
            "approximation_gap_se": gap_se[0],
            "amortization_gap": (best[0] - q).mean(0),
            "amortization_gap_se": _error(best[0] - q),
        }
        if others:
            part |= {
                "family_elbo_star": best[1:].mean(1),
                "family_elbo_star_se": _error(best[1:]),
                "family_gap": gap[1:],
                "family_gap_se": gap_se[1:],
                "family_gain": (best[1:] - best[0]).mean(1),
                "family_gain_se": _error(best[1:] - best[0]),
            }
        parts.append(part)
    columns = {name: torch.cat([part[name] for part in parts], -1) for name in parts[0]}
    columns["converged"] = own.converged
    if others:
        columns["family_converged"] = torch.stack([star.converged for star in others.values()])
    return columns


def _log_marginal(
    problem: Problem, samplers: Sequence[Sampler], tightest: Tensor, block: Block, number: int
) -> tuple[dict[str, Tensor], Tensor]:
    """log p̂ of a block's data, each from the sampler of its tightest family, and w/mean w of every draw [S, B]."""
    owner = tightest[block.wanted]
    log_w = torch.empty(problem.num_samples, len(owner), dtype=torch.float64, device=owner.device)
    for i, sampler in enumerate(samplers):
        mine = owner == i
        if bool(mine.any()):
            part = replace(block, rows=block.rows[mine])
            log_w[:, mine], _, exact = all_weights(problem, sampler, part, number, STREAM_REPORT)
            if exact:
                return {name: certain(log_w[0])[name] for name in _OF_P}, torch.zeros_like(log_w)
    weights = Weights.empty(problem.num_samples, log_w[0])
    weights.add(log_w, log_w)
    columns = summary(weights, smooth=False)
    return {name: columns[name] for name in _OF_P}, (log_w - columns["log_marginal"]).exp()


def _error(draws: Tensor) -> Tensor:
    """The standard error of a mean over draws [..., S, B]."""
    return draws.std(-2) / math.sqrt(draws.shape[-2])


def _exact(problem: Problem) -> dict[str, Tensor] | None:
    """log p(x) without draws, or None where method "exact" does not apply."""
    try:
        source = prepared(problem, "exact")
    except PpvaeError:
        return None
    columns = estimate(problem, source)
    return {name: columns[name] for name in _OF_P}


def _checked(families: Sequence[str] | Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Families with their options; raises PpvaeError where one is unknown."""
    if isinstance(families, str) or not isinstance(families, Sequence | Mapping):
        raise PpvaeError(f"families must be a list of names, got {require.show(families)}")
    out: dict[str, dict[str, Any]] = {}
    for name in families:
        known = require.one_of("family", name, FAMILIES)
        options = require.mapping(f"options of {known}", families[name] if isinstance(families, Mapping) else None)
        check_options(known, FAMILIES[known], options, skip=("self", "sites", "model", "x"))
        out[known] = options
    return out
