"""The directory of a run, in which training is kept and from which it continues."""

from __future__ import annotations

import os
from pathlib import Path

from ppvae import require
from ppvae.errors import PpvaeError
from ppvae.runs.files import as_folder, empty_directory
from ppvae.runs.folder import CHECKPOINT, CONFIG, is_finished, read_config, write_config, write_outcome
from ppvae.training.checkpoints import Checkpoints
from ppvae.training.fitted import Fit
from ppvae.training.loading import load
from ppvae.training.loop import Training
from ppvae.training.settings import from_earlier


def run_place(run_dir: str | os.PathLike[str] | None, resume: bool) -> Path | None:
    """The directory of a run: a new or an empty one, or with `resume` one that holds a run.

    Raises:
        PpvaeError: the directory holds something else.
    """
    require.flag("resume", resume)
    if run_dir is None:
        if resume:
            raise PpvaeError("resume needs run_dir: the folder of the run to continue")
        return None
    return (existing_run(as_folder(run_dir)) if resume else None) or empty_directory(run_dir)


def existing_run(run: Path) -> Path | None:
    """The directory, if a run was started there, or was stopped while it started; else None."""
    if (run / CONFIG).is_file():
        return run
    names = [part.name for part in run.iterdir()] if run.is_dir() else []
    return run if names and all(name == CHECKPOINT or name.endswith(".partial") for name in names) else None


class RunFolder:
    """A run in its directory, which is new or holds the same run.

    Args:
        place: of the run.
        untrained: the fit before its first step.
        seconds: the time between two checkpoints.

    Raises:
        PpvaeError: the directory holds a run of other settings, or a setting cannot be saved.
    """

    def __init__(self, place: Path, untrained: Fit, seconds: float) -> None:
        self.place, self.untrained = place, untrained
        self.checkpoints = Checkpoints(place, seconds)
        self.config = untrained.config()  # refuses what cannot be saved before training
        self.started = (place / CONFIG).is_file()
        if self.started:
            self._refuse_other_settings()

    @property
    def finished(self) -> Fit | None:
        """The trained fit, if the run is finished, else None."""
        if not (self.started and is_finished(self.place)):
            return None
        fit = self.untrained
        encoder = fit.settings.inference_options.get("encoder")
        if encoder is not None:  # that of the strategy shares weights with this copy of the model, if with any
            encoder = getattr(fit.strategy, "encoder", encoder)
        loaded = load(self.place, model=fit.model, encoder=encoder)
        loaded.settings = fit.settings
        return loaded

    def train(self, training: Training) -> Fit:
        """Run the loop from its start or its last checkpoint, and write the trained fit."""
        if self.started:
            self.checkpoints.restore(training)
        else:
            self.checkpoints.write(training)
            write_config(self.place, "fit", self.config)  # last, as a folder without it is not a run yet
        try:
            result = training.run()
        except Exception:
            self.checkpoints.discard()
            raise
        write_outcome(self.place, result.history, result.weights(), result.outcome())
        self.checkpoints.remove()
        result.directory = os.path.abspath(self.place)
        return result

    def _refuse_other_settings(self) -> None:
        before, now = from_earlier(read_config(self.place)), self.config
        for name in (*now, *before):
            one, other = before.get(name), now.get(name)
            if one != other:
                raise PpvaeError(
                    f"{self.place} holds a run with {name} {require.show(one)}, not {require.show(other)}: continue "
                    "with the same arguments, or choose another run directory"
                )
