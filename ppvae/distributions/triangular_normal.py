"""A multivariate Gaussian that scores its own draws by the noise that made them."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

_NO_SHAPE = torch.Size()


class TriangularNormal(dist.MultivariateNormal):
    """z = loc + L ε, where log q(z) = −½|ε|² − Σ log Lᵢᵢ + const at its own last draw z.

    Solving L ε = z − loc for ε instead loses all digits in single precision where L is nearly singular or far smaller
    than loc: log q is then too low without a limit, and a bound too high.

    Args:
        loc: [..., D].
        scale_tril: L, [..., D, D].
    """

    def __init__(self, loc: Tensor, scale_tril: Tensor, *, validate_args: bool | None = None) -> None:
        super().__init__(loc, scale_tril=scale_tril, validate_args=validate_args)
        self.drawn: tuple[Tensor, Tensor] | None = None  # the last draw and its noise
        self.drew = True  # whether this distribution drew it, rather than one of the same numbers with a gradient to φ

    def expand(self, batch_shape: Any, _instance: Any = None) -> TriangularNormal:
        if torch.Size(batch_shape) == self.batch_shape:
            return self  # a plate expands every distribution, and the draw must be found again
        size = self.event_shape[0]
        return TriangularNormal(self.loc.expand(*batch_shape, size), self.scale_tril.expand(*batch_shape, size, size))

    def rsample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        shape = self._extended_shape(sample_shape)
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        value = self.loc + (self.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
        self.drawn, self.drew = (value, noise), True
        return value

    def remind(self, other: TriangularNormal) -> None:
        """Take the draw of another, of the same numbers, as a draw of this one, whose density is differentiated."""
        self.drawn, self.drew = other.drawn, False

    def noise_of(self, value: Tensor) -> Tensor:
        """ε of a value [..., D]."""
        if self.drawn is None or self.drawn[0] is not value:
            return torch.linalg.solve_triangular(self.scale_tril, (value - self.loc).unsqueeze(-1), upper=False)[..., 0]
        noise = self.drawn[1]
        if self.drew:
            return noise  # its derivative is 0, as the value was made of it
        gap = value - self.loc  # of which only the derivative is used
        change = (gap - gap.detach()).unsqueeze(-1)
        return noise + torch.linalg.solve_triangular(self.scale_tril, change, upper=False)[..., 0]

    def log_prob(self, value: Tensor) -> Tensor:
        if self.drawn is None or self.drawn[0] is not value:
            return super().log_prob(value)
        log_det = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        size = self.loc.shape[-1]
        return -0.5 * self.noise_of(value).square().sum(-1) - log_det - 0.5 * size * math.log(2 * math.pi)
