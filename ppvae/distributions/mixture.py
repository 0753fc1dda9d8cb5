"""A mixture of diagonal Gaussians from which several draws are made at once."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

_NO_SHAPE = torch.Size()


class DiagonalMixture(dist.MixtureOfDiagNormals):
    """Pyro's MixtureOfDiagNormals, which makes several draws at once."""

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Any:
        parts = (self.locs, self.coord_scale, self.component_logits.unsqueeze(-1))
        locs, scales, logits = (part.expand(*batch_shape, *part.shape[-2:]) for part in parts)
        return DiagonalMixture(locs, scales, logits.squeeze(-1))

    def rsample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        if len(sample_shape):
            return self.expand(torch.Size((*sample_shape, *self.batch_shape))).rsample()
        return super().rsample()
