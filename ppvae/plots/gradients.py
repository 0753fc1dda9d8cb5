"""Pictures of gradient variance."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from ppvae.errors import PpvaeError
from ppvae.plots.colours import MORE_COLOURS, PALETTE


def gradient_variance(result: xr.Dataset, ax: Axes) -> Axes:
    """Variance in φ of each gradient estimator (filled), and its variance at equal time (open), on a log axis.

    The open dot is variance × seconds / seconds of the reference, since the mean of n estimates has 1/n of the variance
    and costs n times as much. The reference is reparam if it is present, else the estimator of least variance. The text
    beside each has its variance in multiples of the reference's and its seconds. The title compares the reference with
    the score function if it is present, else with the estimator of largest variance. Bars are standard errors over
    data.

    Args:
        result: what `ppvae.gradient_variance` returns.

    Raises:
        PpvaeError: another result, or one without a variance that a log axis can show.
    """
    if not isinstance(result, xr.Dataset) or "variance_phi" not in result:
        raise PpvaeError("result has no variance_phi: give what ppvae.gradient_variance returns")
    # a variance of 0 or one that is not finite cannot be shown on the axis
    variance = result["variance_phi"].values
    result = result.isel(gradient=np.isfinite(variance) & (variance > 0)).sortby("variance_phi", ascending=False)
    names = [str(name) for name in result["gradient"].values]
    if not names:
        raise PpvaeError("no estimator has a variance above 0, which a log axis could show")
    variance, errors, seconds = (result[name].values for name in ("variance_phi", "variance_phi_se", "seconds"))
    base = names.index("reparam") if "reparam" in names else len(names) - 1
    other = names.index("score") if "score" in names else 0
    for y, unbiased in enumerate(result["unbiased"].values):
        tone = PALETTE[0] if unbiased else MORE_COLOURS[0]
        at_equal_time = variance[y] * seconds[y] / seconds[base]
        ax.plot([variance[y], at_equal_time], [y, y], color=tone, linewidth=1, alpha=0.6)
        ax.plot(at_equal_time, y, "o", mfc="white", color=tone, ms=9)
        # a bar that reaches 0 would have no end
        error = errors[y] if errors[y] < variance[y] else None
        ax.errorbar(variance[y], y, xerr=error, fmt="o", color=tone, ms=5, capsize=2)
        text = f"{_times(variance[y] / variance[base])},  {1e3 * seconds[y]:.2g} ms{'' if unbiased else ',  biased'}"
        ax.annotate(text, (1.02, y), xycoords=("axes fraction", "data"), va="center", fontsize="small")
    ax.set_xscale("log")
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.set_xlabel(
        f"variance of one datum's gradient in φ (nats²)\nfilled: one estimate; open: in the time of {names[base]}"
    )
    title = f"{result.attrs.get('objective', '')}, {result.attrs.get('num_particles', '?')} draws per datum"
    if base != other:
        title = f"{names[other]} has {_times(variance[other] / variance[base])} the variance of {names[base]}\n{title}"
    ax.set_title(title, fontsize="medium")
    ax.grid(axis="x", alpha=0.3)
    return ax


def _times(ratio: float) -> str:
    """A ratio to two digits, or whole: 1.3×, 0.24×, 834×."""
    return f"{ratio:,.0f}×" if ratio >= 100 else f"{ratio:.2g}×"
