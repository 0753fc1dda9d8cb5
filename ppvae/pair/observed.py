"""Whether a model gives data the kind of probability that they have."""

from __future__ import annotations

import torch
from pyro import poutine
from torch import Tensor

from ppvae.data.dataset import Data
from ppvae.errors import PpvaeError
from ppvae.pair.factors import observed_sites
from ppvae.pair.model import Model
from ppvae.pair.supports import is_discrete
from ppvae.randomness import seeded


def refuse_density(name: str, model: Model, data: Data, x: Tensor) -> None:
    """Refuse an observed site with a density over real numbers, where the data are discrete.

    A density has no upper bound there, and log p(x) cannot be compared with a log-probability.

    Args:
        name: of the model in the message.
        x: some of the data [B, *event], in the model's precision.
    """
    if not data.discrete:
        return
    with torch.no_grad(), seeded(0, device=x.device):
        sites = observed_sites(poutine.trace(model).get_trace(x))
    for site, message in sites.items():
        if is_discrete(message["fn"]) is False:  # a distribution of the user's may not say
            raise PpvaeError(
                f"{name} gives site {site!r} a density over real numbers, and {data.name} ({data.treatment}) is "
                'discrete: use a likelihood for such values, or treatment="real"'
            )
