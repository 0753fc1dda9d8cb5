"""How a pair is fitted: one list of options, for Python, the command line and YAML."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from typing import Any, Literal, Self

from ppvae import catalogue
from ppvae.errors import PpvaeError
from ppvae.options import Options, check_names, option, option_names
from ppvae.training.optimisers import OPTIMISERS, OptimiserOptions, optimiser_options
from ppvae.training.schedule import Schedule, make_schedule
from ppvae.variational.objective_choice import choose_gradient

Precision = Literal["32-true", "64-true", "bf16-mixed"]
#: steps between evaluations; fitting rows of validation data takes as long as hundreds of steps
STEPS_BETWEEN_EVALUATIONS, STEPS_BETWEEN_EVALUATIONS_OF_ROWS = 200, 650
#: arguments of a strategy, and of a family, that are not options
STRATEGY_ARGUMENTS = ("self", "model", "x")
FAMILY_ARGUMENTS = ("self", "sites", "latents", "model", "x")


class InferenceSettings(Options):
    """Where φ comes from, and what q may look like."""

    inference: str = option(
        "amortized",
        "where φ comes from, the name of a strategy: `ppvae list` describes each",
        one_of=lambda: catalogue.STRATEGIES.names(),
    )
    inference_options: dict[str, Any] = option(
        {},
        'options of the strategy, such as {"inner_steps": "converge"} or, in Python, {"encoder": module}; weights that '
        "the module shares with the model stay shared",
    )
    family: str | None = option(
        None,
        "what q may look like, the name of a family, in place of the model's own guide: `ppvae list` describes each; "
        "where None, the guide of the model, else a mean field",
        one_of=lambda: catalogue.FAMILIES.names(),
    )
    family_options: dict[str, Any] = option({}, 'options of the family, such as {"rank": 2}')

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.family is None and self.family_options:
            raise PpvaeError("family_options are options of a family: name it with family")
        check_inference_options(self.inference, self.inference_options)
        if self.family is not None and self.family_options:
            names = catalogue.FAMILIES.options(self.family)
            names = option_names(catalogue.FAMILIES[self.family], ()) if names is None else names
            known = [name for name in names if name not in FAMILY_ARGUMENTS]
            check_names(self.family, known, self.family_options)


class ObjectiveSettings(Options):
    """What is maximised, and how its gradient is estimated."""

    objective: str = option(
        "elbo",
        'what is maximised: "elbo"; "iwae", the importance-weighted bound of num_particles draws; "rws", reweighted '
        "wake-sleep",
        one_of=lambda: catalogue.OBJECTIVES.names(),
    )
    gradient: str | None = option(
        None,
        "how the gradient of the objective is estimated: `ppvae list` says which gradients go with which objective; "
        "where None, stl for an ELBO with KL terms that have no closed form (a chain guide, a mixture, a flow), as "
        "they are noisy under reparam; wake for rws; else reparam",
        one_of=lambda: catalogue.GRADIENTS.names(),
    )
    kl: Literal["analytic", "mc"] | None = option(
        None,
        '"analytic" integrates KL terms in closed form where that is exact; "mc" uses the draws; where None, analytic '
        "if the gradient allows it",
    )
    beta: float = option(1.0, "weight of the KL terms (β-VAE)", at_least=0)
    warmup: int = option(0, "steps over which beta rises linearly from 0", at_least=0)
    free_bits: float = option(
        0.0, "nats of the KL of each latent, averaged over a batch, that cost nothing", at_least=0
    )
    num_particles: int = option(1, "S, draws for each datum and step", at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        choose_gradient(
            self.objective,
            self.gradient,
            self.kl,
            beta=self.beta,
            warmup=self.warmup,
            free_bits=self.free_bits,
            num_particles=self.num_particles,
        )


class OptimiserSettings(Options):
    """How θ, λ and rows are optimised."""

    batch_size: int = option(
        100,
        "B, data in each step; all of them where there are fewer. Under batch normalisation, a last batch of one datum "
        "is part of the batch before it",
        at_least=1,
    )
    lr: float = option(1e-3, "learning rate of θ, also of weights that an encoder or a guide shares with it", above=0)
    lr_encoder: float | None = option(
        None, "learning rate of λ and of the weights that the guide alone has; where None, lr", above=0
    )
    lr_phi: float | None = option(
        None, "learning rate of rows, one for each datum; where None, the strategy's default", above=0
    )
    optimizer: str = option(
        "adam",
        "the optimiser of θ and λ: adam, adamw, rmsprop or sgd; rows have an Adam of their own",
        one_of=OPTIMISERS,
    )
    optimizer_options: dict[str, Any] = option(
        {}, 'options of the optimiser, as `torch.optim` has them, such as {"weight_decay": 0.01} or {"momentum": 0.9}'
    )
    schedule: str | tuple[tuple[int, float], ...] = option(
        "constant",
        "how the learning rates of θ and λ change: constant, step, cosine, warm-up, or a list of [epochs, lr] pairs, "
        "such as [[100, 0.001], [50, 0.0001]], where the last lr stays until training ends and lr_encoder keeps its "
        "ratio to lr",
        one_of=lambda: catalogue.SCHEDULES.names(),
    )
    schedule_options: dict[str, Any] = option(
        {},
        'options of the schedule: {"every": 50, "factor": 0.5} of step, in epochs; {"final": 0.0} of cosine, the part '
        'of lr at the end; {"epochs": 1} or {"steps": 100} of warm-up',
    )
    train_model: bool = option(
        True,
        "False keeps θ as it is, also what an encoder or guide shares with it: the same model under another inference",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.of_optimizer()
        self.of_schedule()

    def of_optimizer(self) -> OptimiserOptions:
        """The optimiser with its options, those at their defaults filled in."""
        return optimiser_options(self.optimizer, self.optimizer_options)

    def of_schedule(self) -> Schedule:
        """The schedule with its options, those at their defaults filled in."""
        return make_schedule(self.schedule, self.schedule_options, self.lr)


class BudgetSettings(Options):
    """How long training lasts."""

    epochs: int = option(200, "the most passes over the training data", at_least=1)
    steps: int | None = option(None, "the most steps", at_least=1)
    seconds: float | None = option(None, "the most seconds of training; validation does not count", above=0)
    patience: int | None = option(
        20,
        "evaluations without a better validation bound before training stops; None never stops. The best weights are "
        "kept",
        at_least=1,
    )
    eval_every: int | None = option(
        None,
        f"epochs between evaluations; where None, as many as make {STEPS_BETWEEN_EVALUATIONS} steps, or "
        f"{STEPS_BETWEEN_EVALUATIONS_OF_ROWS} where validation data need rows of their own",
        at_least=1,
    )


class MachineSettings(Options):
    """The hardware, the precision and compilation."""

    accelerator: str = option("auto", 'as Lightning Fabric names them: "auto", "cpu", "cuda", …')
    precision: Precision = option(
        "32-true",
        "of weights and of training, as Lightning Fabric names them; a model whose weights are all in double precision "
        "already, as where that is torch's default, is trained in 64-true",
    )
    compile: bool = option(
        False,
        "record the operations of the model and fuse them by `torch.compile`, which takes some ten seconds before the "
        "first step and needs a C++ compiler; the numbers are the same up to rounding. It pays for fits of minutes",
    )


class Settings(InferenceSettings, ObjectiveSettings, OptimiserSettings, BudgetSettings, MachineSettings):
    """How a pair is fitted."""

    seed: int = option(0, "of everything random; the caller's random state is restored", at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lr_phi is not None and not takes_lr_phi(self.inference):
            raise PpvaeError(f"lr_phi is the learning rate of rows, and {self.inference} keeps none: remove lr_phi")

    def for_data(self, num_data: int, *, dynamic: bool = False, has_rows: bool = False) -> Self:
        """The settings of a fit to some training data, with a value in place of each None where there is one.

        `gradient`, `kl` and `eval_every` stay as they are: their defaults depend on the model and its encoder.

        Args:
            num_data: the number of training data.
            dynamic: whether they are redrawn at each visit.
            has_rows: whether the strategy keeps a row for each of them.

        Raises:
            PpvaeError: the strategy refuses the data.
        """
        if dynamic and has_rows:
            raise PpvaeError(
                f"{self.inference} keeps a row for each fixed datapoint, and dynamic binarisation redraws them at "
                'every visit: load the data with treatment="static"'
            )
        rows = {} if self.lr_phi is None else {"lr": self.lr_phi}
        return self.replace(
            batch_size=min(self.batch_size, num_data),
            lr_encoder=self.lr if self.lr_encoder is None else self.lr_encoder,
            inference_options={**self.inference_options, **rows},
            lr_phi=None,
        )

    def for_batches(self, steps_per_epoch: int, *, has_rows: bool = False) -> Self:
        """The settings of a fit with that number of batches in an epoch, with the epochs between evaluations."""
        if self.eval_every is not None:
            return self
        between = STEPS_BETWEEN_EVALUATIONS_OF_ROWS if has_rows else STEPS_BETWEEN_EVALUATIONS
        return self.replace(eval_every=min(self.epochs, math.ceil(between / steps_per_epoch)))

    def num_steps(self, steps_per_epoch: int) -> int:
        """The most steps that the budget of epochs and steps allows."""
        by_epochs = self.epochs * steps_per_epoch
        return by_epochs if self.steps is None else min(by_epochs, self.steps)


def takes_lr_phi(inference: str) -> bool:
    """Whether the strategy of that name has a learning rate of its own."""
    return "lr" in _options_of(inference)


def check_inference_options(inference: str, options: Mapping[str, Any]) -> None:
    """Refuse options that the strategy of that name does not have."""
    check_names(inference, _options_of(inference), options)


def _options_of(inference: str) -> list[str]:
    """Names of the options of a strategy; its file is imported only if its source does not list them."""
    names = catalogue.STRATEGIES.options(inference)
    names = option_names(catalogue.STRATEGIES[inference], ()) if names is None else names
    return [name for name in names if name not in STRATEGY_ARGUMENTS]


#: name of a setting in earlier versions → its name now
EARLIER_NAMES = {"max_epochs": "epochs", "max_steps": "steps", "max_seconds": "seconds"}
#: settings that earlier versions did not write, and that had their defaults there
LATER_NAMES = ("lr_phi", "optimizer", "optimizer_options", "schedule", "schedule_options", "compile")


def from_earlier(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.yaml of this version or an earlier one, with the names of this one.

    Args:
        config: of a fit, whose "inference" is a word; or of a comparison, whose "fit" holds settings.
    """
    renamed = {EARLIER_NAMES.get(name, name): value for name, value in config.items()}
    if isinstance(of_fit := renamed.get("fit"), Mapping):
        renamed["fit"] = {EARLIER_NAMES.get(name, name): value for name, value in of_fit.items()}
    if "batch_size" in renamed:  # every fit writes it, a comparison never does
        defaults = Settings.options()
        renamed = {**{name: copy(defaults[name].default) for name in LATER_NAMES}, **renamed}
    return renamed
