"""One row of a comparison: what is fitted, and how it is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ppvae.comparison.evaluation import evaluate
from ppvae.data.dataset import Data
from ppvae.pair.model import Model
from ppvae.pair.zoo import build
from ppvae.randomness import seeded
from ppvae.runs.evidence import write_evidence
from ppvae.runs.folder import EVIDENCE, RESULTS
from ppvae.runs.results import Row, label, one_row, write_results
from ppvae.training.fitting import fit


def run(job: Job, place: Path | None = None, **judged: Any) -> Row:
    """Fit one pair and judge it as `evaluate` does; what `place` has of it already is not done again."""
    if place is not None and (place / RESULTS).is_file():
        return one_row(place / RESULTS)
    with seeded(job.seed, device=torch.device("cpu")):
        model = build(job.model, job.kind, job.model_options)
    fitted = fit(model, job.data, job.inference, seed=job.seed, progress=False, run_dir=place,
                 resume=place is not None, **job.fit_options)  # fmt: skip
    row, estimates = evaluate(fitted, job.data, name=job.model, seed=job.seed, **judged)
    if place is not None:
        write_evidence(place / EVIDENCE, estimates)
        write_results(place / RESULTS, [row], 0.0)
    return row


@dataclass(frozen=True)
class Job:
    """One row to be made.

    `model` is what the results call it, `kind` its class, found once: a file edited meanwhile must not change later
    rows.
    """

    model: str
    kind: type[Model]
    inference: str
    seed: int
    data: Data
    model_options: Mapping[str, Any]
    fit_options: Mapping[str, Any]

    @property
    def how(self) -> str:
        """Strategy and family, as results show them."""
        return label(self.inference, self.fit_options.get("family"))
