"""A fit judged on data: one row of results, and the evidence of every datum behind it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ppvae import require
from ppvae.blocks import ROW_BLOCK
from ppvae.data.dataset import Data
from ppvae.data.splits import observations
from ppvae.diagnostics.inference_gap import gaps
from ppvae.evidence.escalation import AUTO
from ppvae.evidence.marginal import estimates, summarise
from ppvae.evidence.problem import Problem
from ppvae.pair.posterior import Posterior
from ppvae.runs.results import Row
from ppvae.training.fitted import Fit


def evaluate(
    fitted: Fit, data: Data, *, name: str, num_samples: int = 1000, num_test: int | None = None, method: str = AUTO,
    method_options: Mapping[str, Any] | None = None, num_gaps: int = 0, seed: int = 0, split: str = "test",
    compile: bool = False, progress: bool | None = False,
) -> tuple[Row, xr.Dataset]:  # fmt: skip
    """One row of results, and the estimates per datum behind it.

    Args:
        fitted: a trained pair.
        data: to judge it on.
        name: what the row calls the model.
        num_samples: draws a datum.
        num_test: only the first so many data.
        method, method_options, compile: of `log_marginal`.
        num_gaps: of so many of the data, approximation and amortization gap besides.
        seed: of the draws.
        split: part of the data.
        progress: show progress bars; None only on a terminal.
    """
    require.count("num_gaps", num_gaps, least=0)
    require.count("num_samples", num_samples)
    require.count("seed", seed, least=0)
    x = fitted.as_input(observations(data, split, num_test))
    problem = Problem(fitted, x, None, seed, num_samples, progress=progress, compile=compile)
    problem.posterior, seconds = _timed(fitted, x, seed)
    found = estimates(problem, method, method_options)
    if "iwae_bound" not in found:
        plain = found if method == "importance" else estimates(problem, "importance")
        same = {"iwae_bound": "log_marginal", "iwae_bound_se": "log_marginal_se", "elbo": "elbo", "elbo_se": "elbo_se"}
        found = found.assign({column: plain[source] for column, source in same.items()})
    approximation = amortization = None
    if num_gaps:
        split_up = gaps(fitted, x[:num_gaps], seed=seed)
        for column in ("elbo_star", "approximation_gap", "amortization_gap"):
            for part in (column, f"{column}_se"):
                found[part] = split_up[part].reindex(datum=found["datum"])
        approximation, amortization = (
            _number(float(split_up[column].mean())) for column in ("approximation_gap", "amortization_gap")
        )
    elbo, marginal = summarise(found, "elbo"), summarise(found)
    ess = found["ess"].values[found["ess"].notnull().values]
    row = Row(
        model=name,
        inference=fitted.settings.inference,
        seed=seed,
        data=data.name,
        treatment=data.treatment,
        split=split,
        num_data=len(x),
        elbo=_number(elbo.mean),
        elbo_mc_se=_number(elbo.mc_se),
        iwae_bound=_number(float(found["iwae_bound"].mean())),
        log_marginal=_number(marginal.mean),
        log_marginal_mc_se=_number(marginal.mc_se),
        log_marginal_data_se=_number(marginal.data_se),
        log_marginal_method=_joined(found["method"].values),
        num_samples=num_samples,
        ess_median=_number(statistics.median(ess)) if len(ess) else None,
        ess_min=_number(min(ess)) if len(ess) else None,
        khat_bad_fraction=_number(1 - float(found["ok"].mean())) if len(ess) else None,
        approximation_gap=approximation,
        amortization_gap=amortization,
        train_seconds=fitted.seconds,
        infer_seconds_per_1000=seconds,
        num_parameters=fitted.num_parameters(),
        family=fitted.settings.family,
    )
    return row, found


def _joined(methods: np.ndarray) -> str:
    """The methods behind an average, the most frequent first: "importance", or "importance+refined"."""
    names, counts = np.unique(methods, return_counts=True)
    return "+".join(str(name) for name in names[np.argsort(-counts, kind="stable")])


def _timed(fitted: Fit, x: Tensor, seed: int) -> tuple[Posterior, float]:
    """q of x, and the seconds to find that of 1,000 new datapoints at once; fewer data are used over."""
    many = x[torch.arange(max(len(x), ROW_BLOCK)) % len(x)]  # rows are taken by the block, and do not mind the others
    fitted.posterior(many[:2])  # what only the first call costs
    start = time.perf_counter()
    posterior = fitted.posterior(many, seed=seed)
    seconds = time.perf_counter() - start
    return posterior.select(torch.arange(len(x), device=x.device)), seconds * 1000 / len(many)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
