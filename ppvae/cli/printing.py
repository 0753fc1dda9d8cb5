"""What several commands print, and the fits that they are given."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ppvae.errors import PpvaeError

if TYPE_CHECKING:
    from rich.console import Console

    from ppvae.comparison.evaluation import Evaluation
    from ppvae.training.fitted import Fit


def console() -> Console:
    """Where tables go."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def trained_fit(place: Path) -> Fit:
    """The fit in a folder; a comparison holds several."""
    from ppvae.runs.folder import FITS
    from ppvae.training.loading import load

    if (place / FITS).is_dir():
        first = next(iter(sorted(path.name for path in (place / FITS).iterdir())), "…")
        raise PpvaeError(f"{place} is a comparison: name one of its fits, such as {place / FITS / first}")
    return load(place)


def name_of_run(place: Path) -> str:
    """What the run calls its model."""
    from ppvae.runs.folder import read_config

    return str(read_config(place)["name"])


def evaluation_lines(found: Evaluation, inference: str, num_gaps: int) -> list[str]:
    """An evaluation in words and numbers."""
    import numpy as np

    from ppvae.evidence.marginal import summarise
    from ppvae.evidence.weights import khat_threshold

    row, estimates = found
    mean, bound = summarise(estimates), summarise(estimates, "elbo")
    passed, ess, size = float(estimates["ok"].mean()), estimates["ess"], row.num_data
    lines = [
        f"{row.data} ({row.treatment}), {size} {row.split} data, {inference}, nats/datum",
        f"ELBO              {bound.mean:10.3f} ± {_error(bound.mc_se)}",
        f"importance bound  {row.iwae_bound or math.nan:10.3f}   {row.num_samples} draws of q as it is",
        f"log p(x)        {'≥' if passed < 1 else ' '} {mean.mean:10.3f} ± {_error(mean.mc_se)} sampling, "
        f"± {_error(mean.data_se)} from the number of data",
    ]
    if volume := estimates.attrs.get("log_volume"):
        lines.append(
            f"in its own units  {mean.mean - volume:10.3f}   log p(x) of values before they were {row.treatment}"
        )
    methods, counts = np.unique(estimates["method"], return_counts=True)
    shares = (f"{name} {100 * count / size:.0f}%" for name, count in zip(methods, counts, strict=True))
    lines.append(f"method            {', '.join(shares)}")
    if bool(ess.notnull().any()):
        limit = khat_threshold(row.num_samples)
        lines += [
            f"effective samples {float(ess.median()):10.0f} median, {float(ess.min()):.0f} least, of {row.num_samples}",
            f"reliable          {100 * passed:9.0f}% of the data: k̂ ≤ {limit:.2f} and 100 effective samples",
        ]
        if passed < 1:
            lines.append(f"{'':18}the estimate of a datum that is not reliable is a lower bound in expectation")
    for column, lost in (("approximation_gap", "by the family"), ("amortization_gap", "by where φ comes from")):
        if column in estimates and not bool(estimates[column].notnull().any()):
            lines.append(f"lost              {'unknown':>10}   {lost}: the guide has no φ")
        elif column in estimates:
            gap = summarise(estimates.dropna("datum", subset=[column]), column)
            lines.append(f"lost              {gap.mean:10.3f} ± {_error(gap.mc_se)} {lost} ({num_gaps} data)")
    lines += [f"note              {note}" for note in estimates.attrs.get("notes", "").split("; ") if note]
    return lines


def _error(value: float) -> str:
    return f"{value:.3f}" if value == value else "–"
