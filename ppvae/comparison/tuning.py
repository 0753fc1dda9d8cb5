"""Learning rates for each strategy, chosen on the validation bound at equal training time, for a fair comparison."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ppvae.comparison.job import Job
from ppvae.errors import NonFiniteError, PpvaeError
from ppvae.options import option_names
from ppvae.runs.files import write_text
from ppvae.training.fitting import fit
from ppvae.training.settings import STRATEGY_ARGUMENTS, Settings
from ppvae.variational.strategy import strategy_class

#: the values that are tried for each option of `fit`, and for each option of a strategy
GRID: dict[str, tuple[float, ...]] = {"lr": (3e-4, 1e-3, 3e-3, 1e-2)}
OWN_GRID: dict[str, tuple[float, ...]] = {"lr": (0.02, 0.1)}


@dataclass(frozen=True)
class Trial:
    """One point of the grid: its options, the best validation bound (nats/datum; None where the bound was not finite)
    and its seconds of training.
    """

    model: str
    inference: str
    options: dict[str, Any]
    valid_bound: float | None
    seconds: float
    steps: int
    chosen: bool = False
    family: str | None = None

    @property
    def key(self) -> tuple[str, str, str | None]:
        return (self.model, self.inference, self.family)


def tuned(
    jobs: Sequence[Job], seconds: float, place: Path | None = None, show: Callable[[str], None] | None = None
) -> tuple[list[Job], list[Trial]]:
    """The jobs with the best learning rates within a given time of training, and all trials.

    Every model and strategy gets the whole grid, each point the same time, at its first seed; test data are not used.
    Options that were given for a job do not change.

    Args:
        jobs: of a comparison.
        seconds: of training for each point of the grid.
        place: tuning.json, which is read if it exists.
        show: called with a description of each trial.
    """
    known = _read(place) if place is not None and place.is_file() else []
    chosen: dict[tuple[str, str, str | None], dict[str, Any]] = {}
    trials: list[Trial] = []
    for job in jobs:
        key = _key(job)
        if key in chosen:
            continue
        tried = [trial for trial in known if trial.key == key]
        if not tried:
            tried = [try_rates(job, options, seconds, show) for options in _points(job)]
            best = max(tried, key=lambda trial: -math.inf if trial.valid_bound is None else trial.valid_bound)
            if best.valid_bound is None:
                raise PpvaeError(
                    f"no learning rate of the grid gives {job.model} under {job.how} a finite bound: give lr, not tune"
                )
            tried = [replace(trial, chosen=trial is best) for trial in tried]
        trials += tried
        chosen[key] = next(trial.options for trial in tried if trial.chosen)
        if place is not None:
            write_text(place, json.dumps([asdict(trial) for trial in trials], indent=1) + "\n")
    return [replace(job, settings=_with(job.settings, chosen[_key(job)])) for job in jobs], trials


def _key(job: Job) -> tuple[str, str, str | None]:
    return (job.model, job.settings.inference, job.settings.family)


def _points(job: Job) -> list[dict[str, Any]]:
    """The grid of a job: options of `fit` by name, the strategy's own as inference_options."""
    own = option_names(strategy_class(job.settings.inference), skip=STRATEGY_ARGUMENTS)
    given = job.settings.inference_options
    free = {name: values for name, values in GRID.items() if name not in job.fixed}
    rows = {name: values for name, values in OWN_GRID.items() if name in own and name not in given}
    if job.settings.lr_phi is not None:
        rows.pop("lr", None)
    out = []
    for values in itertools.product(*free.values(), *rows.values()):
        options: dict[str, Any] = dict(zip(free, values, strict=False))
        if rows:
            options["inference_options"] = dict(zip(rows, values[len(free) :], strict=True))
        out.append(options)
    return out


def try_rates(job: Job, options: dict[str, Any], seconds: float, show: Callable[[str], None] | None) -> Trial:
    """Train with these learning rates for that time, and take the best validation bound."""
    if show is not None:
        show(f"{Path(job.model).name} · {job.how} · tuning {options}")
    inference, family = job.settings.inference, job.settings.family
    settings = _with(job.settings, options).replace(seconds=seconds, epochs=10**6, patience=None)
    try:
        fitted = fit(job.build(), job.data, settings=settings, progress=False)
    except NonFiniteError:
        return Trial(job.model, inference, options, None, seconds, 0, family=family)
    best = max(entry["valid_bound"] for entry in fitted.history)
    return Trial(job.model, inference, options, best, fitted.seconds, int(fitted.history[-1]["step"]), family=family)


def _with(settings: Settings, options: Mapping[str, Any]) -> Settings:
    """The settings with a point of the grid; options of the strategy are merged."""
    own = {**settings.inference_options, **options.get("inference_options", {})}
    return settings.replace(**{**options, "inference_options": own})


def _read(place: Path) -> list[Trial]:
    try:
        return [Trial(**entry) for entry in json.loads(place.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise PpvaeError(
            f"{place} is damaged, {' '.join(str(error).split())[:100]}: remove it to tune again"
        ) from error
