"""Pictures of results: functions that draw on an Axes and return it. One colour a strategy, everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ppvae.compare import Row
from ppvae.errors import PpvaeError
from ppvae.registry import list_inference
from ppvae.table import Line, lines

#: Okabe & Ito (2008): told apart by the colour-blind too
_PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000")


def colour(inference: str) -> str:
    """The colour of a strategy; grey for one that is not registered here, as in results from elsewhere."""
    known = list_inference()
    return _PALETTE[known.index(inference) % len(_PALETTE)] if inference in known else "#7F7F7F"


def bounds(group: Sequence[Line], ax: Axes) -> Axes:
    """ELBO (open) and log p̂ (filled) of each model and strategy on one treatment, a pair of dots a seed.

    The distance between the two is what inference loses; bars are sampling errors.
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
    ax.set_yticks(range(len(group)), [f"{Path(line.model).name}\n{line.inference}" for line in reversed(group)])
    ax.set_ylim(-0.6, len(group) - 0.4)
    ax.set_xlabel("nats/datum  (open: ELBO, filled: log p̂; larger is better)")
    ax.set_title(f"{group[0].data} ({group[0].treatment}), {group[0].rows[0].split} data")
    ax.grid(axis="x", alpha=0.3)
    return ax


def comparison(rows: Sequence[Row]) -> Figure:
    """One panel of `bounds` a data treatment.

    Raises:
        PpvaeError: there are no rows.
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
