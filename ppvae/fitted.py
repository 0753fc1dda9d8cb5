"""A trained pair."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from torch import Tensor

from ppvae import require
from ppvae.errors import PpvaeError
from ppvae.families import FamilyName
from ppvae.gradients import Estimator, Gradient
from ppvae.model import Model
from ppvae.objectives import KL, ObjectiveName
from ppvae.posterior import Posterior
from ppvae.randomness import block_seed
from ppvae.strategy import Bound, Strategy

#: the stream of random numbers that new data are inferred with
_STREAM_INFER = 1
#: draws, at least, of each row of new data while it is optimised: less noise, fewer steps
INFER_PARTICLES = 4
#: of weights and of training
PRECISIONS = ("32-true", "64-true", "bf16-mixed")


@dataclass
class Settings:
    """How a fit was made, in plain values but for an encoder of the user's own.

    `source` holds the arguments of `load_data` that give the data again, or None for data made in Python.
    """

    inference: str
    inference_options: dict[str, Any]
    family: FamilyName | None
    family_options: dict[str, Any]
    objective: ObjectiveName
    gradient: Gradient
    kl: KL
    beta: float
    warmup: int
    free_bits: float
    num_particles: int
    batch_size: int
    lr: float
    lr_encoder: float
    max_epochs: int
    max_steps: int | None
    max_seconds: float | None
    patience: int | None
    eval_every: int
    accelerator: str
    precision: str
    train_model: bool
    compile: bool
    init: str | None
    seed: int
    data: str
    treatment: str
    source: dict[str, Any] | None
    num_data: int
    event_shape: list[int]


@dataclass
class Fit:
    """A trained pair.

    Attributes:
        model: a trained copy of the model, in evaluation mode.
        strategy: the source of φ.
        history: one entry an evaluation: step, epoch, seconds, train_bound, valid_bound (nats/datum; of the first
            1,000 validation data where each needs a row of its own).
        stopped: why training ended: "epochs", "steps", "seconds" or "patience".
        seconds: of training, validation left out.
        directory: absolute path of where the fit is kept, or None.
    """

    model: Model
    strategy: Strategy
    settings: Settings
    history: list[dict[str, float]] = field(default_factory=list)
    stopped: str = "epochs"
    seconds: float = 0.0
    directory: str | None = None

    def estimator(self) -> Estimator:
        """What was maximised, schedules at their end, and how its gradient was estimated."""
        settings = self.settings
        return Estimator(settings.objective, settings.gradient, settings.kl, settings.beta)

    def bound(self, x: Tensor) -> Bound:
        """The objective at data x, with draws enough to optimise φ of each datum by."""
        estimator, particles = self.estimator().plain(), self.settings.num_particles
        if estimator.objective == "elbo":  # of the others the number of draws is a part
            particles = max(particles, INFER_PARTICLES)
        return Bound(self.model, x, estimator, particles)

    def posterior(self, x: Tensor, index: Tensor | None = None, *, seed: int = 0) -> Posterior:
        """q(z | φ) for data x [B, *event].

        With `index` [B], φ is what training left at those rows of the training set; without, it is inferred
        afresh, with θ frozen: by the encoder, or by optimising rows of its own until each has converged.
        """
        x = self.as_input(x)
        if index is None:
            bound = self.bound(x)
            with pyro.validation_enabled(False):  # as in training, it costs a fifth and finds nothing new
                return self.strategy.infer(x, bound, seed=block_seed(seed, _STREAM_INFER))
        try:
            index = torch.as_tensor(index, device=x.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise PpvaeError(f"index must hold {len(x)} whole numbers, got {require.show(index)}") from error
        if index.shape != (len(x),) or index.is_floating_point() or index.dtype == torch.bool:
            raise PpvaeError(f"index must hold {len(x)} whole numbers, one a datapoint, got shape {tuple(index.shape)}")
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < self.settings.num_data:
            raise PpvaeError(f"index must lie in 0 … {self.settings.num_data - 1}, the rows of the training set")
        with torch.no_grad():
            return Posterior(self.model, self.strategy.lookup(index))

    def as_input(self, x: Tensor) -> Tensor:
        """x on the model's device, in its precision; raises PpvaeError unless it is [B, *event] and finite."""
        event = tuple(self.settings.event_shape)
        if not isinstance(x, Tensor) or x.dim() < 1 or tuple(x.shape[1:]) != event or not len(x):
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise PpvaeError(f"x must be a tensor [B, {', '.join(map(str, event))}] with B ≥ 1, got {got}")
        if x.is_complex():
            raise PpvaeError(f"x is {x.dtype}: give real numbers")
        if not bool(x.isfinite().all()):
            raise PpvaeError("x holds NaN or infinite values: drop or impute them first")
        return x.to(self.strategy.start)

    def num_parameters(self) -> int:
        """Trained numbers: θ, and λ or the table of rows."""
        return sum(p.numel() for module in (self.model, self.strategy) for p in module.parameters())

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write the fit into a new directory: weights as safetensors, the rest as YAML; `ppvae.load` reads it."""
        from ppvae.saving import save

        save(self, directory)


def require_fit(fit: object) -> None:
    """Refuse what is no fit."""
    if not isinstance(fit, Fit):
        raise PpvaeError(f"fit must be what ppvae.fit or ppvae.load returns, got {type(fit).__name__}")
