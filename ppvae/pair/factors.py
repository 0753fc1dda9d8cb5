"""The factors of a model: terms of its joint that belong to no distribution."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from ppvae.pair.model import Model
from ppvae.pair.sites import sample_sites
from ppvae.pair.supports import base_of
from ppvae.randomness import seeded


def is_factor(fn: Any) -> bool:
    """Whether the distribution of a site is that of `pyro.factor`."""
    return isinstance(base_of(fn), dist.Unit)


def factors(model: Model, x: Tensor) -> list[str]:
    """Names of the sites that `pyro.factor` made, for data x [B, *event]; only its shape matters."""
    with torch.no_grad(), seeded(0, device=x.device), pyro.validation_enabled(False):
        sites = sample_sites(poutine.trace(model.model).get_trace(x[:2]))
    return [name for name, site in sites.items() if is_factor(site["fn"])]
