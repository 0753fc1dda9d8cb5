"""One row of a comparison: a fit and its evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ppvae.comparison.evaluation import evaluate
from ppvae.comparison.options import JudgeOptions
from ppvae.data.dataset import Data
from ppvae.pair.model import Model
from ppvae.pair.zoo import build
from ppvae.randomness import seeded
from ppvae.runs.evidence import write_evidence
from ppvae.runs.folder import EVIDENCE, RESULTS
from ppvae.runs.results import Row, label, one_row, write_results
from ppvae.training.fitting import fit
from ppvae.training.settings import Settings


@dataclass(frozen=True)
class Job:
    """The description of one row.

    Attributes:
        model: its name in results.
        kind: its class, looked up once, so that later changes of its file do not change later rows.
        model_options: of its constructor.
        data: for training and evaluation.
        settings: of the fit.
        fixed: names of the settings that were given, which tuning does not change.
    """

    model: str
    kind: type[Model]
    model_options: Mapping[str, Any]
    data: Data
    settings: Settings
    fixed: frozenset[str] = frozenset()

    @property
    def how(self) -> str:
        """Strategy and family, as results show them."""
        return label(self.settings.inference, self.settings.family)

    def build(self) -> Model:
        """The model before training, with the weights of the seed."""
        with seeded(self.settings.seed, device=torch.device("cpu")):
            return build(self.model, self.kind, self.model_options)


def run(job: Job, place: Path | None, judge: JudgeOptions, checkpoint_seconds: float = 60.0) -> Row:
    """Fit one pair and judge it as `evaluate` does; results that `place` holds are not computed again."""
    if place is not None and (place / RESULTS).is_file():
        return one_row(place / RESULTS)
    fitted = fit(
        job.build(), job.data, settings=job.settings, progress=False, run_dir=place, resume=place is not None,
        checkpoint_seconds=checkpoint_seconds,
    )  # fmt: skip
    row, estimates = evaluate(fitted, job.data, options=judge, name=job.model, seed=job.settings.seed)
    if place is not None:
        write_evidence(place / EVIDENCE, estimates)
        write_results(place / RESULTS, [row], 0.0)
    return row
