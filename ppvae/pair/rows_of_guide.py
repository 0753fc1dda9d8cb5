"""Rows in place of a network: the family of a guide that computes its distributions from x by itself."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions.constraint_registry import transform_to

from ppvae.pair.family import Family
from ppvae.pair.local import Local, Phi
from ppvae.pair.posterior import Posterior
from ppvae.pair.sites import Site, draw
from ppvae.pair.supports import base_of, is_point
from ppvae.randomness import seeded

#: of several parameters that say the same, the one that is optimised
_ONE_OF = (("scale_tril", "covariance_matrix", "precision_matrix"), ("logits", "probs"))


@dataclass(frozen=True)
class FreeSite:
    """A site of a guide whose distribution is given by parameters {name: support}."""

    name: str
    kind: type[Any]
    event_dim: int
    infer: Any
    supports: Mapping[str, constraints.Constraint]


class RowsOfGuide(Family):
    """q of the same distributions as a guide's, with their parameters as φ."""

    def __init__(self, sites: list[FreeSite], phi: dict[str, Local]) -> None:
        self.sites, self.phi = sites, phi

    def __call__(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            for site in self.sites:
                fn = site.kind(**{name: phi[f"{site.name}_{name}"] for name in site.supports})
                pyro.sample(site.name, fn.to_event(site.event_dim - fn.event_dim), infer=site.infer)


def rows_of_guide(posterior: Posterior, x: Tensor) -> Posterior | None:
    """q of a guide without φ, as rows of φ that start where the guide puts them, [N, width].

    None where the guide has no latent, or where its distributions cannot be written as rows: one that depends on
    another latent, a flow, a transform.

    Args:
        x: data [N, *event].
    """
    with torch.no_grad(), seeded(0, device=x.device), pyro.validation_enabled(False):
        sites = draw(posterior, x, 2).sites
        free: list[FreeSite] = []
        phi: Phi = {}
        declared: dict[str, Local] = {}
        for name, site in sites.items():
            made = _free(site, len(x))
            if made is None:
                return None
            free.append(made)
            for parameter, support in made.supports.items():
                value = getattr(base_of(site.fn), parameter).detach().clone()
                phi[f"{name}_{parameter}"] = value
                onto = transform_to(support)
                declared[f"{name}_{parameter}"] = Local(onto(onto.inv(value).mean(0)), support)
    if not free:
        return None
    model = copy.copy(posterior.model)  # shares θ
    model.guide_family, model.phi = RowsOfGuide(free, declared), declared
    return Posterior(model, phi, posterior.converged)


def _free(site: Site, batch: int) -> FreeSite | None:
    """The parameters of a site's distribution, where they are all that it depends on."""
    fn, base = site.fn, base_of(site.fn)
    declared = getattr(base, "arg_constraints", None)
    if is_point(fn) or fn.batch_shape != (batch,) or not isinstance(declared, Mapping) or not declared:
        return None
    names = [name for name in declared if isinstance(getattr(base, name, None), Tensor)]
    for same in _ONE_OF:
        kept = next((name for name in same if name in names), None)
        names = [name for name in names if name == kept or name not in same]
    supports = {name: _with_softplus(declared[name]) for name in names}
    if any(getattr(base, name).shape[:1] != (batch,) or not _maps(supports[name]) for name in names):
        return None
    kind = type(base)
    try:
        kind(**{name: getattr(base, name) for name in names})
    except (TypeError, ValueError):
        return None
    return FreeSite(site.name, kind, fn.event_dim, {} if site.weight is None else {"enumerate": "parallel"}, supports)


def _with_softplus(support: constraints.Constraint) -> constraints.Constraint:
    return constraints.softplus_positive if support is constraints.positive else support


def _maps(support: constraints.Constraint) -> bool:
    """Whether there is a map from ℝⁿ onto the support."""
    try:
        transform_to(support)
    except NotImplementedError:
        return False
    return not support.is_discrete
