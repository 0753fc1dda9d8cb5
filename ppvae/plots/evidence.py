"""Pictures of bounds and of log p(x)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ppvae.errors import PpvaeError
from ppvae.plots.colours import colour
from ppvae.runs.averages import Line, lines
from ppvae.runs.results import Row


def bounds(group: Sequence[Line], ax: Axes) -> Axes:
    """ELBO (open) and log p̂ (filled) of each model and strategy on one treatment, one pair of dots per seed.

    The distance between the two is the loss by inference; bars are sampling errors.
    """
    for y, line in enumerate(reversed(group)):
        tone = colour(line.inference)
        for i, row in enumerate(line.rows):
            height = y + 0.22 * (i - (len(line.rows) - 1) / 2)
            if row.elbo is None or row.log_marginal is None:
                continue
            ax.plot([row.elbo, row.log_marginal], [height, height], color=tone, linewidth=1, alpha=0.6)
            ax.errorbar(row.elbo, height, xerr=row.elbo_mc_se, fmt="o", mfc="white", color=tone, ms=5, capsize=2)
            ax.errorbar(row.log_marginal, height, xerr=row.log_marginal_mc_se, fmt="o", color=tone, ms=5, capsize=2)
    ax.set_yticks(range(len(group)), [f"{Path(line.model).name}\n{line.how}" for line in reversed(group)])
    ax.set_ylim(-0.6, len(group) - 0.4)
    ax.set_xlabel("nats/datum  (open: ELBO, filled: log p̂; larger is better)")
    ax.set_title(f"{group[0].data} ({group[0].treatment}), {group[0].rows[0].split} data")
    ax.grid(axis="x", alpha=0.3)
    return ax


def comparison(rows: Sequence[Row]) -> Figure:
    """One panel of `bounds` per treatment of data.

    Raises:
        PpvaeError: the list of rows is empty.
    """
    groups = list(lines(rows).values())
    if not groups:
        raise PpvaeError("there are no rows to draw: run ppvae compare first")
    height = 1.2 + sum(0.75 * len(group) + 0.9 for group in groups)
    figure = Figure(figsize=(7.5, height), layout="constrained")
    axes = figure.subplots(len(groups), 1, squeeze=False, height_ratios=[len(group) for group in groups])[:, 0]
    for group, ax in zip(groups, axes, strict=True):
        bounds(group, ax)
    return figure


def per_datum(one: xr.Dataset, other: xr.Dataset, ax: Axes, *, names: tuple[str, str]) -> Axes:
    """log p̂ of each datum under `other` (up) against `one` (across), with the diagonal and standard errors.

    A point has the colour of the strategy with the larger estimate, and is open where either estimate is not ok. The
    title has the mean difference ± its standard error over these pairs, without data whose estimates are not finite.

    Args:
        one, other: what `log_marginal` returns for the same data.
        names: of the two strategies.

    Raises:
        PpvaeError: the two have different numbers of data, or no datum has a finite estimate under both.
    """
    sizes = one.sizes["datum"], other.sizes["datum"]
    if sizes[0] != sizes[1]:
        raise PpvaeError(f"{names[0]} has {sizes[0]} data and {names[1]} {sizes[1]}: estimate both on the same data")
    finite = np.isfinite(one["log_marginal"].values) & np.isfinite(other["log_marginal"].values)
    if not finite.any():
        raise PpvaeError(f"no datum has a finite estimate under both {names[0]} and {names[1]}: nothing can be drawn")
    one, other = one.isel(datum=finite), other.isel(datum=finite)
    across, up = one["log_marginal"].values, other["log_marginal"].values
    ok = one["ok"].values & other["ok"].values
    difference = up - across
    for name, ahead in zip(names, (difference < 0, difference >= 0), strict=True):
        for mask, face in ((ahead & ok, colour(name)), (ahead & ~ok, "white")):
            ax.errorbar(
                across[mask], up[mask], xerr=one["log_marginal_se"].values[mask],
                yerr=other["log_marginal_se"].values[mask], fmt="o", color=colour(name), mfc=face, ms=4, linewidth=0.8,
            )  # fmt: skip
    ax.axline((float(across[0]), float(across[0])), slope=1, color="0.5", linewidth=1, zorder=0)
    mean = f"{difference.mean():+.3f}".replace("-", "−")
    error = f" ± {difference.std(ddof=1) / math.sqrt(len(difference)):.3f}" if len(difference) > 1 else ""
    excluded = "" if finite.all() else f" (without {(~finite).sum()} data)"
    ax.set_title(f"{names[1]} − {names[0]}: {mean}{error} nats/datum{excluded}")
    ax.set_xlabel(f"log p̂(x) under {names[0]} (nats)")
    ax.set_ylabel(f"log p̂(x) under {names[1]} (nats)")
    handles = [Line2D([], [], ls="", marker="o", color=colour(name), label=f"{name} higher") for name in names]
    if not ok.all():
        handles.append(Line2D([], [], ls="", marker="o", color="0.3", mfc="white", label="not ok (k̂, ESS)"))
    ax.legend(handles=handles)
    return ax


def convergence(estimates: Mapping[str, xr.Dataset], ax: Axes, exact: float | None = None) -> Axes:
    """Mean of log p̂ over data from the first K importance samples, for K up to S; exact values are a straight line.

    Markers are open where fewer than half of the data are ok at S: such a line may not have converged.

    Args:
        estimates: strategy → what `log_marginal` returns.
        exact: mean of log p over these data, where it is known.
    """
    doubtful = False
    for name, result in estimates.items():
        if "running" not in result:
            ax.axhline(float(result["log_marginal"].mean()), color=colour(name), linewidth=1.2, label=f"{name}, exact")
            continue
        share = float(result["ok"].mean())
        doubtful |= share < 0.5
        ax.plot(
            result["num_draws"].values, result["running"].mean("datum").values, "o-", color=colour(name), ms=4,
            mfc="white" if share < 0.5 else colour(name), linewidth=1.2, label=f"{name}, {share:.0%} of data ok",
        )  # fmt: skip
    if exact is not None:
        ax.axhline(exact, color="black", linestyle="--", linewidth=1, label="exact log p", zorder=0)
    ax.set_xscale("log")
    ax.set_xlabel("importance samples per datum")
    ax.set_ylabel(f"mean log p̂ (nats/datum{'; open: most data not ok' if doubtful else ''})")
    ax.grid(alpha=0.3)
    ax.legend()
    return ax
