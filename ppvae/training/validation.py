"""The validation bound."""

from __future__ import annotations

import math

import pyro
import torch
from torch import Tensor

from ppvae.errors import NonFiniteError
from ppvae.pair.model import overrides
from ppvae.randomness import block_seed, seeded, stream
from ppvae.training.fitted import Fit
from ppvae.training.nonfinite import describe_excess, describe_nonfinite

#: datapoints scored at once for the validation bound, and draws for each
VALID_BLOCK, VALID_PARTICLES = 1000, 8
#: the most validation data that get rows of their own, as fitting more could cost more than training
VALID_ROWS = 1000
#: the stream of random numbers of validation
_STREAM_VALID = stream("training/validation")


class Validation:
    """The bound of the validation data on fixed noise; their rows continue from the last evaluation.

    Args:
        fit: the pair in training.
        valid: validation data [N, *event]; the first 1,000 are used where each needs a row of its own.

    Attributes:
        rows: φ of the data [N, width] at the last evaluation, where each has a row of its own, else None.
    """

    def __init__(self, fit: Fit, valid: Tensor) -> None:
        valid = valid[:VALID_ROWS] if fit.strategy.has_rows else valid
        self.fit, self.x = fit, valid.to(fit.strategy.start)
        self.rows: Tensor | None = None

    def bound(self, step: int) -> float:
        """The mean bound in nats/datum; raises NonFiniteError where it is NaN or infinite."""
        fit, settings = self.fit, self.fit.settings
        estimator, seed, total = fit.estimator(), settings.seed, 0.0
        particles = VALID_PARTICLES if estimator.goal.mean_over_draws else settings.num_particles
        with torch.no_grad(), pyro.validation_enabled(False):
            posterior = fit.strategy.infer(
                self.x, fit.bound(self.x), seed=block_seed(seed, _STREAM_VALID), start=self.rows
            )
            if fit.strategy.has_rows:
                self.rows = fit.strategy.layout.pack(posterior.phi, len(self.x))
            positions = torch.arange(len(self.x), device=self.x.device)
            for block, index in enumerate(positions.split(VALID_BLOCK)):
                with seeded(seed, _STREAM_VALID, block, device=self.x.device):
                    part = posterior.select(index)
                    values, densities = estimator.estimate(fit.model, part, self.x[index], particles)
                total += values.sum().item()
                if not math.isfinite(total):
                    where = describe_nonfinite((fit.model, fit.strategy), part.phi, densities)
                    raise NonFiniteError(f"the validation bound became {total} at step {step}: {where}")
                exact = settings.beta == 1 and overrides(fit.model, "log_prob")
                log_p = fit.model.log_prob(self.x[index]) if exact else None
                if settings.beta <= 1 and (why := describe_excess(values, densities, log_p)):
                    raise NonFiniteError(f"validation at step {step}: {why}")
        return total / len(self.x)
