"""From importance weights to estimates per datum, block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor

from ppvae.blocks import PARTICLE_BLOCK, Block
from ppvae.evidence.method import Known, Sampler, Weighted, prepared
from ppvae.evidence.problem import Problem
from ppvae.evidence.rounding import Rounding
from ppvae.evidence.weights import Weights
from ppvae.memory import keep_freed_pages
from ppvae.progress import Progress
from ppvae.randomness import block_seed, forked, reseed, stream

#: column → units of the estimates of each datum
COLUMNS = {
    "log_marginal": "nats/datum",
    "log_marginal_se": "nats/datum",
    "last_doubling": "nats/datum",
    "elbo": "nats/datum",
    "elbo_se": "nats/datum",
    "ess": "draws",
    "khat": "",
    "ok": "",
}
#: column → units of estimates that are not lower bounds, computed where `smooth` is set
SMOOTHED = {"log_marginal_psis": "nats/datum", "log_marginal_jackknife": "nats/datum"}
Estimates = dict[str, Tensor]
#: the stream of random numbers of reported values; pilots use other streams
REPORTED = stream("evidence/reported")


def estimate(
    problem: Problem, source: Sampler | Known, stream: int = REPORTED, rounding: Rounding | None = None
) -> Estimates:
    """The columns of `COLUMNS`, each [A], and where draws were made `running` [A, checkpoints of S].

    With `problem.smooth` also those of `SMOOTHED`.

    Args:
        rounding: measures the rounding of the draws; where it matters, a datum does not pass.

    Raises:
        RoundingError: the problem is in single precision, and rounding matters.
    """
    return (
        certain(source.log_marginal, error=source.error, smooth=problem.smooth)
        if isinstance(source, Known)
        else _estimate(problem, source, stream, rounding)
    )


def reported(
    problem: Problem, method: str, options: Mapping[str, Any], rounding: Rounding
) -> tuple[Estimates, Sampler | Known]:
    """The columns of a method by name, with the rounding of its values measured, and its sampler or known values."""
    source = prepared(problem, method, options)
    if isinstance(source, Known):
        columns = estimate(problem, source)
        off = rounding.of_known(method, options, source)
        columns["ok"] = columns["ok"] & ~rounding.too_large(off, columns["log_marginal_se"])
        return columns, source
    return estimate(problem, source, rounding=rounding), source


def _estimate(problem: Problem, sampler: Sampler, stream: int, rounding: Rounding | None) -> Estimates:
    keep_freed_pages()
    columns: Estimates = {}
    device = problem.x.device
    wanted = len(problem.x) if problem.positions is None else len(problem.positions)
    done = 0
    bar = Progress(problem.progress, wanted, "log p(x)")
    with bar, torch.no_grad(), forked(device), pyro.validation_enabled(False):
        for number, block in problem.blocks():
            weights = Weights.empty(problem.num_samples, problem.x.new_empty(len(block.rows)), smooth=problem.smooth)
            checked, off = rounding is not None and rounding.wants(block), None
            for some in drawn(problem, sampler, block, number, stream):
                if checked and off is None and rounding is not None:
                    off = rounding.of_draws(block, some)
                if some.exact:
                    part = certain(some.log_weight[0], some.bound[0], smooth=problem.smooth)
                    break
                weights.add(some.log_weight, some.bound)
            else:
                part = summary(weights, problem.smooth)
            if off is not None and rounding is not None:
                part["ok"] = part["ok"] & ~rounding.too_large(off, part["log_marginal_se"])
            # allocated once: a small tensor kept from each block would fragment the memory that it frees
            columns = columns or {name: column.new_empty(wanted, *column.shape[1:]) for name, column in part.items()}
            for name, column in part.items():
                columns[name][done : done + len(column)] = column
            done += len(block.rows)
            bar.update(done)
    return columns


def drawn(problem: Problem, sampler: Sampler, block: Block, number: int, stream: int) -> Iterator[Weighted]:
    """The weights of all draws for a block; the same stream gives the same random numbers for every sampler.

    Read it to its end within `no_grad`, `forked` and validation_enabled(False).
    """
    size = max(1, problem.chunk_size // len(block.rows))
    for at in range(0, problem.num_samples, PARTICLE_BLOCK):
        reseed(block_seed(problem.seed, stream, number, at // PARTICLE_BLOCK), problem.x.device)
        yield from sampler.weights(block, min(PARTICLE_BLOCK, problem.num_samples - at), size)


def summary(weights: Weights, smooth: bool) -> Estimates:
    """The columns of `COLUMNS` from the weights of a block's data."""
    khat = weights.khat()
    columns = {
        "log_marginal": weights.log_mean(),
        "log_marginal_se": weights.standard_error(),
        "last_doubling": weights.last_doubling(),
        "elbo": weights.mean_log(),
        "elbo_se": weights.mean_log_se(),
        "ess": weights.ess(),
        "khat": khat,
        "ok": weights.ok(khat),
        "running": torch.stack(list(weights.running.values()), -1),
    }
    if smooth:
        columns["log_marginal_psis"] = weights.log_mean_psis()
        columns["log_marginal_jackknife"] = weights.log_mean_jackknife()
    return columns


def certain(
    log_marginal: Tensor, elbo: Tensor | None = None, error: Tensor | None = None, *, smooth: bool = False
) -> Estimates:
    """The columns of values known without draws."""
    value = log_marginal.double()
    nan = torch.full_like(value, math.nan)
    bound = nan if elbo is None else elbo.double()
    return {
        "log_marginal": value,
        "log_marginal_se": torch.zeros_like(value) if error is None else error.double(),
        "last_doubling": nan,
        "elbo": bound,
        "elbo_se": 0 * bound,
        "ess": nan,
        "khat": nan,
        "ok": value.isfinite(),
        **(dict.fromkeys(SMOOTHED, value) if smooth else {}),
    }
