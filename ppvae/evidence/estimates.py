"""From importance weights to estimates per datum, block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pyro
import torch
from torch import Tensor

from ppvae.blocks import PARTICLE_BLOCK, Block
from ppvae.evidence.method import Known, Sampler, Weighted
from ppvae.evidence.problem import Problem
from ppvae.evidence.weights import Weights
from ppvae.memory import keep_freed_pages
from ppvae.progress import Progress
from ppvae.randomness import block_seed, forked, reseed, stream

#: column → units of what is estimated for each datum
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
#: the same of values that are no lower bounds, estimated where asked
SMOOTHED = {"log_marginal_psis": "nats/datum", "log_marginal_jackknife": "nats/datum"}
Estimates = dict[str, Tensor]
#: the stream of random numbers of reported values; pilots have others
REPORTED = stream("evidence/reported")


def estimate(problem: Problem, source: Sampler | Known, stream: int = REPORTED) -> Estimates:
    """The columns of `COLUMNS`, each [A], and where there were draws `running` [A, checkpoints of S].

    With `asked.smooth` those of `SMOOTHED` besides.
    """
    return (
        certain(source.log_marginal, error=source.error, smooth=problem.smooth)
        if isinstance(source, Known)
        else _estimate(problem, source, stream)
    )


def _estimate(problem: Problem, sampler: Sampler, stream: int) -> Estimates:
    keep_freed_pages()
    found: Estimates = {}
    device = problem.x.device
    wanted = len(problem.x) if problem.positions is None else len(problem.positions)
    done = 0
    bar = Progress(problem.progress, wanted, "log p(x)")
    with bar, torch.no_grad(), forked(device), pyro.validation_enabled(False):
        for number, block in problem.blocks():
            weights = Weights.empty(problem.num_samples, problem.x.new_empty(len(block.rows)), smooth=problem.smooth)
            for some in drawn(problem, sampler, block, number, stream):
                if some.exact:
                    part = certain(some.log_weight[0], some.bound[0], smooth=problem.smooth)
                    break
                weights.add(some.log_weight, some.bound)
            else:
                part = summary(weights, problem.smooth)
            # in one piece from the start: what each block left among its freed tensors would keep their memory apart
            found = found or {name: column.new_empty(wanted, *column.shape[1:]) for name, column in part.items()}
            for name, column in part.items():
                found[name][done : done + len(column)] = column
            done += len(block.rows)
            bar.update(done)
    return found


def drawn(problem: Problem, sampler: Sampler, block: Block, number: int, stream: int) -> Iterator[Weighted]:
    """The weights of all draws for a block; the same stream gives the same random numbers, whatever the sampler.

    To be used up within `no_grad`, `forked` and validation_enabled(False).
    """
    size = max(1, problem.chunk_size // len(block.rows))
    for at in range(0, problem.num_samples, PARTICLE_BLOCK):
        reseed(block_seed(problem.seed, stream, number, at // PARTICLE_BLOCK), problem.x.device)
        yield from sampler.weights(block, min(PARTICLE_BLOCK, problem.num_samples - at), size)


def summary(weights: Weights, smooth: bool) -> Estimates:
    """The columns of `COLUMNS` from the weights of a block's data."""
    khat = weights.khat()
    found = {
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
        found["log_marginal_psis"] = weights.log_mean_psis()
        found["log_marginal_jackknife"] = weights.log_mean_jackknife()
    return found


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
