"""Pictures of responsibilities."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D

from ppvae.errors import PpvaeError
from ppvae.plots.colours import PALETTE, require_columns


def responsibilities(result: xr.Dataset, ax: Axes) -> Axes:
    """Data as points, their colours the components' colours weighed by p(k | x).

    Data of more than two numbers are shown by their first two principal components.

    Args:
        result: what `ppvae.tasks.clustering.cluster` returns, for at least two data of at least two numbers.

    Raises:
        PpvaeError: the data do not span a plane, or another result.
    """
    require_columns(result, "responsibility", "tasks.clustering.cluster")
    weights, points = result["responsibility"].values, result["x"].values
    if min(points.shape) < 2:
        raise PpvaeError(f"x {list(points.shape)} spans no plane: give at least two data of at least two numbers")
    names = ["x₁", "x₂"]
    if points.shape[1] > 2:
        from sklearn.decomposition import PCA

        pca = PCA(2, svd_solver="full").fit(points)
        points = pca.transform(points)
        shares = enumerate(pca.explained_variance_ratio_, 1)
        names = [f"principal component {i} ({share:.0%} of variance)" for i, share in shares]
    tones = [PALETTE[k % len(PALETTE)] for k in range(weights.shape[1])]
    mixed = weights @ np.array([to_rgb(tone) for tone in tones])
    ax.scatter(*points.T, c=mixed.clip(0, 1), s=14, linewidths=0)
    share = weights.mean(0)
    handles = [
        Line2D([], [], ls="", marker="o", color=tone, label=f"{k}: {share[k]:.0%} of data")
        for k, tone in enumerate(tones)
    ]
    ax.legend(handles=handles, title="component", loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])
    return ax
