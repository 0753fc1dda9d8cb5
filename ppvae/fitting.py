"""Training: the loop over Lightning Fabric, and the `Fit` that it returns."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import pyro
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ppvae import objectives, require
from ppvae.check import check
from ppvae.data import Data, load_data
from ppvae.densities import Densities, Posterior, log_densities
from ppvae.errors import NonFiniteError, PpvaeError
from ppvae.family import prepare
from ppvae.model import Model, overrides
from ppvae.objectives import KL, Objective
from ppvae.progress import Progress
from ppvae.randomness import block_seed, forked, seeded
from ppvae.registry import check_options, strategy_class
from ppvae.strategy import Batch, Bound, Strategy

Precision = Literal["32-true", "64-true", "bf16-mixed"]
#: an objective by name
OBJECTIVES: dict[str, Any] = {"elbo": objectives.elbo}
#: datapoints scored at once when the validation bound is taken, and draws for each
_VALID_BLOCK, _VALID_PARTICLES = 1000, 8
#: streams of random numbers that must not meet
_STREAM_INFER, _STREAM_VALID = 1, 2


@dataclass
class Settings:
    """How a fit was made; plain values only, so that it can be saved as YAML."""

    inference: str
    inference_options: dict[str, Any]
    objective: str
    kl: KL
    num_particles: int
    batch_size: int
    lr: float
    lr_encoder: float
    max_epochs: int
    max_seconds: float | None
    patience: int | None
    eval_every: int
    precision: str
    seed: int
    data: str
    source: str | None
    treatment: str
    num_data: int
    event_shape: list[int]


@dataclass
class Fit:
    """A trained pair.

    Attributes:
        model: a trained copy of the model, in evaluation mode.
        strategy: the source of φ.
        history: one entry an evaluation: step, epoch, seconds, train_bound, valid_bound (nats/datum).
        stopped: why training ended: "epochs", "patience" or "seconds".
        seconds: of training, validation left out.
    """

    model: Model
    strategy: Strategy
    settings: Settings
    history: list[dict[str, float]] = field(default_factory=list)
    stopped: str = "epochs"
    seconds: float = 0.0

    def objective(self) -> Objective:
        """What was maximised."""
        return make_objective(self.settings.objective, self.settings.kl)

    def posterior(self, x: Tensor, index: Tensor | None = None, *, seed: int = 0) -> Posterior:
        """q(z | φ) for data x [B, *event].

        With `index` [B], φ is what training left at those rows of the training set; without, it is inferred
        afresh, with θ frozen: by the encoder, or by optimising rows of its own until each has converged.
        """
        x = self.as_input(x)
        if index is None:
            bound = Bound(self.model, x, self.objective(), max(self.settings.num_particles, 4))
            return self.strategy.infer(x, bound, seed=block_seed(seed, _STREAM_INFER))
        index = torch.as_tensor(index, device=x.device)
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
        if not bool(x.isfinite().all()):
            raise PpvaeError("x holds NaN or infinite values: drop or impute them first")
        return x.to(self.strategy.start)

    def num_parameters(self) -> int:
        """Trained numbers: θ, and λ or the table of rows."""
        return sum(p.numel() for module in (self.model, self.strategy) for p in module.parameters())

    def save(self, directory: str) -> None:
        """Write the fit into a new directory: weights as safetensors, the rest as YAML; `ppvae.load` reads it."""
        from ppvae.saving import save

        save(self, directory)


def make_objective(name: str, kl: KL) -> Objective:
    """The objective of that name as a function of densities."""
    require.one_of("objective", name, OBJECTIVES)
    require.one_of("kl", kl, ("analytic", "mc"))
    return partial(OBJECTIVES[name], kl=kl)


def fit(
    model: Model,
    data: Data | str,
    inference: str = "amortized",
    objective: str = "elbo",
    *,
    inference_options: Mapping[str, Any] | None = None,
    kl: KL = "analytic",
    num_particles: int = 1,
    batch_size: int = 100,
    lr: float = 1e-3,
    lr_encoder: float | None = None,
    lr_phi: float | None = None,
    max_epochs: int = 200,
    max_seconds: float | None = None,
    patience: int | None = 20,
    eval_every: int | None = None,
    accelerator: str = "auto",
    precision: Precision = "32-true",
    seed: int = 0,
    progress: bool | None = None,
) -> Fit:
    """Train a pair under one inference strategy.

    Args:
        model: the pair; it is copied, and the argument left alone.
        data: a `Data`, or what `load_data` takes.
        inference: name of a strategy: see `list_inference()`.
        objective: what is maximised: "elbo".
        inference_options: of the strategy, such as {"inner_steps": "converge"} or {"encoder": module}.
        kl: "analytic" integrates KL terms in closed form where that is exact; "mc" uses the draws.
        num_particles: S, draws for each datapoint and step.
        batch_size: B.
        lr: Adam's learning rate for θ.
        lr_encoder: for λ and the weights that the guide owns; as θ where None.
        lr_phi: for per-datapoint rows, where None the strategy's default.
        max_epochs: passes over the training data.
        max_seconds: of training, after which it stops.
        patience: evaluations without a better validation bound before training stops; None never stops. The
            best weights are the ones returned.
        eval_every: epochs between evaluations; where None, as many as make 200 steps.
        accelerator, precision: as Lightning Fabric has them.
        seed: of everything random; the caller's random state is left alone.
        progress: show a progress bar; where None, only on a terminal.

    Raises:
        PpvaeError: arguments out of range, a pair that `check` refuses, data that the strategy refuses.
        NonFiniteError: the bound became NaN or infinite: the message names the step and the site.
    """
    if not isinstance(model, Model):
        raise PpvaeError(f"model must be a ppvae.Model, got {type(model).__name__}: create one with ppvae.create(name)")
    data = load_data(data)
    maximise = make_objective(objective, kl)
    require.count("seed", seed, least=0)
    lr_encoder = require.positive("lr", lr) if lr_encoder is None else require.positive("lr_encoder", lr_encoder)
    options = dict(inference_options or {})
    if lr_phi is not None:
        options["lr"] = require.positive("lr_phi", lr_phi)
    strategy_type = strategy_class(inference)
    check_options(inference, strategy_type, options, skip=("self", "model", "x"))
    if data.dynamic and strategy_type.refuses_dynamic:
        raise PpvaeError(
            f"{inference} keeps a row for each fixed datapoint, and dynamic binarisation redraws them at every "
            'visit: load the data with treatment="static"'
        )
    if max_seconds is not None:
        require.positive("max_seconds", max_seconds)
    if patience is not None:
        require.count("patience", patience)
    require.count("num_particles", num_particles)
    require.count("max_epochs", max_epochs)
    batch_size = min(require.count("batch_size", batch_size), len(data.train))
    steps_per_epoch = math.ceil(len(data.train) / batch_size)
    if eval_every is None:
        eval_every = min(max_epochs, math.ceil(200 / steps_per_epoch))
    require.one_of("precision", precision, ("32-true", "64-true", "bf16-mixed"))
    fabric = _fabric(accelerator, precision)

    with forked(fabric.device):
        torch.manual_seed(block_seed(seed))
        model = copy.deepcopy(model).train()
        if overrides(model, "start"):
            model.start(data.train)
        prepare(model, data.train)
        check(model, data.draw(data.train[:7]))
        strategy = strategy_type(model, data.train, **options)
        settings = Settings(
            inference, options, objective, kl, num_particles, batch_size, lr, lr_encoder, max_epochs, max_seconds,
            patience, require.count("eval_every", eval_every), precision, seed, data.name, data.source, data.treatment,
            len(data.train), list(data.event_shape),
        )  # fmt: skip
        return _Training(Fit(model, strategy, settings), data, maximise, fabric, progress).run()


def _fabric(accelerator: str, precision: Precision) -> Fabric:
    try:
        return Fabric(accelerator=accelerator, devices=1, precision=precision)
    except Exception as error:
        raise PpvaeError(f"accelerator {accelerator!r}: {str(error).splitlines()[0]}") from error


class _Step(nn.Module):
    """All of a training step's forward work in one module, as Fabric's wrappers need it."""

    def __init__(self, model: Model, strategy: Strategy, objective: Objective, settings: Settings) -> None:
        super().__init__()
        self.model, self.strategy, self.objective = model, strategy, objective
        self.num_particles, self.num_data = settings.num_particles, settings.num_data
        self.penalised = overrides(model, "log_penalty")
        self.last: tuple[dict[str, Tensor], Densities] | None = None

    def forward(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """(loss, mean bound) of a batch."""
        phi = self.strategy(Batch(x, index), Bound(self.model, x, self.objective, self.num_particles))
        densities = log_densities(self.model, Posterior(self.model, phi), x, self.num_particles)
        if not densities.reparameterized:
            raise PpvaeError(
                "the guide draws a discrete latent, through which no reparameterised gradient flows: mark the "
                'site infer={"enumerate": "parallel"}'
            )
        bound = self.objective(densities).mean()
        self.last = phi, densities
        loss = -bound
        if self.penalised:
            loss = loss - self.model.log_penalty() / self.num_data
        return loss, bound.detach()


class _Training:
    """One run of the loop: its position, its clocks, the best weights so far."""

    def __init__(self, result: Fit, data: Data, objective: Objective, fabric: Fabric, progress: bool | None) -> None:
        self.result, self.settings, self.fabric = result, result.settings, fabric
        self.objective, self.data, self.progress = objective, data, progress
        self.model, self.strategy = result.model, result.strategy
        step = _Step(self.model, self.strategy, objective, self.settings)
        self.step, self.optimizer = _setup(fabric, step, self._groups())
        self.train = data.train.to(self.strategy.start)
        self.valid = data.valid.to(self.strategy.start)
        self.valid_rows: Tensor | None = None
        self.steps = 0
        self.best = -math.inf
        self.best_state: dict[str, Tensor] | None = None
        self.stale = 0

    def run(self) -> Fit:
        every, patience, budget = self.settings.eval_every, self.settings.patience, self.settings.max_seconds
        bounds: list[float] = []
        clock = time.perf_counter()
        with Progress(self.progress, self.settings.max_epochs, f"fit {self.settings.inference}") as bar:
            for epoch in range(1, self.settings.max_epochs + 1):
                order = torch.randperm(len(self.train), device=self.train.device)
                bounds += [self._step(index) for index in order.split(self.settings.batch_size)]
                out_of_time = budget is not None and self.result.seconds + time.perf_counter() - clock > budget
                last = epoch == self.settings.max_epochs or out_of_time
                if epoch % every == 0 or last:
                    self.result.seconds += time.perf_counter() - clock
                    self._evaluate(epoch, sum(bounds) / len(bounds))
                    bounds = []
                    clock = time.perf_counter()
                bar.update(epoch, bound=self.result.history[-1]["valid_bound"] if self.result.history else bounds[-1])
                if out_of_time or (patience is not None and self.stale >= patience):
                    self.result.stopped = "seconds" if out_of_time else "patience"
                    break
        if self.best_state is not None:
            self.step.load_state_dict(self.best_state)
        self.model.eval()
        self.strategy.eval()
        return self.result

    def _step(self, index: Tensor) -> float:
        x = self.data.draw(self.train[index])
        # shapes and supports are validated once; afterwards that would cost a quarter of a step
        with pyro.validation_enabled(self.steps == 0):
            loss, bound = self.step(x, index)
        value = loss.item()
        if not math.isfinite(value):
            raise NonFiniteError(f"the loss became {value} at step {self.steps}: {self._blame()}")
        self.optimizer.zero_grad()
        if loss.requires_grad:
            self.fabric.backward(loss)
            self.optimizer.step()
        self.strategy.after_backward()
        self.steps += 1
        return bound.item()

    def _evaluate(self, epoch: int, train_bound: float) -> None:
        value = self._valid_bound() if len(self.valid) else train_bound
        self.result.history.append(
            {
                "step": self.steps,
                "epoch": epoch,
                "seconds": self.result.seconds,
                "train_bound": train_bound,
                "valid_bound": value,
            }
        )
        if not math.isfinite(value):
            raise NonFiniteError(f"the validation bound became {value} at step {self.steps}: {self._blame()}")
        self.stale += 1
        if value > self.best:
            self.best, self.stale = value, 0
            if self.settings.patience is not None:
                self.best_state = {name: t.detach().clone() for name, t in self.step.state_dict().items()}

    def _valid_bound(self) -> float:
        """The bound of the validation data on fixed noise; rows of their own go on from where they were."""
        self.step.eval()
        seed = self.settings.seed
        total = 0.0
        with torch.no_grad(), pyro.validation_enabled(False):
            bound = Bound(self.model, self.valid, self.objective, max(self.settings.num_particles, 4))
            posterior = self.strategy.infer(
                self.valid, bound, seed=block_seed(seed, _STREAM_VALID), start=self.valid_rows
            )
            if self.strategy.refuses_dynamic:
                self.valid_rows = self.strategy.layout.pack(posterior.phi, len(self.valid))
            positions = torch.arange(len(self.valid), device=self.valid.device)
            for block, index in enumerate(positions.split(_VALID_BLOCK)):
                with seeded(seed, _STREAM_VALID, block, device=self.valid.device):
                    densities = log_densities(self.model, posterior.select(index), self.valid[index], _VALID_PARTICLES)
                total += self.objective(densities).sum().item()
        self.step.train()
        return total / len(self.valid)

    def _groups(self) -> list[dict[str, Any]]:
        owned = self.model.guide_parameters()
        ids = {id(p) for p in owned}
        theta = [p for p in self.model.parameters() if id(p) not in ids]
        groups = [
            {"params": theta, "lr": self.settings.lr},
            {"params": [*self.strategy.dense_parameters(), *owned], "lr": self.settings.lr_encoder},
        ]
        return [group for group in groups if group["params"]]

    def _blame(self) -> str:
        """Which sites, φ and parameters hold the first non-finite numbers."""
        assert self.step.last is not None
        phi, densities = self.step.last
        sites = {
            **densities.site_log_prob,
            **{f"q({name})": term for name, term in densities.site_log_q.items()},
        }
        found = {
            "log-density of site": _broken(sites.items()),
            "φ": _broken(phi.items()),
            "parameter": _broken((*self.model.named_parameters(), *self.strategy.named_parameters())),
        }
        parts = [f"{kind} {', '.join(names[:4])}" for kind, names in found.items() if names]
        where = "; ".join(parts) or "every density is finite, the penalty is not"
        return f"not finite: {where} (lower the learning rates, or bound the scales of the model)"


def _broken(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    return [name for name, value in named if not bool(value.isfinite().all())]


def _setup(fabric: Fabric, step: _Step, groups: list[dict[str, Any]]) -> tuple[Any, Any]:
    if not groups:
        raise PpvaeError(f"{type(step.model).__name__} has no parameter to train")
    return fabric.setup(step, torch.optim.Adam(groups, fused=True))
