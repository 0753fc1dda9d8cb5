"""Rows averaged over seeds, ranked within one treatment of the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from ppvae.runs.results import Row


@dataclass(frozen=True)
class Line:
    """The rows of one model, strategy and family on one treatment of the data, averaged over seeds."""

    model: str
    inference: str
    data: str
    treatment: str
    rows: tuple[Row, ...]

    @property
    def how(self) -> str:
        """Strategy and family."""
        return self.rows[0].how

    def mean(self, value: Callable[[Row], float | None]) -> float | None:
        """Over seeds; None unless every seed has the value."""
        values = [value(row) for row in self.rows]
        known = [v for v in values if v is not None]
        return sum(known) / len(known) if len(known) == len(values) else None

    def sampling_error(self, value: Callable[[Row], float | None]) -> float | None:
        """The standard error of the mean over seeds, from the standard error of each seed."""
        errors = [value(row) for row in self.rows]
        known = [e for e in errors if e is not None]
        return math.sqrt(sum(e * e for e in known)) / len(known) if len(known) == len(errors) else None

    def spread(self, value: Callable[[Row], float | None]) -> float | None:
        """Standard deviation between seeds; None for fewer than two."""
        mean, n = self.mean(value), len(self.rows)
        if mean is None or n < 2:
            return None
        return math.sqrt(sum(((value(row) or 0.0) - mean) ** 2 for row in self.rows) / (n - 1))


def lines(rows: Sequence[Row]) -> dict[tuple[str, str], list[Line]]:
    """(data, treatment) → its lines, the best mean log p first; log p differs by nats between treatments."""
    ordered = sorted(rows, key=lambda r: (r.data, r.treatment, r.model, r.inference, r.family or "", r.seed))
    out: dict[tuple[str, str], list[Line]] = {}
    for (data, treatment, model, inference, _), group in groupby(
        ordered, key=lambda r: (r.data, r.treatment, r.model, r.inference, r.family)
    ):
        out.setdefault((data, treatment), []).append(Line(model, inference, data, treatment, tuple(group)))
    for group in out.values():
        group.sort(key=_rank, reverse=True)
    return out


def _rank(line: Line) -> float:
    value = line.mean(log_marginal)
    return -math.inf if value is None else value


def log_marginal(row: Row) -> float | None:
    """log p of a row, by which lines are ranked."""
    return row.log_marginal


def is_exact(line: Line) -> bool:
    """Whether log p is exact."""
    return line.rows[0].log_marginal_method == "exact"


def is_bound(line: Line) -> bool:
    """Whether log p is only a lower bound, as the weights of some data did not pass."""
    return any((row.khat_bad_fraction or 0.0) > 0 for row in line.rows)
