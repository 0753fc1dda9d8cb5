"""Pictures of calibration."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from ppvae import require
from ppvae.plots.colours import ALARM, OTHER, TONE, require_columns


def rank_histogram(result: xr.Dataset, ax: Axes, quantity: str) -> Axes:
    """Ranks of a quantity, with the band that holds all bins of a calibrated q in 99 of 100 cases.

    A valley means that q is too narrow, a hill that it is too wide, a slope that it is shifted.

    Args:
        result: what `sbc` returns.
        quantity: one of its coordinates `quantity`.

    Raises:
        PpvaeError: an unknown quantity, or another result.
    """
    require_columns(result, "rank", "sbc")
    require.one_of("quantity", quantity, [str(name) for name in result["quantity"].values])
    bins, num_draws = int(result.attrs["num_bins"]), int(result.attrs["num_draws"])
    counts, expected = result["count"].sel(quantity=quantity).values, result["expected_count"].values
    place = np.arange(bins)
    z = NormalDist().inv_cdf(1 - ALARM / 2 / bins)
    error = z * np.sqrt(expected * (1 - expected / expected.sum()))
    ax.fill_between(
        np.append(place, bins) - 0.5, np.append(expected - error, expected[-1] - error[-1]),
        np.append(expected + error, expected[-1] + error[-1]), step="post", color="0.85", linewidth=0,
        label="99% of calibrated q",
    )  # fmt: skip
    ax.bar(place, counts, width=0.9, color=TONE, alpha=0.8)
    ax.set_ylim(bottom=0)
    edges = np.linspace(0, bins, 5)
    ax.set_xticks(edges - 0.5, [f"{num_draws * edge / bins:.0f}" for edge in edges])
    ax.set_xlabel(f"rank among {num_draws} draws of q")
    ax.set_ylabel("simulated data")
    p = float(result["p_value"].sel(quantity=quantity))
    ax.set_title(f"{quantity}: p = {p:.2g}")
    ax.legend()
    return ax


def coverage(result: xr.Dataset, ax: Axes) -> Axes:
    """How often central credible intervals hold the true value, against their level; the grey band is for calibrated q.

    The band holds all levels and quantities in 99 of 100 cases. Below the diagonal q is too narrow, above it too wide.

    Args:
        result: what `sbc` returns.

    Raises:
        PpvaeError: another result.
    """
    require_columns(result, "coverage", "sbc")
    nominal, se = result["nominal"].values, result["coverage_se"].values
    z = NormalDist().inv_cdf(1 - ALARM / 2 / result["coverage"].size)
    dense = np.linspace(0, 1, 101)
    width = z * np.sqrt(dense * (1 - dense) / int(result.attrs["num_data"]))
    ax.fill_between(dense, dense - width, dense + width, color="0.85", linewidth=0, label="99% of calibrated q")
    ax.plot([0, 1], [0, 1], color="0.5", linewidth=1)
    for name in result["quantity"].values:
        covered = result["coverage"].sel(quantity=name).values
        out = bool((np.abs(covered - nominal) > z * se).any())
        ax.plot(nominal, covered, "o-", ms=4, linewidth=1, color=OTHER if out else TONE, label=name if out else None)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.set_xlabel("level of the interval")
    ax.set_ylabel("share of true values inside")
    ax.legend()
    return ax
