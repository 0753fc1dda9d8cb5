"""Results in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ppvae.runs.averages import Line, is_bound, is_exact, lines, log_marginal
from ppvae.runs.gap_means import Amount, SplitGap
from ppvae.runs.results import Row

#: a difference of more standard errors than this is called a difference
_CLEAR = 2.0
#: nats/datum; a gap that is certainly smaller is reported as smaller than this
_SMALL = 0.01


def reading(rows: Sequence[Row], splits: Mapping[tuple[str, str], Sequence[SplitGap]] | None = None) -> list[str]:
    """The results in plain sentences, with their numbers (nats/datum, ± one standard error).

    Args:
        rows: of results.json.
        splits: their gaps, if they were estimated.
    """
    out = []
    for key, group in lines(rows).items():
        out += _read_group(group)
        out += [read_gap(gap) for gap in (splits or {}).get(key, ())]
    return out


def _read_group(group: Sequence[Line]) -> list[str]:
    best = group[0]
    value = best.mean(log_marginal)
    if value is None:
        return []
    bound = "at least " if is_bound(best) else ""
    out = [f"On {best.data} ({best.treatment}) {label(best)} has the highest log p, {bound}{value:.2f} nats/datum."]
    by_model: dict[str, list[Line]] = {}
    for line in group:
        by_model.setdefault(line.model, []).append(line)
    for model, strategies in by_model.items():
        out += [_against(model, strategies[0], other) for other in strategies[1:]]
        for line in strategies:
            elbo, log_p = line.mean(lambda row: row.elbo), line.mean(log_marginal)
            if elbo is not None and log_p is not None:
                least = "" if is_exact(line) else "at least "
                out.append(
                    f"Inference in {label(line)} loses {least}{max(log_p - elbo, 0.0):.2f} nats/datum: log p "
                    f"{log_p:.2f}, ELBO {elbo:.2f}."
                )
    return out


def _against(model: str, one: Line, other: Line) -> str:
    """The gain in log p by the better of two strategies, and its costs."""
    gain = (one.mean(log_marginal) or 0.0) - (other.mean(log_marginal) or 0.0)
    error = math.hypot(_error_of_mean(one), _error_of_mean(other))
    clear = f"more than {_CLEAR:g}" if gain > _CLEAR * error else f"less than {_CLEAR:g}"
    faster = [
        (what, (other.mean(cost) or 0.0) / max(one.mean(cost) or 0.0, 1e-9))
        for what, cost in (
            ("to train", lambda row: row.train_seconds),
            ("to infer new data", lambda row: row.infer_seconds_per_1000),
        )
    ]
    costs = ", ".join(f"{float(f'{ratio:.2g}'):g} times as long {what}" for what, ratio in faster)
    return (
        f"{Path(model).name}: {one.how} is {gain:.2f} ± {error:.2f} nats/datum above {other.how}, {clear} "
        f"standard errors; {other.how} takes {costs}."
    )


def _error_of_mean(line: Line) -> float:
    """The error of the mean over seeds, from their spread; for one seed, the sampling error."""
    spread = line.spread(log_marginal)
    if spread is not None:
        return spread / math.sqrt(len(line.rows))
    return line.sampling_error(lambda row: row.log_marginal_mc_se) or 0.0


def read_gap(gap: SplitGap) -> str:
    """The loss by the source of φ and by the family; errors are standard errors over data."""
    many = f"{gap.num_data} {gap.line.rows[0].split} data" if gap.num_data > 1 else "one datum"
    bound = " As log p of some of these data is a lower bound, the family may cost more." if gap.bound else ""
    return f"{label(gap.line)}, on {many}: {_costs(gap)}; {_gains(gap.approximation)}.{bound}"


def _costs(gap: SplitGap) -> str:
    amount = gap.amortization
    if _negligible(amount):
        return f"{gap.source} costs less than {_SMALL:g} nats/datum"
    if amount.error is None:
        return f"{gap.source} costs {amount} nats, with no known error"
    if amount.mean > _CLEAR * amount.error:
        return f"{gap.source} costs {amount} nats/datum"
    if amount.mean < -_CLEAR * amount.error:
        return f"{gap.source} seems to cost {amount} nats/datum: the search for a better q did not succeed"
    return f"the cost of {gap.source} cannot be distinguished from 0 ({amount} nats/datum)"


def _gains(amount: Amount) -> str:
    if _negligible(amount):
        return f"a richer family would gain less than {_SMALL:g}"
    if amount.error is None:
        return f"a richer family would gain up to {amount}, with no known error"
    if amount.mean > _CLEAR * amount.error:
        return f"a richer family would gain up to {amount}"  # at most: the search may fall short of the best q
    if amount.mean < -_CLEAR * amount.error:
        return f"a richer family seems to gain {amount}: log p is estimated too low"
    return f"the gain by a richer family cannot be distinguished from 0 ({amount})"


def _negligible(amount: Amount) -> bool:
    return amount.error is not None and abs(amount.mean) + _CLEAR * amount.error < _SMALL


def label(line: Line) -> str:
    """Model and strategy."""
    return f"{Path(line.model).name} under {line.how}"
