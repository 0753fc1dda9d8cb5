"""An objective and its gradient, compiled."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ppvae.errors import PpvaeError
from ppvae.pair.compiled import Outcome, compiled, precision_of, require_same
from ppvae.pair.local import Phi
from ppvae.pair.model import Model
from ppvae.pair.posterior import Posterior
from ppvae.randomness import forked
from ppvae.variational.estimator import Estimator


class CompiledEstimate:
    """The result of `Estimator.estimate` per datum [B], with its gradient, for batches of one size.

    The first call also runs the pair as it is written, on the same draws, and compares values, gradients and buffers:
    code that only changes a gradient (`torch.no_grad`, a hook, an autograd.Function) is not recorded.

    Raises:
        PpvaeError: the pair cannot be recorded, its record has other gradients, or the machine has no C++ compiler.
    """

    def __init__(self, estimator: Estimator, model: Model, num_particles: int, batch_size: int) -> None:
        for part in (estimator.goal, estimator.rule):
            if part.unrecorded is not None:
                what, why = part.unrecorded
                raise PpvaeError(f"{what} {why}, which cannot be compiled: remove compile or {what}")
        self.estimator, self.model, self.num_particles, self.batch_size = estimator, model, num_particles, batch_size
        self._fast: Callable[[Tensor, Phi], Tensor] | None = None

    def takes(self, estimator: Estimator, x: Tensor) -> bool:
        """Whether it can replace that estimator at that x; a last batch of another size runs as it is written."""
        return estimator == self.estimator and len(x) == self.batch_size

    def __call__(self, x: Tensor, phi: Phi) -> Tensor:
        if self._fast is None:
            self._fast = self._compile(x, phi)
        return self._fast(x, phi)

    def _as_written(self, x: Tensor, phi: Phi) -> Tensor:
        return self.estimator.estimate(self.model, Posterior(self.model, phi), x, self.num_particles)[0]

    def _compile(self, x: Tensor, phi: Phi) -> Callable[[Tensor, Phi], Tensor]:
        leaves = {name: value.detach().requires_grad_(value.requires_grad) for name, value in phi.items()}
        parameters = {**leaves, **dict(self.model.named_parameters())}
        trained = {name: value for name, value in parameters.items() if value.requires_grad}
        buffers = dict(self.model.named_buffers())
        before = {name: buffer.clone() for name, buffer in buffers.items()}

        def restore_buffers() -> None:
            """Running statistics must count a batch once."""
            with torch.no_grad():
                for name, buffer in buffers.items():
                    buffer.copy_(before[name])

        def run(function: Callable[[Tensor, Phi], Tensor]) -> Outcome:
            restore_buffers()
            with forked(x.device):
                total = function(x, leaves).sum()
            gradients = (
                torch.autograd.grad(total, list(trained.values()), allow_unused=True) if total.requires_grad else ()
            )
            values = {f"the buffer {name}": buffer.clone() for name, buffer in buffers.items()}
            return {"the bound": total.detach(), **values}, {
                f"the gradient of {name}": gradient
                for name, gradient in zip(trained, gradients, strict=False)
                if gradient is not None
            }

        expected = run(self._as_written)
        fast, actual = compiled(self.model, self._as_written, x, leaves, run)
        restore_buffers()
        require_same(type(self.model).__name__, expected, actual, precision_of(x))
        return fast
