"""How a pair is fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ppvae.variational.estimator import Gradient
from ppvae.variational.objective import KL, ObjectiveName

#: settings that are no options of a run but come with its data
OF_DATA = ("data", "treatment", "source", "num_data", "event_shape")
#: of weights and of training
PRECISIONS = ("32-true", "64-true", "bf16-mixed")


@dataclass
class Settings:
    """How a fit was made, in plain values but for an encoder of the user's own.

    `source` holds the arguments of `load_data` that give the data again, or None for data made in Python.
    """

    inference: str
    inference_options: dict[str, Any]
    family: str | None
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


Precision = Literal["32-true", "64-true", "bf16-mixed"]
#: steps between evaluations; rows of validation data take as long as hundreds of steps
STEPS_BETWEEN_EVALUATIONS, STEPS_BETWEEN_EVALUATIONS_OF_ROWS = 200, 650
