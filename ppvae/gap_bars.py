"""The two gaps of each line of a table: averaged over data, and as stacked bars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ppvae.errors import PpvaeError
from ppvae.plots import colour
from ppvae.results import Row
from ppvae.table import Line, lines

_COLUMNS = ("approximation_gap", "amortization_gap")
#: what the second gap is of, where it is not amortization
_SOURCES = {"per-datapoint": "optimisation", "exact": "exact inference"}


@dataclass(frozen=True)
class Amount:
    """A mean over data in nats/datum and its standard error over them, None of one datum."""

    mean: float
    error: float | None

    def __str__(self) -> str:
        if self.error is None:
            return f"{self.mean:z.2f}"
        # two significant digits of the error, as far as thousandths
        digits = 2 if self.error == 0 else min(max(1 - math.floor(math.log10(self.error)), 1), 3)
        return f"{self.mean:z.{digits}f} ± {self.error:.{digits}f}"


@dataclass(frozen=True)
class SplitGap:
    """log p − ELBO of a line, in its two parts; `bound` where log p of some of the data is a lower bound."""

    line: Line
    approximation: Amount
    amortization: Amount
    num_data: int
    bound: bool

    @property
    def source(self) -> str:
        """What the second part is the price of."""
        return _SOURCES.get(self.line.inference, "amortization")


def split_gaps(judged: Mapping[Row, xr.Dataset]) -> dict[tuple[str, str], list[SplitGap]]:
    """(data, treatment) → the gaps of its lines, in the order of the table, of those whose every seed has them.

    Args:
        judged: each row with the evidence behind it. Seeds share their data, so each datum's gap is averaged over them
            first, and the error is that of the mean over data.
    """
    out: dict[tuple[str, str], list[SplitGap]] = {}
    for key, group in lines(list(judged)).items():
        for line in group:
            evidence = [judged[row] for row in line.rows]
            if all(column in found for found in evidence for column in _COLUMNS):
                found = _split(line, evidence)
                if found is not None:
                    out.setdefault(key, []).append(found)
    return out


def _split(line: Line, evidence: Sequence[xr.Dataset]) -> SplitGap | None:
    size = min(found.sizes["datum"] for found in evidence)
    gaps = np.array([[found[column].values[:size] for column in _COLUMNS] for found in evidence])
    known = np.isfinite(gaps).all((0, 1))
    if not known.any():
        return None
    approximation, amortization = gaps[..., known].mean(0)
    passed = all(found["ok"].values[:size][known].all() for found in evidence)
    return SplitGap(line, _amount(approximation), _amount(amortization), int(known.sum()), not passed)


def _amount(values: np.ndarray) -> Amount:
    n = len(values)
    return Amount(float(values.mean()), float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else None)


def bars(group: Sequence[SplitGap], ax: Axes) -> Axes:
    """A bar a line: the approximation gap (full), and the amortization gap (hatched) from its end.

    Each error bar, at the end of its part, is the standard error of that part alone.
    """
    for y, gap in enumerate(reversed(group)):
        tone = colour(gap.line.inference)
        first, second = gap.approximation, gap.amortization
        # parts of different signs go to either side of 0
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
    """One panel of `bars` a data treatment.

    Raises:
        PpvaeError: there are no gaps.
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
