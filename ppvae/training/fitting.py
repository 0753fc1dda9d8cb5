"""Training of a pair in one call."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_fabric.loggers.logger import Logger

from ppvae import require
from ppvae.data.loading import DataLike, load_data
from ppvae.entry import entry
from ppvae.errors import PpvaeError
from ppvae.options import given, with_options
from ppvae.pair.model import Model
from ppvae.pair.precision import is_double
from ppvae.pair.zoo import build_for
from ppvae.training.fitted import Fit
from ppvae.training.loop import Training
from ppvae.training.machine import machine
from ppvae.training.preparation import prepared
from ppvae.training.run import RunFolder, run_place
from ppvae.training.settings import Settings
from ppvae.variational.strategy import strategy_class


@entry
@with_options(Settings)
def fit(
    model: Model | Fit | str,
    data: DataLike,
    inference: str | None = None,
    objective: str | None = None,
    *,
    settings: Settings | Mapping[str, Any] | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool | None = None,
    loggers: Logger | Sequence[Logger] = (),
    checkpoint_seconds: float = 60.0,
    **changes: Any,
) -> Fit:
    """Train a pair under one inference strategy.

    Args:
        model: the pair, which is copied and does not change. Or the name of a model, or path/to/file.py:Class, which is
            built for the data. Or a fit to continue from, under the same or another strategy: θ starts at its θ, rows
            at its φ of each datum, an encoder at its encoder.
        data: a `Data`, or what `load_data` takes.
        settings: a `Settings`, or a mapping of its options; single options in the call replace those in it.
        run_dir: a new directory that keeps the run while it trains; `ppvae.load` reads it when it is finished.
        resume: continue the run in run_dir, which must have the same arguments, where it stopped; on a CPU with the
            same number of threads it ends as if it had not stopped. A finished run is loaded, a run that has not
            started is started.
        progress: show a progress bar; where None, only on a terminal.
        loggers: of Lightning, one or several, such as lightning_fabric.loggers.TensorBoardLogger("runs"): each gets
            train_bound, valid_bound (nats/datum) and seconds at every evaluation. (metrics.csv has them, too.)
        checkpoint_seconds: the time between two checkpoints; Ctrl-C makes one at once.
        changes: options of `Settings`.

    Raises:
        PpvaeError: `Settings` refuses an option, `check` refuses the pair, or the strategy refuses the data.
        NonFiniteError: the bound became NaN or infinite; the message names the step and the site.
        Interrupted: Ctrl-C arrived, and run_dir keeps the run so far.
    """
    settings = Settings.of(settings, **given(inference=inference, objective=objective), **changes)
    checkpoint_seconds = require.positive("checkpoint_seconds", checkpoint_seconds, zero=True)
    data = load_data(data)
    if isinstance(model, str):
        model = build_for(model, data, seed=settings.seed)
    if not isinstance(model, Model | Fit):
        raise PpvaeError(
            f"model must be a ppvae.Model or the name of one (ppvae list has them), got {type(model).__name__}"
        )
    has_rows = strategy_class(settings.inference).has_rows
    settings = settings.for_data(len(data.train), dynamic=data.dynamic, has_rows=has_rows)
    if is_double(model.model if isinstance(model, Fit) else model):
        settings = settings.replace(precision="64-true")  # as a session makes models whose default is double precision
    place = run_place(run_dir, resume)
    with machine(settings, loggers) as fabric:
        untrained = prepared(model, data, settings)
        if place is None:
            return Training(untrained, data, fabric, progress, None).run()
        run = RunFolder(place, untrained, checkpoint_seconds)
        return run.finished or run.train(Training(untrained, data, fabric, progress, run.checkpoints))
