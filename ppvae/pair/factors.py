"""The factors of a model, terms of its joint that belong to no distribution, and the observed sites beside them."""

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


def observed_sites(trace: Any) -> dict[str, Any]:
    """The observed sites of a Pyro trace that have a distribution: not those of pyro.factor and pyro.deterministic."""
    return {
        name: site
        for name, site in sample_sites(trace).items()
        if site["is_observed"] and not site["infer"].get("_deterministic") and not is_factor(site["fn"])
    }


def factors(model: Model, x: Tensor) -> list[str]:
    """Names of the sites that `pyro.factor` made, for data x [B, *event]; only its shape matters."""
    with torch.no_grad(), seeded(0, device=x.device), pyro.validation_enabled(False):
        sites = sample_sites(poutine.trace(model.model).get_trace(x[:2]))
    return [name for name, site in sites.items() if is_factor(site["fn"])]
