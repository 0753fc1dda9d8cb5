"""Densities in the plane."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm

from ppvae.plots.colours import require_columns


def density(result: xr.Dataset, ax: Axes) -> Axes:
    """p(x) of data of two numbers as filled contours, with the data.

    Args:
        result: what `ppvae.tasks.density.density_on_grid` returns.

    Raises:
        PpvaeError: another result.
    """
    require_columns(result, "density", "tasks.density.density_on_grid")
    p, points, about = result["density"].values.T, result["points"].values, result.attrs
    # equal steps of √p: with equal steps of p, one narrow peak would hide broader ones
    levels = max(p.max(), 1e-300) * np.linspace(0, 1, 13) ** 2
    contours = ax.contourf(result["x1"], result["x2"], p, levels=levels, norm=PowerNorm(0.5), cmap="Blues")
    samples = int(about["num_samples"])
    label = f"p̂(x), {samples} importance samples" if samples else "p(x)"
    ax.figure.colorbar(contours, ax=ax, format="%.2g", label=label)
    ax.scatter(*points.T, s=6, color="black", alpha=0.5, linewidths=0, label=f"{len(points)} data")
    ax.set_xlabel("x₁")
    ax.set_ylabel("x₂")
    ax.set_title(f"{about['model']}, {about['inference']}, {about['data']} ({about['treatment']})")
    return ax
