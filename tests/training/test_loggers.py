"""Curves for whoever keeps them: any Lightning logger."""

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric.loggers.csv_logs import CSVLogger
from lightning_fabric.loggers.logger import Logger

import ppvae


class Kept(Logger):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int | None, dict[str, float]]] = []
        self.ended: list[str] = []

    @property
    def name(self) -> str:
        return "kept"

    @property
    def version(self) -> str:
        return "0"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.told.append((step, metrics))

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        pass

    def finalize(self, status: str) -> None:
        self.ended.append(status)


def short(**how: Any) -> ppvae.Fit:
    torch.manual_seed(0)
    model = ppvae.create("ppca", x_dim=4, latent_dim=2)
    return ppvae.fit(model, "iris", epochs=6, eval_every=2, progress=False, **how)


def test_every_evaluation_reaches_every_logger(tmp_path: Path) -> None:
    kept, file = Kept(), CSVLogger(tmp_path, name="curves")
    history = short(loggers=[kept, file]).history
    assert len(history) == 3
    assert [step for step, _ in kept.told] == [entry["step"] for entry in history]
    assert [told["valid_bound"] for _, told in kept.told] == [entry["valid_bound"] for entry in history]
    assert kept.ended == ["success"]
    with open(Path(file.log_dir) / "metrics.csv", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [int(row["step"]) for row in rows] == [entry["step"] for entry in history]
    assert [float(row["train_bound"]) for row in rows] == pytest.approx([entry["train_bound"] for entry in history])


def test_a_logger_changes_nothing() -> None:
    plain, logged = short(), short(loggers=Kept())
    assert [entry["valid_bound"] for entry in plain.history] == [entry["valid_bound"] for entry in logged.history]


@pytest.mark.parametrize("bad", ["tensorboard", 3, [Kept(), "csv"]])
def test_what_is_no_logger_is_refused(bad: Any) -> None:
    with pytest.raises(ppvae.PpvaeError, match="loggers must be Lightning loggers"):
        short(loggers=bad)


def test_a_fit_trains_whatever_the_gradient_mode() -> None:
    """`no_grad` around it would train nothing, and say nothing."""
    with torch.no_grad():
        inside = short()
        assert not torch.is_grad_enabled()
    assert inside.history == [
        {**entry, "seconds": own["seconds"]} for entry, own in zip(short().history, inside.history, strict=True)
    ]
