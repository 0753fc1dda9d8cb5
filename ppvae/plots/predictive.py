"""Pictures of posterior predictive checks."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from ppvae import require
from ppvae.plots.colours import OTHER, SEEN, TONE, require_columns


def predictive_check(result: xr.Dataset, ax: Axes, statistic: str = "mean") -> Axes:
    """A statistic of the data (line) among those of replicated data sets (histograms).

    A statistic of many numbers is shown with the 90% interval of its replicates for each number.

    Args:
        result: what `posterior_predictive_check` returns.
        statistic: one of its statistics, with or without the [i] of one of its numbers.

    Raises:
        PpvaeError: an unknown statistic, or another result.
    """
    require_columns(result, "replicated", "posterior_predictive_check")
    names = [str(name) for name in result["statistic"].values]
    if statistic not in names:
        many = [name for name in names if name.startswith(f"{statistic}[")]
        if not many:
            require.one_of("statistic", statistic, dict.fromkeys(name.partition("[")[0] for name in names))
        return _intervals(result.sel(statistic=many), ax, statistic)
    one = result.sel(statistic=statistic)
    observed = float(one["observed"])
    values = one["replicated"].values
    edges = np.histogram_bin_edges(np.append(values, observed), bins=30)
    for source, tone in (("prior", OTHER), ("posterior", TONE)):
        p = float(one["p_value"].sel(source=source))
        drawn = one["replicated"].sel(source=source).values
        ax.hist(drawn, bins=edges.tolist(), color=tone, alpha=0.5, label=f"from the {source}: p = {p:.2g}")
    ax.axvline(observed, color=SEEN, linewidth=1.5, label="data")
    ax.set_xlabel(statistic)
    ax.set_ylabel("replicated data sets")
    ax.legend()
    return ax


def _intervals(many: xr.Dataset, ax: Axes, statistic: str) -> Axes:
    place = np.arange(many.sizes["statistic"])
    for source, tone, shift in (("prior", OTHER, 0.15), ("posterior", TONE, -0.15)):
        low, high = np.quantile(many["replicated"].sel(source=source).values, [0.05, 0.95], axis=0)
        ax.vlines(place + shift, low, high, color=tone, linewidth=2, alpha=0.7, label=f"from the {source}, 90%")
    ax.plot(place, many["observed"].values, "o", color=SEEN, ms=3, label="data")
    ax.set_xlabel(f"number of {statistic}")
    ax.set_ylabel(statistic)
    ax.legend()
    return ax
