"""The two gaps of each line of a table, averaged over data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from ppvae.runs.averages import Line, lines
from ppvae.runs.results import Row

_COLUMNS = ("approximation_gap", "amortization_gap")
#: strategy → the source of the second gap, where it is not amortization
_SOURCES = {"per-datapoint": "optimisation", "exact": "exact inference"}


@dataclass(frozen=True)
class Amount:
    """A mean over data in nats/datum, and its standard error over data; None for one datum."""

    mean: float
    error: float | None

    def __str__(self) -> str:
        if self.error is None:
            return f"{self.mean:z.2f}"
        # two significant digits of the error, at most three decimals
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
        """The cause of the second part."""
        return _SOURCES.get(self.line.inference, "amortization")


def split_gaps(judged: Mapping[Row, xr.Dataset]) -> dict[tuple[str, str], list[SplitGap]]:
    """(data, treatment) → the gaps of its lines, in the order of the table, where every seed has them.

    Args:
        judged: row → its evidence. Seeds share their data, so each datum's gap is averaged over them
            first, and the error is that of the mean over data.
    """
    out: dict[tuple[str, str], list[SplitGap]] = {}
    for key, group in lines(list(judged)).items():
        for line in group:
            evidence = [judged[row] for row in line.rows]
            if all(column in one for one in evidence for column in _COLUMNS):
                gap = _split(line, evidence)
                if gap is not None:
                    out.setdefault(key, []).append(gap)
    return out


def _split(line: Line, evidence: Sequence[xr.Dataset]) -> SplitGap | None:
    size = min(one.sizes["datum"] for one in evidence)
    gaps = np.array([[one[column].values[:size] for column in _COLUMNS] for one in evidence])
    known = np.isfinite(gaps).all((0, 1))
    if not known.any():
        return None
    approximation, amortization = gaps[..., known].mean(0)
    passed = all(one["ok"].values[:size][known].all() for one in evidence)
    return SplitGap(line, _amount(approximation), _amount(amortization), int(known.sum()), not passed)


def _amount(values: np.ndarray) -> Amount:
    n = len(values)
    return Amount(float(values.mean()), float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else None)
