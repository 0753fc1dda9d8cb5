"""A trained pair."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ppvae import require
from ppvae.data.dataset import DataFacts
from ppvae.data.loading import DataLike, load_data
from ppvae.data.new_data import read_new
from ppvae.data.preparation import Preparation
from ppvae.data.splits import Observations
from ppvae.entry import entry
from ppvae.errors import PpvaeError
from ppvae.options import plain
from ppvae.pair.local import Layout
from ppvae.pair.model import Model
from ppvae.pair.pair import Pair
from ppvae.pair.posterior import Posterior
from ppvae.pair.sharing import distinct, shared_names
from ppvae.pair.zoo import reference
from ppvae.randomness import block_seed, stream
from ppvae.runs.folder import CONFIG_NAMES, write_fit
from ppvae.training.settings import Settings
from ppvae.variational.bound import Bound
from ppvae.variational.estimator import Estimator
from ppvae.variational.strategy import Strategy

#: the stream of random numbers that new data are inferred with
_STREAM_INFER = stream("training/inference")
#: draws, at least, of each row of new data while it is optimised: less noise, fewer steps
INFER_PARTICLES = 4


@dataclass
class Fit(Pair):
    """A trained pair.

    Attributes:
        model: a trained copy of the model, in evaluation mode.
        strategy: the source of φ.
        settings: how it was trained, with a value in place of each None where one was chosen.
        data: what it was trained on.
        history: one entry per evaluation: step, epoch, seconds, train_bound, valid_bound (nats/datum; of at most
            1,000 validation data where each needs a row of its own).
        stopped: why training ended: "epochs", "steps", "seconds" or "patience".
        seconds: of training, without validation.
        init: the folder of the fit that this one started from, "a fit in Python", or None.
        directory: absolute path of the folder of the fit, or None.
        made_in: the default precision of the session that made the model, in which `load` makes it again.
    """

    model: Model
    strategy: Strategy
    settings: Settings
    data: DataFacts
    init: str | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    stopped: str = "epochs"
    seconds: float = 0.0
    directory: str | None = None
    made_in: torch.dtype = torch.float32

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one datum."""
        return torch.Size(self.data.event_shape)

    @property
    def layout(self) -> Layout:
        """How a flat row is read as φ."""
        return self.strategy.layout

    @property
    def start(self) -> Tensor:
        """The declared φ as one row [width], in the precision and on the device of the fit."""
        return self.strategy.start

    @property
    def about(self) -> Mapping[str, str]:
        """Inference, data and treatment of the fit."""
        return {"inference": self.settings.inference, "data": self.data.name, "treatment": self.data.treatment}

    def estimator(self) -> Estimator:
        """The objective, with beta at its end value, and the estimator of its gradient."""
        settings = self.settings
        return Estimator(settings.objective, settings.gradient, settings.kl, settings.beta)

    def bound(self, x: Tensor) -> Bound:
        """The objective at data x, with enough draws to optimise φ of each datum."""
        estimator, particles = self.estimator().plain(), self.settings.num_particles
        if estimator.goal.mean_over_draws:  # other objectives depend on the number of draws
            particles = max(particles, INFER_PARTICLES)
        return Bound(self.model, x, estimator, particles)

    @entry
    def read(
        self,
        data: DataLike,
        *,
        split: str | None = None,
        root: str | os.PathLike[str] | None = None,
        labels: str | int | None = None,
    ) -> Observations:
        """Data prepared as the training data were: by their means and scales, columns matched by name. `.x` has them.

        Args:
            data: as `load_data` has it. A file or torch data set without splits stays whole, whatever its size.
            split: the part of data that have splits; where None, test.
            root, labels: as `load_data` has them.

        Raises:
            PpvaeError: the data cannot be read, or are not of the kind of the training data.
        """
        return read_new(data, self.preparation, split=split, root=root, labels=labels)

    @property
    def preparation(self) -> Preparation:
        """How untreated values become data of this fit; of a fit of an earlier version, learned again from its data."""
        facts = self.data
        if facts.preparation is not None:
            return facts.preparation
        if facts.source is not None:
            return load_data(**facts.source).prepared
        if facts.treatment == "standardised":
            raise PpvaeError("an earlier version saved this fit without the means and scales of its data: fit it again")
        return Preparation(facts.treatment)

    @entry
    def posterior(self, x: Tensor, index: Tensor | None = None, *, seed: int = 0) -> Posterior:
        """q(z | φ) for data x [B, *event].

        With `index` [B], φ is that of those rows of the training set, as training left it. Without, it is inferred
        again with θ frozen: by the encoder, or by optimising new rows until each has converged.
        """
        x = self.as_input(x)
        if index is None:
            bound = self.bound(x)
            with pyro.validation_enabled(False):  # validation costs a fifth and has been done in training
                return self.strategy.infer(x, bound, seed=block_seed(seed, _STREAM_INFER))
        try:
            index = torch.as_tensor(index, device=x.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise PpvaeError(f"index must hold {len(x)} whole numbers, got {require.show(index)}") from error
        if index.shape != (len(x),) or index.is_floating_point() or index.dtype == torch.bool:
            raise PpvaeError(
                f"index must hold {len(x)} whole numbers, one per datapoint, got shape {tuple(index.shape)}"
            )
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < self.data.num_data:
            raise PpvaeError(f"index must lie in 0 … {self.data.num_data - 1}, the rows of the training set")
        with torch.no_grad():
            return Posterior(self.model, self.strategy.lookup(index))

    def num_parameters(self) -> int:
        """Trained numbers: θ, and λ or the table of rows; what an encoder shares with the model counts once."""
        return sum(p.numel() for p in distinct([*self.model.parameters(), *self.strategy.parameters()]))

    def config(self) -> dict[str, Any]:
        """The options that repeat the run, named as on the command line; data made in Python are null.

        Raises:
            PpvaeError: the model or the strategy has an option that is not a plain value.
        """
        options = dict(self.settings.inference_options)
        encoder = options.pop("encoder", None)
        settings = self.settings.replace(inference_options=options).plain()
        config = {
            "name": reference(type(self.model)),
            "data": None,
            **{CONFIG_NAMES.get(name, name): value for name, value in (self.data.source or {}).items()},
            "inference": settings["inference"],
            "model": plain(self.model.options, "model option"),
            "inference_options": settings["inference_options"],
            **{name: value for name, value in settings.items() if name not in ("inference", "inference_options")},
            "init": self.init,
        }
        shared = shared_names(self.strategy, self.model)
        return config | ({} if encoder is None else {"own_encoder": shared or True})

    def weights(self) -> dict[str, Tensor]:
        """θ, and the encoder or the rows, by name."""
        return nn.ModuleDict({"model": self.model, "strategy": self.strategy}).state_dict()

    def outcome(self) -> dict[str, Any]:
        """The data of the fit and how training ended, in plain values."""
        return {
            "data": self.data.name,
            "treatment": self.data.treatment,
            "num_data": self.data.num_data,
            "event_shape": list(self.data.event_shape),
            "preparation": None if self.data.preparation is None else self.data.preparation.plain(),
            "made_in": None if self.made_in == torch.float32 else str(self.made_in).removeprefix("torch."),
            "stopped": self.stopped,
            "seconds": self.seconds,
        }

    @entry
    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write the fit into a new directory: weights as safetensors, the rest as YAML; `ppvae.load` reads it.

        Raises:
            PpvaeError: the directory is not empty, or the model has an option that is not a plain value.
        """
        write_fit(directory, self.config(), self.history, self.weights(), self.outcome())
