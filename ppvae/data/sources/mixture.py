"""A fixed mixture of four Gaussians, whose exact density is known."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from ppvae.catalogue import SOURCES
from ppvae.data.source import GENERATED_SIZES, Raw, generator, in_blocks

_WEIGHTS = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
_MEANS = torch.tensor([[0.0, 0.0], [4.0, 1.0], [-3.0, 3.0], [1.0, -4.0]], dtype=torch.float64)
_TRILS = torch.tensor(
    [[[1.0, 0.0], [0.8, 0.6]], [[0.6, 0.0], [-0.5, 1.2]], [[1.2, 0.0], [0.4, 0.4]], [[0.5, 0.0], [0.0, 0.5]]],
    dtype=torch.float64,
)


@SOURCES.register("mixture", treatment="real")
def mixture(root: Path, seed: int) -> Raw:
    """A fixed mixture of four Gaussians with its exact density. Labels are the components."""
    draws = generator(seed, "source")
    k = torch.multinomial(_WEIGHTS, 1000, replacement=True, generator=draws)
    noise = torch.randn(1000, 2, 1, generator=draws, dtype=torch.float64)
    x = _MEANS[k] + (_TRILS[k] @ noise).squeeze(-1)
    return in_blocks(x.float(), k, GENERATED_SIZES, _mixture_log_prob)


def _mixture_log_prob(x: Tensor) -> Tensor:
    components = MultivariateNormal(_MEANS.to(x), scale_tril=_TRILS.to(x))
    return MixtureSameFamily(Categorical(_WEIGHTS.to(x)), components).log_prob(x)
