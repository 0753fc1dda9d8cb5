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
    """The key of the ranking."""
    return row.log_marginal


def _methods(line: Line) -> str:
    """The methods behind log p, the most frequent first, two of them by name."""
    names = list(dict.fromkeys(name for row in line.rows for name in row.log_marginal_method.split("+")))
    return "/".join(names[:2]) + (f" +{len(names) - 2}" if len(names) > 2 else "")


def cells(line: Line) -> dict[str, str]:
    """What a table says of a line: column → text; the first two are words, the rest numbers."""
    return {
        "model": Path(line.model).name,
        "inference": line.how,
        "ELBO": fixed(line.mean(lambda row: row.elbo)),
        "IS bound": fixed(line.mean(lambda row: row.iwae_bound)),
        "log p": log_p(line),
        "by": _methods(line),
        "sd seeds": fixed(line.spread(log_marginal)),
        "family loses": fixed(line.mean(lambda row: row.approximation_gap)),
        "φ loses": fixed(line.mean(lambda row: row.amortization_gap)),
        "ESS": fixed(line.mean(lambda row: row.ess_median), 0),
        "k̂ bad": _percent(line.mean(lambda row: row.khat_bad_fraction)),
        "train s": fixed(line.mean(lambda row: row.train_seconds), 1),
        "infer s/1000": fixed(line.mean(lambda row: row.infer_seconds_per_1000), 3),
        "params": f"{line.rows[0].num_parameters:,}",
    }


def filled(group: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of a table, without the gaps where nobody asked for them."""
    rows = [cells(line) for line in group]
    empty = {name for name in ("family loses", "φ loses") if all(row[name] == "–" for row in rows)}
    titles = [name for name in rows[0] if name not in empty]
    return titles, [[row[name] for name in titles] for row in rows]


def log_p(line: Line) -> str:
    """= before an exact value, ≥ before a lower bound; ± the sampling error."""
    value = fixed(line.mean(log_marginal))
    if is_exact(line):
        return f"= {value}"
    error = fixed(line.sampling_error(lambda row: row.log_marginal_mc_se), 3)
    return f"{'≥ ' if is_bound(line) else ''}{value} ± {error}"


def is_exact(line: Line) -> bool:
    """Whether log p is the model's own."""
    return line.rows[0].log_marginal_method == "exact"


def is_bound(line: Line) -> bool:
    """Whether log p is no more than a lower bound: the weights of some data did not pass."""
    return any((row.khat_bad_fraction or 0.0) > 0 for row in line.rows)


def title(group: Sequence[Line]) -> str:
    """What the numbers of a table are of."""
    line, first = group[0], group[0].rows[0]
    return f"{line.data} ({line.treatment}), {first.num_data} {first.split} data, {first.num_samples} samples"


def tables(rows: Sequence[Row]) -> list[Table]:
    """One table a data treatment."""
    out = []
    for group in lines(rows).values():
        table = Table(
            title=f"{escape(title(group))}; nats/datum",
            caption="log p: = exact, ± sampling error, ≥ a lower bound: the weights of some data did not pass",
            title_justify="left",
            caption_justify="left",
        )
        titles, body = filled(group)
        for name in ("#", *titles):
            table.add_column(name, justify="left" if name in ("#", "model", "inference", "by") else "right")
        for rank, texts in enumerate(body, 1):
            table.add_row(str(rank), *map(escape, texts))
        out.append(table)
    return out


def fixed(value: float | None, digits: int = 2) -> str:
    """A number with so many digits, – for none."""
    return "–" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}%"
