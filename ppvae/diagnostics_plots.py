"""Pictures of calibration, predictive checks and latent usage: functions that draw on an Axes and return it."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from ppvae import require
from ppvae.calibration import histogram
from ppvae.errors import PpvaeError

_TONE, _OTHER, _SEEN = "#0072B2", "#D55E00", "black"
#: how often a band leaves out what is calibrated, over all that it is drawn for
_ALARM = 0.01


def rank_histogram(found: xr.Dataset, ax: Axes, quantity: str) -> Axes:
    """Ranks of a quantity with the band in which all bins of a calibrated q lie in 99 of 100 cases.

    A valley says that q is too narrow, a hill that it is too wide, a slope that it is shifted.

    Args:
        found: what `sbc` returns.
        quantity: one of its coordinates `quantity`.

    Raises:
        PpvaeError: an unknown quantity, or another result.
    """
    _want(found, "rank", "sbc")
    require.one_of("quantity", quantity, [str(name) for name in found["quantity"].values])
    bins, num_draws = int(found.attrs["num_bins"]), int(found.attrs["num_draws"])
    counts, expected = histogram(found["rank"].sel(quantity=quantity).values[:, None], num_draws, bins)
    place = np.arange(bins)
    z = NormalDist().inv_cdf(1 - _ALARM / 2 / bins)
    error = z * np.sqrt(expected * (1 - expected / expected.sum()))
    ax.fill_between(
        np.append(place, bins) - 0.5, np.append(expected - error, expected[-1] - error[-1]),
        np.append(expected + error, expected[-1] + error[-1]), step="post", color="0.85", linewidth=0,
        label="99% of calibrated q",
    )  # fmt: skip
    ax.bar(place, counts[0], width=0.9, color=_TONE, alpha=0.8)
    ax.set_ylim(bottom=0)
    edges = np.linspace(0, bins, 5)
    ax.set_xticks(edges - 0.5, [f"{num_draws * edge / bins:.0f}" for edge in edges])
    ax.set_xlabel(f"rank among {num_draws} draws of q")
    ax.set_ylabel("simulated data")
    p = float(found["p_value"].sel(quantity=quantity))
    ax.set_title(f"{quantity}: p = {p:.2g}")
    ax.legend()
    return ax


def coverage(found: xr.Dataset, ax: Axes) -> Axes:
    """How often central credible intervals hold the truth, above their level: a calibrated q stays in the grey band.

    The band holds all levels and quantities in 99 of 100 cases. Below the diagonal q is too narrow, above it too wide.

    Args:
        found: what `sbc` returns.

    Raises:
        PpvaeError: another result.
    """
    _want(found, "coverage", "sbc")
    nominal, se = found["nominal"].values, found["coverage_se"].values
    z = NormalDist().inv_cdf(1 - _ALARM / 2 / found["coverage"].size)
    dense = np.linspace(0, 1, 101)
    width = z * np.sqrt(dense * (1 - dense) / int(found.attrs["num_data"]))
    ax.fill_between(dense, dense - width, dense + width, color="0.85", linewidth=0, label="99% of calibrated q")
    ax.plot([0, 1], [0, 1], color="0.5", linewidth=1)
    for name in found["quantity"].values:
        covered = found["coverage"].sel(quantity=name).values
        out = bool((np.abs(covered - nominal) > z * se).any())
        ax.plot(nominal, covered, "o-", ms=4, linewidth=1, color=_OTHER if out else _TONE, label=name if out else None)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.set_xlabel("level of the interval")
    ax.set_ylabel("share of true values inside")
    ax.legend()
    return ax


def predictive_check(found: xr.Dataset, ax: Axes, statistic: str = "mean") -> Axes:
    """A statistic of the data (line) among those of replicated data sets (histograms).

    A statistic of many numbers is shown with the 90% intervals of its replicates, number by number.

    Args:
        found: what `posterior_predictive_check` returns.
        statistic: one of its statistics, with or without the [i] of one of its numbers.

    Raises:
        PpvaeError: an unknown statistic, or another result.
    """
    _want(found, "replicated", "posterior_predictive_check")
    names = [str(name) for name in found["statistic"].values]
    if statistic not in names:
        many = [name for name in names if name.startswith(f"{statistic}[")]
        if not many:
            require.one_of("statistic", statistic, dict.fromkeys(name.partition("[")[0] for name in names))
        return _intervals(found.sel(statistic=many), ax, statistic)
    one = found.sel(statistic=statistic)
    observed = float(one["observed"])
    values = one["replicated"].values
    edges = np.histogram_bin_edges(np.append(values, observed), bins=30)
    for source, tone in (("prior", _OTHER), ("posterior", _TONE)):
        p = float(one["p_value"].sel(source=source))
        drawn = one["replicated"].sel(source=source).values
        ax.hist(drawn, bins=edges.tolist(), color=tone, alpha=0.5, label=f"from the {source}: p = {p:.2g}")
    ax.axvline(observed, color=_SEEN, linewidth=1.5, label="data")
    ax.set_xlabel(statistic)
    ax.set_ylabel("replicated data sets")
    ax.legend()
    return ax


def _intervals(many: xr.Dataset, ax: Axes, statistic: str) -> Axes:
    place = np.arange(many.sizes["statistic"])
    for source, tone, shift in (("prior", _OTHER, 0.15), ("posterior", _TONE, -0.15)):
        low, high = np.quantile(many["replicated"].sel(source=source).values, [0.05, 0.95], axis=0)
        ax.vlines(place + shift, low, high, color=tone, linewidth=2, alpha=0.7, label=f"from the {source}, 90%")
    ax.plot(place, many["observed"].values, "o", color=_SEEN, ms=3, label="data")
    ax.set_xlabel(f"number of {statistic}")
    ax.set_ylabel(statistic)
    ax.legend()
    return ax


def usage(found: xr.Dataset, ax: Axes) -> Axes:
    """KL of every coordinate of z, largest first: filled where it is active, open where it has collapsed.

    Where coordinates have no KL of their own, as under a flow, their activity is shown.

    Args:
        found: what `latent_usage` returns.

    Raises:
        PpvaeError: another result, or one with neither.
    """
    _want(found, "coordinate_kl", "latent_usage")
    name = "coordinate_kl" if bool(found["coordinate_kl"].notnull().any()) else "activity"
    known = found.isel(coordinate=found[name].notnull().values)
    if not known.sizes["coordinate"]:
        raise PpvaeError("no coordinate has a KL or an activity of its own: there is nothing to draw")
    known = known.isel(coordinate=np.argsort(-known[name].values))
    place = np.arange(known.sizes["coordinate"])
    active = known["active"].values | known["activity"].isnull().values  # of a discrete latent nobody can say
    for mask, label in ((active, "active"), (~active, "not active")):
        if mask.any():
            face = _TONE if label == "active" else "white"
            ax.bar(place[mask], known[name].values[mask], color=face, edgecolor=_TONE, label=label)
    if len(place) <= 30:
        ax.set_xticks(place, [str(label) for label in known["coordinate"].values], rotation=90)
    ax.set_xlabel("coordinate of z")
    ax.set_ylabel("KL(q ‖ p) (nats/datum)" if name == "coordinate_kl" else "Cov(E_q[z | x])")
    ax.set_title(
        f"I(x; z) = {float(found['mutual_information']):.2f} of {float(found['kl'].mean()):.2f} nats/datum of KL"
    )
    ax.legend()
    return ax


def _want(found: object, variable: str, function: str) -> None:
    if not isinstance(found, xr.Dataset) or variable not in found:
        raise PpvaeError(f"found must be what ppvae.{function} returns, got {require.show(type(found).__name__)}")
