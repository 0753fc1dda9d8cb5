"""One training step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ppvae.data.batch import Batch
from ppvae.errors import PpvaeError
from ppvae.pair.densities import Densities
from ppvae.pair.local import Phi
from ppvae.pair.model import Model, overrides
from ppvae.pair.posterior import Posterior
from ppvae.training.compiled import CompiledEstimate
from ppvae.training.settings import Settings
from ppvae.variational.bound import Bound
from ppvae.variational.estimator import Estimator
from ppvae.variational.strategy import Strategy


class TrainingStep(nn.Module):
    """The forward computation of a training step in one module, as Fabric's wrappers need it."""

    def __init__(
        self,
        model: Model,
        strategy: Strategy,
        estimator: Estimator,
        settings: Settings,
        num_data: int,
        compiled: CompiledEstimate | None,
    ) -> None:
        super().__init__()
        self.model, self.strategy, self.estimator, self.compiled = model, strategy, estimator, compiled
        self.num_particles, self.num_data = settings.num_particles, num_data
        self.penalised = overrides(model, "log_penalty")
        # φ of the last batch, and a function that gives its densities; in a list, as setting an attribute is slow
        self.last: list[tuple[Phi, Callable[[], Densities]]] = []

    def forward(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """(loss, mean bound) of a batch; None for the bound where it is minus the loss."""
        phi = self.strategy(Batch(x, index), Bound(self.model, x, self.estimator, self.num_particles))
        if self.compiled is not None and self.compiled.takes(self.estimator, x):
            self.last[:] = [(phi, partial(self._densities, x, phi, torch.get_rng_state()))]
            values = self.compiled(x, phi)
        else:
            values, densities = self.estimator.estimate(self.model, Posterior(self.model, phi), x, self.num_particles)
            self.last[:] = [(phi, lambda: densities)]
        bound = values.mean()
        if self.penalised:
            return -bound - self.model.log_penalty() / self.num_data, bound.detach()
        return -bound, None

    def _densities(self, x: Tensor, phi: Phi, random: Tensor) -> Densities:
        """The densities of a compiled step: the pair runs as it is written, on the same draws (on a CPU)."""
        torch.set_rng_state(random)
        with torch.no_grad():
            return self.estimator.estimate(self.model, Posterior(self.model, phi), x, self.num_particles)[1]


def set_up(fabric: Fabric, step: TrainingStep, groups: list[dict[str, Any]], settings: Settings) -> tuple[Any, Any]:
    """The step and its optimiser, wrapped by Fabric."""
    if not groups:
        if not step.strategy.has_rows:
            kept = next(step.model.parameters(), None) is not None
            why = ": train_model=False keeps θ, and this inference has none of its own" if kept else ""
            raise PpvaeError(f"{type(step.model).__name__} has no parameter to train{why}")
        # the strategy steps its rows, and the optimiser gets a dummy parameter
        groups = [{"params": [nn.Parameter(torch.zeros(()))], "lr": 1.0}]
    return fabric.setup(step, settings.of_optimizer().make(groups))
