"""The runs in a folder, and the state of each."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppvae.errors import PpvaeError
from ppvae.runs.averages import lines
from ppvae.runs.folder import CHECKPOINT, CONFIG, FITS, RESULTS, is_finished, read_config, read_metrics
from ppvae.runs.results import Row, read_results


@dataclass(frozen=True)
class Run:
    """A run directory in words: what was run, "finished" or where it stopped, and its best log p(x)."""

    path: Path
    what: str
    state: str
    result: str


def find(folder: str | os.PathLike[str]) -> list[Run]:
    """The runs in a folder, by name.

    Raises:
        PpvaeError: the folder does not exist.
    """
    place = Path(folder)
    if not place.is_dir():
        raise PpvaeError(f"no folder {place}: runs are kept in runs/ of the folder where ppvae fit or compare ran")
    return [describe(path) for path in sorted(place.iterdir()) if (path / CONFIG).is_file()]


def describe(path: Path) -> Run:
    """One run; a damaged one says so."""
    try:
        config = read_config(path)
        rows = read_results(path / RESULTS) if (path / RESULTS).is_file() else []
        what = _fit(config) if "name" in config else _comparison(config)
        state = _fit_state(path) if "name" in config else _comparison_state(path, rows)
        return Run(path, what, state, _best(rows))
    except (PpvaeError, OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        return Run(path, "?", f"damaged: {' '.join(str(error).split())[:80]}", "")


def _fit(config: Mapping[str, Any]) -> str:
    treatment = f" ({config['treatment']})" if config.get("treatment") else ""
    return f"{config['name']} · {config['inference']} · {config['data']}{treatment} · seed {config['seed']}"


def _comparison(config: Mapping[str, Any]) -> str:
    models, data = config.get("models"), config.get("data") or "each model's own data"
    models = [models] if isinstance(models, str) else list(models or ["the main job"])
    return f"{', '.join(map(str, models))} · {data}"


def _fit_state(path: Path) -> str:
    if is_finished(path):
        return "finished"
    if not (path / CHECKPOINT).is_file():
        return "damaged: it has neither weights nor a checkpoint"
    steps = read_metrics(path)[-1]["step"] if (path / "metrics.csv").is_file() else 0
    return f"stopped after step {steps:.0f} or later: ppvae fit --resume {path}"


def _comparison_state(path: Path, rows: list[Row]) -> str:
    if (path / "report.html").is_file():
        return f"finished, {len(rows)} rows"
    started = len(list((path / FITS).iterdir())) if (path / FITS).is_dir() else 0
    return f"stopped in row {max(started, len(rows))}: ppvae compare --resume {path}"


def _best(rows: list[Row]) -> str:
    best_of = []
    for (data, treatment), group in lines(rows).items():
        best = group[0]
        value = best.mean(lambda row: row.log_marginal)
        if value is not None:
            best_of.append(f"{data} ({treatment}) {value:.2f}, {Path(best.model).name} {best.inference}")
    return "; ".join(best_of)
