"""The training loop, over Lightning Fabric."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from typing import Any

import pyro
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ppvae.data.dataset import Data
from ppvae.errors import NonFiniteError
from ppvae.memory import keep_freed_pages
from ppvae.pair.sharing import distinct
from ppvae.progress import Progress
from ppvae.training.batches import batch_sizes
from ppvae.training.compiled import CompiledEstimate
from ppvae.training.fitted import Fit
from ppvae.training.interruptions import Interruptions
from ppvae.training.nonfinite import describe_excess, describe_nonfinite
from ppvae.training.step import TrainingStep, set_up
from ppvae.training.validation import Validation
from ppvae.variational.estimator import Estimator

#: called as keep(training, interrupted) after a step
AfterStep = Callable[["Training", bool], None]
#: attributes of `Training` that say how far it is
_POSITION = ("epoch", "steps", "order", "batches", "bounds", "best", "best_state", "stale", "stopped")


class Training:
    """One run of the loop: its position, its clocks, the best weights so far.

    Args:
        result: the fit before its first step; it is trained in place.
        keep: called after every step and every epoch, with True if Ctrl-C has arrived; where None,
            Ctrl-C ends the run at once.
    """

    def __init__(self, result: Fit, data: Data, fabric: Fabric, progress: bool | None, keep: AfterStep | None) -> None:
        self.result, self.settings, self.fabric = result, result.settings, fabric
        self.data, self.progress, self.keep = data, progress, keep
        self.model, self.strategy = result.model, result.strategy
        self.estimator = result.estimator()
        pair = nn.ModuleDict({"model": self.model, "strategy": self.strategy})
        self.sizes = batch_sizes(pair, len(data.train), self.settings.batch_size)
        compiled = None
        if self.settings.compile:  # the estimator after warm-up; until then steps run as they are written
            estimator = self._estimator_now(self.settings.warmup)
            compiled = CompiledEstimate(estimator, self.model, self.settings.num_particles, self.sizes[0])
        step = TrainingStep(self.model, self.strategy, self._estimator_now(0), self.settings, len(data.train), compiled)
        self.inner = step
        self.frozen: list[nn.Parameter] = []  # θ that stays as it is
        groups = self._groups()
        self.trained = [parameter for group in groups for parameter in group["params"]]
        self.step, self.optimizer = set_up(fabric, step, groups, self.settings)
        self.schedule, self.rates = self.settings.of_schedule(), [group["lr"] for group in groups]
        self.num_steps = self.settings.num_steps(len(self.sizes))
        self.train = data.train.to(self.strategy.start)
        self.validation = Validation(result, data.valid)
        self.epoch, self.steps = 1, 0
        self.order: Tensor | None = None  # the order of data in this epoch
        self.batches = 0  # the number of batches of this epoch that are done
        self.bounds: list[float] = []  # of the steps since the last evaluation
        self.best = -math.inf
        self.best_state: dict[str, Tensor] | None = None
        self.stale = 0
        self.stopped: str | None = None
        self.clock = time.perf_counter()

    def run(self) -> Fit:
        keep_freed_pages()
        settings, result, first = self.settings, self.result, self.steps
        self.clock = time.perf_counter()
        with (
            pyro.validation_enabled(True),
            ExitStack() as unvalidated,
            Interruptions(self.keep is not None) as interrupted,
            Progress(self.progress, settings.epochs, f"fit {settings.inference}") as bar,
        ):
            while self.stopped is None and self.epoch <= settings.epochs:
                if self.order is None:
                    self.order = torch.randperm(len(self.train), device=self.train.device)
                batches = self.order.split(self.sizes)
                if self.bounds:
                    self.stopped = self._spent()
                while self.stopped is None and self.batches < len(batches):
                    # shapes and supports are validated once, as it costs a quarter of a step
                    if self.steps == first + 1:
                        unvalidated.enter_context(pyro.validation_enabled(False))
                    self.bounds.append(self.take_step(batches[self.batches]))
                    self.batches += 1
                    self.stopped = self._spent()
                    if self.keep is not None:
                        self.keep(self, interrupted())
                if self.stopped or self.epoch % (settings.eval_every or 1) == 0 or self.epoch == settings.epochs:
                    result.seconds = self.seconds()
                    self._evaluate(self.epoch, sum(self.bounds) / len(self.bounds))
                    self.clock = time.perf_counter()
                    self.bounds = []
                    if self.stopped is None and settings.patience is not None and self.stale >= settings.patience:
                        self.stopped = "patience"
                bar.update(self.epoch, bound=result.history[-1]["valid_bound"] if result.history else self.bounds[-1])
                self.epoch, self.order, self.batches = self.epoch + 1, None, 0
                if self.keep is not None:
                    self.keep(self, interrupted())
        for logger in self.fabric.loggers:
            logger.finalize("success")
        result.stopped = self.stopped or "epochs"
        if self.best_state is not None:
            self.step.load_state_dict(self.best_state)
        for p in self.frozen:
            p.requires_grad_(True)
        self.model.eval()
        self.strategy.eval()
        return result

    def _estimator_now(self, step: int) -> Estimator:
        """The estimator of a training step, with β during warm-up and with free bits; validation uses neither."""
        settings = self.settings
        share = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
        return replace(self.estimator, beta=share * settings.beta, free_bits=settings.free_bits)

    def seconds(self) -> float:
        """The seconds of training so far, without validation."""
        return self.result.seconds + time.perf_counter() - self.clock

    def _spent(self) -> str | None:
        """ "steps" or "seconds" when that budget is spent."""
        settings = self.settings
        if settings.steps is not None and self.steps >= settings.steps:
            return "steps"
        if settings.seconds is not None and self.seconds() > settings.seconds:
            return "seconds"
        return None

    def state(self) -> dict[str, Any]:
        """All that the rest of the run depends on, in tensors and plain values."""
        return {
            "weights": self.step.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.train.device) if self.train.is_cuda else None,
            "threads": torch.get_num_threads(),
            **{name: getattr(self, name) for name in _POSITION},
            "valid_rows": self.validation.rows,
            "history": self.result.history,
            "seconds": self.seconds(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned; the caller's random state is overwritten."""
        own = self.step.state_dict()
        for name, value in state["weights"].items():
            if name in own and value.dtype != own[name].dtype:
                raise ValueError(f"{name} is {value.dtype}, not {own[name].dtype}")
        self.step.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if self.train.is_cuda and state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.train.device)
        for name in _POSITION:
            value = state[name]
            setattr(self, name, value.to(self.train.device) if isinstance(value, Tensor) else value)
        rows = state["valid_rows"]
        self.validation.rows = None if rows is None else rows.to(self.train.device)
        self.result.history = state["history"]
        self.result.seconds = state["seconds"]

    def take_step(self, index: Tensor) -> float:
        """One step on the data of these positions [B]; gives the bound per datum before it, in nats."""
        if self.steps < self.settings.warmup:
            self.inner.estimator = self._estimator_now(self.steps)
        try:
            loss, bound = self.step(self.data.draw(self.train[index]), index)
        except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
            raise NonFiniteError(
                f"a covariance is not positive definite in the precision of the fit at step {self.steps}, {error}: "
                'lower the learning rates, use precision="64-true", or bound the scales of the guide'
            ) from error
        value = loss.item()
        if not math.isfinite(value):
            ((phi, densities),) = self.inner.last
            where = describe_nonfinite((self.model, self.strategy), phi, densities())
            raise NonFiniteError(f"the loss became {value} at step {self.steps}: {where}")
        if value < 0 and self._has_limit:
            self._refuse_excess()
        for parameter in self.trained:  # as zero_grad does, without its bookkeeping
            parameter.grad = None
        if loss.requires_grad:
            self.fabric.backward(loss)
            multiplier = self.schedule.multiplier(self.steps, len(self.sizes), self.num_steps)
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=False):
                group["lr"] = multiplier * rate
            self.optimizer.step()
        self.strategy.step_rows()
        self.steps += 1
        return -value if bound is None else bound.item()

    @cached_property
    def _has_limit(self) -> bool:
        """Whether log p(x) ≤ 0, and a bound above it by far is a fault; found once, at the last step."""
        if self.settings.beta > 1:  # which multiplies the noise of log p(z) − log q(z), too
            return False
        ((_, densities),) = self.inner.last
        return densities().discrete_data

    def _refuse_excess(self) -> None:
        """Stop where the bound of discrete data is too high for noise."""
        ((_, densities),) = self.inner.last
        densities = densities()
        with torch.no_grad():
            values = self.inner.estimator.goal.value(densities)
        if why := describe_excess(values, densities):
            raise NonFiniteError(f"step {self.steps}: {why}")

    def _evaluate(self, epoch: int, train_bound: float) -> None:
        value = train_bound
        if len(self.validation.x):
            self.step.eval()
            value = self.validation.bound(self.steps)
            self.step.train()
        self.result.history.append(
            {
                "step": self.steps,
                "epoch": epoch,
                "seconds": self.result.seconds,
                "train_bound": train_bound,
                "valid_bound": value,
            }
        )
        curves = {"train_bound": train_bound, "valid_bound": value, "seconds": self.result.seconds}
        self.fabric.log_dict(curves, step=self.steps)
        self.stale += 1
        if value > self.best:
            self.best, self.stale = value, 0
            if self.settings.patience is not None:
                self.best_state = {name: t.detach().clone() for name, t in self.step.state_dict().items()}

    def _groups(self) -> list[dict[str, Any]]:
        """The weights that each learning rate steps, each weight once: what θ shares with an encoder is θ."""
        owned = self.model.guide_parameters()
        theta = distinct(self.model.parameters(), but=owned)
        rest = distinct([*self.strategy.dense_parameters(), *owned], but=theta)
        if not self.settings.train_model:
            self.frozen = [p for p in theta if p.requires_grad]
            for p in self.frozen:
                p.requires_grad_(False)
            theta = []
        groups = [{"params": theta, "lr": self.settings.lr}, {"params": rest, "lr": self.settings.lr_encoder}]
        if self.settings.lr == self.settings.lr_encoder:  # one fused step costs less than two
            groups = [{"params": [*theta, *rest], "lr": self.settings.lr}]
        return [group for group in groups if group["params"]]
