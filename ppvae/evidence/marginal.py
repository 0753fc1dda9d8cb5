"""Estimates of log p(x), one per datum, with measures of how far they can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ppvae import require
from ppvae.blocks import DATA_BLOCK, PARTICLE_BLOCK
from ppvae.catalogue import METHODS
from ppvae.entry import entry
from ppvae.errors import PpvaeError
from ppvae.evidence.escalation import AUTO, auto, escalation
from ppvae.evidence.estimates import COLUMNS, SMOOTHED, Estimates, reported
from ppvae.evidence.method import Known, check_options_of
from ppvae.evidence.plain import PLAIN, plain_columns
from ppvae.evidence.problem import Problem
from ppvae.evidence.rounding import Rounding, RoundingError
from ppvae.evidence.weights import checkpoints, khat_threshold
from ppvae.pair.factors import factors
from ppvae.pair.pair import Pair, require_pair
from ppvae.pair.precision import default_precision


@entry
def log_marginal(
    pair: Pair,
    x: Tensor,
    index: Tensor | None = None,
    *,
    num_samples: int = 1000,
    method: str = "importance",
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    chunk_size: int = DATA_BLOCK * PARTICLE_BLOCK,
    compile: bool = False,
    smooth: bool = False,
    progress: bool | None = False,
) -> xr.Dataset:
    """Estimate log p(x) of each datum.

    Args:
        pair: a trained pair.
        x: data [N, *event].
        index: the positions of x in the training set, to use q as training left it; where None, φ is inferred again.
        num_samples: S, the exact number of draws for each datum.
        method: a name of `ppvae.available("methods")`, each a file of `ppvae/evidence/methods`; or "auto", which
            tries one after the other for each datum until its weights pass (`ppvae.evidence.escalation`), and also
            returns the plain estimate.
        options: of the method.
        seed: of the draws. Results depend on it and on the position of a datum in x, not on chunk_size; the
            caller's random state is restored.
        chunk_size: particles × datapoints scored at once, which limits memory.
        compile: run the model through `torch.compile`, which takes some seconds at first and needs a C++ compiler;
            the numbers are the same up to rounding.
        smooth: return two more estimates, which may be closer to log p(x) but are not lower bounds: log_marginal_psis,
            with the upper tail of the weights Pareto-smoothed (Vehtari, Simpson, Gelman, Yao & Gabry 2024), and
            log_marginal_jackknife, without the 1/S term of the bias (Nowozin 2018). All log weights of 100 data are
            then in memory at once.
        progress: show a progress bar; where None, only on a terminal.

    Returns:
        Dataset over dim `datum`: log_marginal, log_marginal_se, elbo, elbo_se (nats), ess, khat, ok, method; attributes
        num_samples, seed, khat_threshold, and notes, where something must be known beside the numbers: precision,
        factors, a guide without a density, the clock. elbo is the mean log weight of one draw. last_doubling (nats) is
        what the second half of the draws added: where the bias falls as 1/S, its mean over data is about the bias that
        remains at S. Also over (datum, num_draws): running, the estimate from the first K draws, K = 1, 2, 4, … and S.
        Where a method optimises something for each datum: converged. Where the estimate is exact, its error is 0 or the
        numerical one, ess, khat and last_doubling are NaN, and running is absent. With method="auto", elbo is that of
        q as it is, and iwae_bound and iwae_bound_se are the estimate from it; AIS has fewer draws, and NaN in running.

    Raises:
        PpvaeError: x has the wrong shape or is not finite, an argument is out of range, a method or option is
            unknown, or the method does not apply to the pair.
    """
    require_pair(pair)
    check_method(method, options)
    require.count("num_samples", num_samples)
    require.count("chunk_size", chunk_size)
    require.count("seed", seed, least=0)
    require.flag("smooth", smooth)
    require.flag("compile", compile)
    problem = Problem(
        pair, pair.as_input(x), index, seed, num_samples, chunk_size, progress, compile=compile, smooth=smooth
    )
    return estimates(problem, method, options)


def estimates(problem: Problem, method: str, options: Mapping[str, Any] | None = None) -> xr.Dataset:
    """The result of `log_marginal` for a problem, which may know q already."""
    settings = check_method(method, options)
    name = type(problem.model).__name__
    if problem.fault is not None and problem.fault.improper:
        raise PpvaeError(f"{name}: {problem.fault}")
    if problem.fault is not None:
        problem.notes[f"{problem.fault}: q has no importance weights"] = None
    if sites := factors(problem.model, problem.x):
        problem.notes[
            f"{name} has pyro.factor ({', '.join(sites)}): this is log of an integral, and the log p of a density only "
            "if that factor normalises it"
        ] = None
    try:
        return _estimates(problem, method, settings)
    except RoundingError as error:
        problem = problem.converted(torch.float64)
        problem.notes[
            f"estimated in double precision, as single precision rounds log weights by {error.args[0]:.2g} nats"
        ] = None
        with default_precision(torch.float64):
            return _estimates(problem, method, settings)


def bounds_of_q(problem: Problem, importance: xr.Dataset | None = None) -> dict[str, np.ndarray]:
    """elbo and iwae_bound of q as it is, with their errors, [N]; NaN where q is a point mass.

    Args:
        importance: the result of plain importance sampling for the same problem, if it is known.
    """
    if importance is not None:
        same = {"iwae_bound": "log_marginal", "iwae_bound_se": "log_marginal_se", "elbo": "elbo", "elbo_se": "elbo_se"}
        return {name: importance[source].values for name, source in same.items()}
    try:
        columns = plain_columns(problem, Rounding(problem))
    except RoundingError:
        with default_precision(torch.float64):
            columns = plain_columns(problem.converted(torch.float64))
    return {name: column.cpu().numpy() for name, column in columns.items()}


def _estimates(problem: Problem, method: str, settings: Mapping[str, Any]) -> xr.Dataset:
    rounding = Rounding(problem)
    if method == AUTO:
        columns, methods = auto(problem, escalation(**settings), rounding)
    else:
        columns, source = reported(problem, method, settings, rounding)
        methods = np.full(len(problem.x), method)
        converged = None if isinstance(source, Known) else source.converged
        if converged is not None:
            columns["converged"] = converged
    if rounding.unknown is not None and problem.x.dtype == torch.float32:
        problem.notes[
            f"nothing passes, as the rounding of single precision is not known: {type(problem.model).__name__} does "
            f"not run in double precision ({rounding.unknown})"
        ] = None
    dataset = _dataset(columns, methods, problem.num_samples, problem.seed)
    if problem.notes:
        dataset.attrs["notes"] = "; ".join(problem.notes)
    return dataset


def check_method(method: str, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options of a method; raises PpvaeError where the method or an option is unknown."""
    require.one_of("method", method, (AUTO, *METHODS))
    settings = require.mapping("options of a method", options)
    if method == AUTO:
        escalation(**settings)
    else:
        check_options_of(method, settings)
    return settings


