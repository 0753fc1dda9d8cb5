"""The evaluation of a fit on data: one row of results, and the evidence of every datum."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ppvae import require
from ppvae.blocks import ROW_BLOCK
from ppvae.comparison.options import JudgeOptions
from ppvae.data.dataset import Data
from ppvae.data.splits import Observations, observations
from ppvae.diagnostics.inference_gap import gaps
from ppvae.entry import entry
from ppvae.evidence.marginal import bounds_of_q, estimates, summarise
from ppvae.evidence.problem import Problem
from ppvae.options import with_options
from ppvae.pair.posterior import Posterior
from ppvae.pair.zoo import reference
from ppvae.runs.results import Row
from ppvae.training.fitted import Fit


class Evaluation(NamedTuple):
    """The evaluation of a fit: one row of results, and the estimates of every datum."""

    row: Row
    estimates: xr.Dataset


@entry
@with_options(JudgeOptions)
def evaluate(
    fit: Fit,
    data: Data | Observations,
    *,
    name: str | None = None,
    options: JudgeOptions | Mapping[str, Any] | None = None,
    split: str = "test",
    seed: int = 0,
    compile: bool = False,
    progress: bool | None = False,
    **changes: Any,
) -> Evaluation:
    """Judge a fit on data: its bounds, log p(x) and how far it can be trusted, and the costs.

    Args:
        fit: a trained pair.
        data: the data for the evaluation: those of the fit, or others that `fit.read` returns.
        name: of the model in the row; where None, its name in the zoo, else its class.
        options: a `JudgeOptions`, or a mapping of its options; single options in the call replace those in it.
        split: the part of a `Data`.
        seed: of the draws.
        compile: run the model compiled, as in `log_marginal`.
        progress: show progress bars; where None, only on a terminal.
        changes: options of `JudgeOptions`.

    Raises:
        PpvaeError: the data were prepared in another way than the training data of the fit.
    """
    options = JudgeOptions.of(options, **changes)
    method, num_samples, num_gaps = options.method, options.num_samples, options.num_gaps
    require.count("seed", seed, least=0)
    judged = (observations(data, split) if isinstance(data, Data) else data).first(options.num_test)
    if fit.data.preparation is not None:
        fit.data.preparation.refuse_other(f"data {judged.name!r}", judged.preparation)
    x = fit.as_input(judged.x)
    problem = Problem(fit, x, None, seed, num_samples, progress=progress, compile=compile)
    problem.posterior, seconds = _timed(fit, x, seed)
    result = estimates(problem, method, options.method_options or None)
    if "iwae_bound" not in result:
        plain = bounds_of_q(problem, result if method == "importance" else None)
        result = result.assign({name: ("datum", column) for name, column in plain.items()})
    approximation = amortization = None
    if num_gaps:
        split_up = gaps(fit, x[:num_gaps], seed=seed)
        for column in ("elbo_star", "approximation_gap", "amortization_gap"):
            for part in (column, f"{column}_se"):
                result[part] = split_up[part].reindex(datum=result["datum"])
        approximation, amortization = (
            _number(float(split_up[column].mean())) for column in ("approximation_gap", "amortization_gap")
        )
    elbo, marginal = summarise(result, "elbo"), summarise(result)
    ess = result["ess"].values[result["ess"].notnull().values]
    row = Row(
        model=name or reference(type(fit.model)) or type(fit.model).__name__,
        inference=fit.settings.inference,
        seed=seed,
        data=judged.name,
        treatment=judged.preparation.treatment,
        split=judged.split,
        num_data=len(x),
        elbo=_number(elbo.mean),
        elbo_mc_se=_number(elbo.mc_se),
        iwae_bound=_number(float(result["iwae_bound"].mean())),
        log_marginal=_number(marginal.mean),
        log_marginal_mc_se=_number(marginal.mc_se),
        log_marginal_data_se=_number(marginal.data_se),
        log_marginal_method=_joined(result["method"].values),
        num_samples=num_samples,
        ess_median=_number(statistics.median(ess)) if len(ess) else None,
        ess_min=_number(min(ess)) if len(ess) else None,
        khat_bad_fraction=_number(1 - float(result["ok"].mean())) if len(ess) else None,
        approximation_gap=approximation,
        amortization_gap=amortization,
        train_seconds=fit.seconds,
        infer_seconds_per_1000=seconds,
        num_parameters=fit.num_parameters(),
        family=fit.settings.family,
    )
    result.attrs["log_volume"] = judged.log_volume
    return Evaluation(row, result)


def _joined(methods: np.ndarray) -> str:
    """The methods of an average, the most frequent first: "importance", or "importance+refined"."""
    names, counts = np.unique(methods, return_counts=True)
    return "+".join(str(name) for name in names[np.argsort(-counts, kind="stable")])


def _timed(fit: Fit, x: Tensor, seed: int) -> tuple[Posterior, float]:
    """q of x, and the seconds to infer q of 1,000 new datapoints at once; fewer data are repeated."""
    many = x[torch.arange(max(len(x), ROW_BLOCK)) % len(x)]  # q of a datum does not depend on the other data of a block
    fit.posterior(many[:2])  # a first call, whose extra cost is not measured
    start = time.perf_counter()
    posterior = fit.posterior(many, seed=seed)
    seconds = time.perf_counter() - start
    return posterior.select(torch.arange(len(x), device=x.device)), seconds * 1000 / len(many)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
