"""A fit judged on data: one row of results, and the evidence of every datum behind it."""

from __future__ import annotations

import math
import statistics
import time
from pathlib import Path

import torch
import xarray as xr
from torch import Tensor

from ppvae import require
from ppvae.data import Data
from ppvae.errors import PpvaeError
from ppvae.files import replacing
from ppvae.fitted import Fit
from ppvae.marginal import log_marginal, summarise
from ppvae.model import overrides
from ppvae.results import Row

#: new datapoints behind `infer_seconds_per_1000`
_TIMED = 1000


def evaluate(
    fitted: Fit, data: Data, *, name: str, num_samples: int = 1000, num_test: int | None = None, seed: int = 0,
    split: str = "test", progress: bool | None = False,
) -> tuple[Row, xr.Dataset]:  # fmt: skip
    """One row of results, and the estimates per datum behind it."""
    x = observations(data, split, num_test)
    bound = log_marginal(fitted, x, num_samples=num_samples, seed=seed, progress=progress)
    exact = overrides(fitted.model, "log_prob")
    best = log_marginal(fitted, x, num_samples=num_samples, method="exact") if exact else bound
    elbo, marginal = summarise(bound, "elbo"), summarise(best)
    ess, defined = bound["ess"].values, bound["ess"].notnull().any().item()
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
        iwae_bound=_number(summarise(bound).mean),
        log_marginal=_number(marginal.mean),
        log_marginal_mc_se=_number(marginal.mc_se),
        log_marginal_data_se=_number(marginal.data_se),
        log_marginal_method=str(best["method"].values[0]),
        num_samples=num_samples,
        ess_median=_number(statistics.median(ess)) if defined else None,
        ess_min=_number(min(ess)) if defined else None,
        khat_bad_fraction=_number(1 - float(bound["ok"].mean())) if defined else None,
        approximation_gap=None,
        amortization_gap=None,
        train_seconds=fitted.seconds,
        infer_seconds_per_1000=_seconds_per_1000(fitted, x),
        num_parameters=fitted.num_parameters(),
    )
    return row, bound


def observations(data: Data, split: str, most: int | None = None) -> Tensor:
    """The data of a split that a fit can be judged on, the first so many of them [N, *event]."""
    x = data.splits[require.one_of("split", split, data.splits)]
    if data.dynamic and split == "train":
        raise PpvaeError(
            f"train of {data.name} (dynamic) holds intensities, redrawn at each visit: judge valid or test, "
            'or treatment="static"'
        )
    return x[:most]


def _seconds_per_1000(fitted: Fit, x: Tensor) -> float:
    """Seconds to find q for 1,000 new datapoints at once; fewer test data are used over."""
    many = x[torch.arange(_TIMED) % len(x)]
    fitted.posterior(many[:2])  # what only the first call costs
    start = time.perf_counter()
    fitted.posterior(many)
    return time.perf_counter() - start


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def read_evidence(path: Path) -> xr.Dataset:
    """The estimates that `write_evidence` wrote.

    Raises:
        PpvaeError: the file is damaged.
    """
    try:
        return xr.load_dataset(path, engine="h5netcdf")
    except Exception as error:  # the libraries below have many ways to find a file damaged
        raise PpvaeError(f"{path} is damaged: {require.show(error)}") from error


def write_evidence(path: Path, estimates: xr.Dataset) -> None:
    """The estimates of every datum as netCDF."""
    with replacing(path) as scratch:
        estimates.to_netcdf(scratch, engine="h5netcdf")