def _dataset(results: Estimates, methods: np.ndarray, num_samples: int, seed: int) -> xr.Dataset:
    units = {**COLUMNS, **PLAIN, **SMOOTHED, "converged": ""}
    columns: dict[str, tuple] = {
        name: ("datum", results[name].cpu().numpy(), {"units": units[name]}) for name in units if name in results
    }
    for name in SMOOTHED.keys() & columns.keys():
        columns[name][2]["bound"] = "not a lower bound"
    coords = {"datum": np.arange(len(methods))}
    if "running" in results:
        columns["running"] = (("datum", "num_draws"), results["running"].cpu().numpy(), {"units": "nats/datum"})
        coords["num_draws"] = np.array(checkpoints(num_samples))
    columns["method"] = ("datum", methods, {"units": ""})
    attributes = {"num_samples": num_samples, "seed": seed, "khat_threshold": khat_threshold(num_samples)}
    return xr.Dataset(columns, coords=coords, attrs=attributes)


@dataclass(frozen=True)
class Summary:
    """An estimate averaged over data, in nats/datum.

    Attributes:
        mean: over data.
        mc_se: its sampling error given the data; NaN where unknown.
        data_se: the standard deviation over data divided by √N: how precisely N data determine the expectation.
    """

    mean: float
    mc_se: float
    data_se: float


@entry
def summarise(estimates: xr.Dataset, name: str = "log_marginal") -> Summary:
    """Mean over data, with its sampling error and the spread over data as separate numbers.

    Args:
        estimates: from `log_marginal` or `gaps`.
        name: of a column over data with a standard error column, such as elbo or amortization_gap.

    Raises:
        PpvaeError: the column does not exist, or has dims beside the data: choose a family with `.sel(family=…)` first.
    """
    columns = [str(column) for column in estimates if f"{column}_se" in estimates]
    require.one_of("estimate", name, columns)
    if estimates[name].dims != ("datum",):
        others = [str(dim) for dim in estimates[name].dims if dim != "datum"]
        raise PpvaeError(
            f"{name} has the dims {', '.join(others)} beside the data: choose one of each with .sel({others[0]}=…)"
        )
    values = estimates[name].values
    se = estimates[f"{name}_se"].values
    n = len(values)
    spread = float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return Summary(float(values.mean()), float(np.sqrt((se**2).sum()) / n), spread)
