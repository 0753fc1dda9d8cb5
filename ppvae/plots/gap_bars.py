"""The inference gaps of a comparison as stacked bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ppvae.errors import PpvaeError
from ppvae.plots.colours import colour
from ppvae.runs.gap_means import SplitGap


def bars(group: Sequence[SplitGap], ax: Axes) -> Axes:
    """One bar per line: the approximation gap (full), and from its end the amortization gap (hatched).

    The error bar at the end of each part is the standard error of that part alone.
    """
    for y, gap in enumerate(reversed(group)):
        tone = colour(gap.line.inference)
        first, second = gap.approximation, gap.amortization
        # parts of different signs are on different sides of 0
        left = first.mean if first.mean * second.mean > 0 else 0.0
        ax.barh(y, first.mean, height=0.5, color=tone)
        ax.barh(y, second.mean, left=left, height=0.5, facecolor="white", edgecolor=tone, hatch="////", linewidth=1)
        for end, error, height in ((first.mean, first.error, y + 0.1), (left + second.mean, second.error, y - 0.1)):
            ax.errorbar(end, height, xerr=error, fmt="none", ecolor="black", elinewidth=1, capsize=3)
        ax.annotate(f"({first}) + ({second})", (1.01, y), xycoords=("axes fraction", "data"), va="center",
                    fontsize="small")  # fmt: skip
    ax.axvline(0, color="0.3", linewidth=1)
    ax.set_yticks(range(len(group)), [f"{Path(gap.line.model).name}\n{gap.line.how}" for gap in reversed(group)])
    ax.set_ylim(-0.6, len(group) - 0.4)
    ax.set_xlabel("log p(x) − ELBO (nats/datum)")
    line = group[0].line
    ax.set_title(f"{line.data} ({line.treatment}), {group[0].num_data} {line.rows[0].split} data")
    ax.grid(axis="x", alpha=0.3)
    return ax


def figure_of_gaps(splits: Mapping[tuple[str, str], Sequence[SplitGap]]) -> Figure:
    """One panel of `bars` per treatment of data.

    Raises:
        PpvaeError: there is nothing to draw.
    """
    groups = list(splits.values())
    if not groups:
        raise PpvaeError("there are no gaps to draw: compare or evaluate with num_gaps")
    height = 1.5 + sum(0.65 * len(group) + 0.9 for group in groups)
    figure = Figure(figsize=(7.5, height), layout="constrained")
    axes = figure.subplots(len(groups), 1, squeeze=False, height_ratios=[len(group) for group in groups])[:, 0]
    for group, ax in zip(groups, axes, strict=True):
        bars(group, ax)
    handles = [
        Patch(facecolor="0.45", label="approximation gap: the family"),
        Patch(facecolor="white", edgecolor="0.45", hatch="////", label="amortization (or optimisation) gap: φ"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure
