"""The base class of likelihoods: the last part of a decoder, from features to the distribution of x."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
from torch import Tensor, nn

from ppvae.catalogue import LIKELIHOODS
from ppvae.errors import PpvaeError
from ppvae.options import option_names


class Likelihood(nn.Module):
    """p_θ(x | features): features [..., sizes[0]] → a distribution over x [sizes[-1]]. One file of `likelihoods/` each.

    It is made as `Name(*sizes, activation=…)`, and may have keyword options of its own. Its registration has `values`,
    the kind of values of x, which connects it with the treatments of data: "binary", "counts", "unit", "positive" or
    "real".
    """

    catalogue: ClassVar = LIKELIHOODS

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        """The distribution of x, of event shape [sizes[-1]]."""
        raise PpvaeError(f"{type(self).__name__} has no forward(features): write it")

    def start(self, x: Tensor) -> None:
        """Initialise θ from the training data x [N, *event]."""


def make_likelihood(name: str, *sizes: int, activation: str = "relu", **options: Any) -> Likelihood:
    """A new likelihood by name.

    Args:
        sizes: of its networks, from the features to x.
        activation: between their layers, as in `ppvae.nn.networks.mlp`.
        options: of any likelihood; each likelihood takes those that it has.

    Raises:
        PpvaeError: an unknown name or activation, an option out of range.
    """
    cls = LIKELIHOODS[name]
    own = option_names(cls)
    return cls(*sizes, activation=activation, **{key: value for key, value in options.items() if key in own})
