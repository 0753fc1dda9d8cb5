"""Results as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from ppvae.runs.averages import Line, is_bound, is_exact, lines, log_marginal
from ppvae.runs.results import Row


def _methods(line: Line) -> str:
    """The methods of log p, the most frequent first: two by name, and the number of the others."""
    names = list(dict.fromkeys(name for row in line.rows for name in row.log_marginal_method.split("+")))
    return "/".join(names[:2]) + (f" +{len(names) - 2}" if len(names) > 2 else "")


def cells(line: Line) -> dict[str, str]:
    """The cells of a line of a table: column → text."""
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
    """Titles and cells of a table, without the gaps where they were not estimated."""
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


def title(group: Sequence[Line]) -> str:
    """The title of a table: its data and the number of samples."""
    line, first = group[0], group[0].rows[0]
    return f"{line.data} ({line.treatment}), {first.num_data} {first.split} data, {first.num_samples} samples"


def tables(rows: Sequence[Row]) -> list[Table]:
    """One table per treatment of data."""
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
    """A number with this number of digits; – for None."""
    return "–" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}%"
