"""The training loop, over Lightning Fabric."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pyro
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ppvae.data.dataset import Data
from ppvae.errors import NonFiniteError
from ppvae.memory import keep_freed_pages
from ppvae.pair.densities import Densities
from ppvae.pair.local import Phi
from ppvae.progress import Progress
from ppvae.randomness import block_seed, seeded
from ppvae.training.compiled import CompiledEstimate
from ppvae.training.fitted import Fit
from ppvae.training.interruptions import Interruptions
from ppvae.training.nonfinite import nonfinite_names
from ppvae.training.step import TrainingStep, set_up
from ppvae.training.validation import STREAM_VALID, VALID_BLOCK, VALID_PARTICLES, VALID_ROWS
from ppvae.variational.estimator import Estimator

#: called as keep(training, interrupted) when a step is done
AfterStep = Callable[["Training", bool], None]
#: attributes of `Training` that say how far it got
_POSITION = ("epoch", "steps", "order", "batches", "bounds", "best", "best_state", "stale", "stopped", "valid_rows")


class Training:
    """One run of the loop: its position, its clocks, the best weights so far.

    Args:
        result: the pair as it starts; trained in place.
        keep: called after every step and every epoch, with whether Ctrl-C has arrived; where None, Ctrl-C ends
            the run at once.
    """

    def __init__(self, result: Fit, data: Data, fabric: Fabric, progress: bool | None, keep: AfterStep | None) -> None:
        self.result, self.settings, self.fabric = result, result.settings, fabric
        self.data, self.progress, self.keep = data, progress, keep
        self.model, self.strategy = result.model, result.strategy
        self.estimator = result.estimator()
        compiled = None
        if self.settings.compile:  # what warm-up ends at; until then steps run as they are written
            batch_size = min(self.settings.batch_size, len(data.train))
            estimator = self._estimator_now(self.settings.warmup)
            compiled = CompiledEstimate(estimator, self.model, self.settings.num_particles, batch_size)
        step = TrainingStep(self.model, self.strategy, self._estimator_now(0), self.settings, compiled)
        self.inner = step
        self.frozen: list[nn.Parameter] = []  # θ that stays as it is
        groups = self._groups()
        self.trained = [parameter for group in groups for parameter in group["params"]]
        self.step, self.optimizer = set_up(fabric, step, groups)
        self.train = data.train.to(self.strategy.start)
        valid = data.valid[:VALID_ROWS] if self.strategy.has_rows else data.valid
        self.valid = valid.to(self.strategy.start)
        self.valid_rows: Tensor | None = None
        self.epoch, self.steps = 1, 0
        self.order: Tensor | None = None  # of this epoch's data, and how many batches of it are done
        self.batches = 0
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
            Progress(self.progress, settings.max_epochs, f"fit {settings.inference}") as bar,
        ):
            while self.stopped is None and self.epoch <= settings.max_epochs:
                if self.order is None:
                    self.order = torch.randperm(len(self.train), device=self.train.device)
                batches = self.order.split(settings.batch_size)
                if self.bounds:
                    self.stopped = self._spent()
                while self.stopped is None and self.batches < len(batches):
                    # shapes and supports are validated once; afterwards that would cost a quarter of a step
                    if self.steps == first + 1:
                        unvalidated.enter_context(pyro.validation_enabled(False))
                    self.bounds.append(self._step(batches[self.batches]))
                    self.batches += 1
                    self.stopped = self._spent()
                    if self.keep is not None:
                        self.keep(self, interrupted())
                if self.stopped or self.epoch % settings.eval_every == 0 or self.epoch == settings.max_epochs:
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
        """Of a training step: β on its way up, free bits off the KL terms; both are left out of validation."""
        settings = self.settings
        share = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
        return replace(self.estimator, beta=share * settings.beta, free_bits=settings.free_bits)

    def seconds(self) -> float:
        """Of training so far, validation left out."""
        return self.result.seconds + time.perf_counter() - self.clock

    def _spent(self) -> str | None:
        """ "steps" or "seconds" when that budget is spent."""
        settings = self.settings
        if settings.max_steps is not None and self.steps >= settings.max_steps:
            return "steps"
        if settings.max_seconds is not None and self.seconds() > settings.max_seconds:
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
            "history": self.result.history,
            "seconds": self.seconds(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken; the caller's random state is overwritten."""
        self.step.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if self.train.is_cuda and state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.train.device)
        for name in _POSITION:
            value = state[name]
            setattr(self, name, value.to(self.train.device) if isinstance(value, Tensor) else value)
        self.result.history = state["history"]
        self.result.seconds = state["seconds"]

    def _step(self, index: Tensor) -> float:
        if self.steps < self.settings.warmup:
            self.inner.estimator = self._estimator_now(self.steps)
        loss, bound = self.step(self.data.draw(self.train[index]), index)
        value = loss.item()
        if not math.isfinite(value):
            ((phi, densities),) = self.inner.last
            raise NonFiniteError(f"the loss became {value} at step {self.steps}: {self._blame(phi, densities())}")
        for parameter in self.trained:  # what zero_grad does, without its bookkeeping
            parameter.grad = None
        if loss.requires_grad:
            self.fabric.backward(loss)
            self.optimizer.step()
        self.strategy.step_rows()
        self.steps += 1
        return -value if bound is None else bound.item()

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
        curves = {"train_bound": train_bound, "valid_bound": value, "seconds": self.result.seconds}
        self.fabric.log_dict(curves, step=self.steps)
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
        # the mean of more draws is the same bound with less noise; of the others the number of draws is a part
        particles = VALID_PARTICLES if self.settings.objective == "elbo" else self.settings.num_particles
        with torch.no_grad(), pyro.validation_enabled(False):
            posterior = self.strategy.infer(
                self.valid, self.result.bound(self.valid), seed=block_seed(seed, STREAM_VALID), start=self.valid_rows
            )
            if self.strategy.has_rows:
                self.valid_rows = self.strategy.layout.pack(posterior.phi, len(self.valid))
            positions = torch.arange(len(self.valid), device=self.valid.device)
            for block, index in enumerate(positions.split(VALID_BLOCK)):
                with seeded(seed, STREAM_VALID, block, device=self.valid.device):
                    part = posterior.select(index)
                    x = self.valid[index]
                    values, densities = self.estimator.estimate(self.model, part, x, particles)
                total += values.sum().item()
                if not math.isfinite(total):
                    blame = self._blame(part.phi, densities)
                    raise NonFiniteError(f"the validation bound became {total} at step {self.steps}: {blame}")
        self.step.train()
        return total / len(self.valid)

    def _groups(self) -> list[dict[str, Any]]:
        owned = self.model.guide_parameters()
        ids = {id(p) for p in owned}
        theta = [p for p in self.model.parameters() if id(p) not in ids]
        if not self.settings.train_model:
            self.frozen = [p for p in theta if p.requires_grad]
            for p in self.frozen:
                p.requires_grad_(False)
            theta = []
        groups = [
            {"params": theta, "lr": self.settings.lr},
            {"params": [*self.strategy.dense_parameters(), *owned], "lr": self.settings.lr_encoder},
        ]
        if self.settings.lr == self.settings.lr_encoder:  # one fused step costs less than two
            groups = [{"params": [p for group in groups for p in group["params"]], "lr": self.settings.lr}]
        return [group for group in groups if group["params"]]

    def _blame(self, phi: Phi, densities: Densities) -> str:
        """Which sites, φ and parameters hold the first non-finite numbers."""
        sites = {
            **densities.site_log_prob,
            **{f"q({name})": term for name, term in densities.site_log_q.items()},
        }
        found = {
            "log-density of site": nonfinite_names(sites.items()),
            "φ": nonfinite_names(phi.items()),
            "parameter": nonfinite_names((*self.model.named_parameters(), *self.strategy.named_parameters())),
        }
        parts = [f"{kind} {', '.join(names[:4])}" for kind, names in found.items() if names]
        where = "; ".join(parts) or "every density is finite, the penalty is not"
        return f"not finite: {where} (lower the learning rates, or bound the scales of the model)"
