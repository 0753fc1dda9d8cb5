"""Results as a table: one line a model and strategy, seeds averaged, ranked within one data treatment only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from ppvae.results import Row


@dataclass(frozen=True)
class Line:
    """The rows of one model and strategy on one treatment of the data, averaged over seeds."""

    model: str
    inference: str
    data: str
    treatment: str
    rows: tuple[Row, ...]

    def mean(self, value: Callable[[Row], float | None]) -> float | None:
        """Over seeds; None unless every seed has the value."""
        values = [value(row) for row in self.rows]
        known = [v for v in values if v is not None]
        return sum(known) / len(known) if len(known) == len(values) else None

    def sampling_error(self, value: Callable[[Row], float | None]) -> float | None:
        """Of the mean over seeds, from each seed's own standard error."""
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
    """(data, treatment) → its lines, best mean log p first: log p differs by nats between treatments."""
    ordered = sorted(rows, key=lambda r: (r.data, r.treatment, r.model, r.inference, r.seed))
    out: dict[tuple[str, str], list[Line]] = {}
    for (data, treatment, model, inference), group in groupby(
        ordered, key=lambda r: (r.data, r.treatment, r.model, r.inference)
    ):
        out.setdefault((data, treatment), []).append(Line(model, inference, data, treatment, tuple(group)))
    for group in out.values():
        group.sort(key=_rank, reverse=True)
    return out


def _rank(line: Line) -> float:
    value = line.mean(log_marginal)
    return -math.inf if value is None else value


def log_marginal(row: Row) -> float | None:
    """The key of the ranking."""
    return row.log_marginal


def tables(rows: Sequence[Row]) -> list[Table]:
    """One table a data treatment."""
    out = []
    for (data, treatment), group in lines(rows).items():
        first = group[0].rows[0]
        table = Table(
            title=f"{escape(data)} ({treatment}), {first.num_data} {first.split} data, "
            f"{first.num_samples} samples; nats/datum",
            caption="log p: exact where the model has it (=), else importance-sampled ± sampling error",
            title_justify="left",
            caption_justify="left",
        )
        for name in ("#", "model", "inference"):
            table.add_column(name)
        for name in ("ELBO", "IS bound", "log p", "sd seeds", "ESS", "k̂ bad", "train s", "infer s/1000", "params"):
            table.add_column(name, justify="right")
        for rank, line in enumerate(group, 1):
            exact = first_method(line) == "exact"
            table.add_row(
                str(rank),
                escape(Path(line.model).name),
                line.inference,
                _fixed(line.mean(lambda r: r.elbo)),
                _fixed(line.mean(lambda r: r.iwae_bound)),
                ("= " if exact else "")
                + _fixed(line.mean(log_marginal))
                + ("" if exact else f" ± {_fixed(line.sampling_error(lambda r: r.log_marginal_mc_se), 3)}"),
                _fixed(line.spread(log_marginal)),
                _fixed(line.mean(lambda r: r.ess_median), 0),
                _percent(line.mean(lambda r: r.khat_bad_fraction)),
                _fixed(line.mean(lambda r: r.train_seconds), 1),
                _fixed(line.mean(lambda r: r.infer_seconds_per_1000), 3),
                f"{line.rows[0].num_parameters:,}",
            )
        out.append(table)
    return out


def first_method(line: Line) -> str:
    """How log p was found."""
    return line.rows[0].log_marginal_method


def _fixed(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}%"
