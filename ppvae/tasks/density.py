"""p(x) over a plane."""

from __future__ import annotations

import math

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ppvae.entry import entry
from ppvae.errors import PpvaeError
from ppvae.evidence.marginal import log_marginal
from ppvae.pair.model import overrides
from ppvae.pair.pair import Pair, require_pair

#: points per side of the grid where values are estimated and where they are exact, and samples of an estimate
_GRID, _GRID_EXACT, _GRID_SAMPLES = 60, 200, 100


@entry
def density_on_grid(pair: Pair, x: Tensor) -> xr.Dataset:
    """p(x) on a grid around data of two numbers: exact where the model has log_prob, else estimated.

    An estimate from 100 importance samples is rough far from the data, as q was not trained there.

    Args:
        pair: a trained pair, whose datum is two numbers.
        x: data [N, *event] that the grid surrounds.

    Returns:
        Dataset: density [x1, x2] on coordinates x1 and x2, points [datum, axis] of the data. Attributes: num_samples
        of each value (0 where it is exact), model, inference, data, treatment.

    Raises:
        PpvaeError: a datum is not two numbers.
    """
    require_pair(pair)
    event = pair.event_shape
    if math.prod(event) != 2:
        raise PpvaeError(f"density_on_grid needs data of two numbers, and these have event shape {list(event)}")
    points = pair.as_input(x).flatten(1).cpu()
    low, high = points.amin(0), points.amax(0)
    extent = torch.where(high > low, high - low, high.abs().clamp_min(1e-6))
    margin = 0.15 * extent
    exact = overrides(pair.model, "log_prob")
    size = _GRID_EXACT if exact else _GRID
    axes = [torch.linspace(float(a), float(b), size) for a, b in zip(low - margin, high + margin, strict=True)]
    grid = torch.cartesian_prod(*axes).reshape(-1, *event)
    estimates = log_marginal(pair, grid, num_samples=_GRID_SAMPLES, method="exact" if exact else "importance")
    return xr.Dataset(
        {
            "density": (("x1", "x2"), np.exp(estimates["log_marginal"].values).reshape(size, size)),
            "points": (("datum", "axis"), points.numpy()),
        },
        coords={"x1": axes[0].numpy(), "x2": axes[1].numpy()},
        attrs={"num_samples": 0 if exact else _GRID_SAMPLES, "model": type(pair.model).__name__, **pair.about},
    )
