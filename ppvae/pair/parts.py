"""Which numbers of a datum each observed site of a model scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ppvae.errors import PpvaeError
from ppvae.pair.factors import observed_sites
from ppvae.pair.model import Model
from ppvae.randomness import seeded


@dataclass(frozen=True, eq=False)
class Parts:
    """Where the values of observed sites stand in x.

    Attributes:
        places: site → the positions in the flat datum that it scores, in its own event shape.
        size: numbers in a datum.
    """

    places: Mapping[str, Tensor]
    size: int

    @property
    def unobserved(self) -> list[int]:
        """The positions that no site scores."""
        seen = torch.cat([place.flatten() for place in self.places.values()]).tolist()
        return sorted({*range(self.size)} - {*seen})

    def split(self, x: Tensor, batch_dims: int) -> dict[str, Tensor]:
        """x [*batch, *event] as site → [*batch, *event of the site]."""
        flat = x.flatten(batch_dims)
        return {name: flat[..., place.to(x.device)] for name, place in self.places.items()}

    def joined(self, values: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """x [B, *event] with the values {site: [B, *event of the site]} in their places."""
        flat = x.flatten(1).clone()
        for name, place in self.places.items():
            flat[:, place.flatten().to(x.device)] = values[name].reshape(len(x), -1).to(flat)
        return flat.reshape(x.shape)


_known: WeakKeyDictionary[Model, Parts] = WeakKeyDictionary()


def parts_of(model: Model, x: Tensor) -> Parts:
    """The parts of data of the shape and precision of x [B, *event], found by a run of the model at numbered values.

    Raises:
        PpvaeError: a site observes something else than numbers of x, or two sites observe the same.
    """
    if model not in _known or _known[model].size != x[0].numel():
        _known[model] = _find(model, x)
    return _known[model]


def _find(model: Model, x: Tensor) -> Parts:
    size = x[0].numel()
    # each number says where it stands; two data, as a number that does not depend on x would look like a place
    numbered = torch.arange(2 * size, dtype=torch.float64, device=x.device).reshape(2, *x.shape[1:])
    name = type(model).__name__
    try:
        with torch.no_grad(), seeded(0, device=x.device), pyro.validation_enabled(False):
            sites = observed_sites(poutine.trace(model).get_trace(numbered.to(x)))
    except Exception:
        # a program that cannot run at such values: a lone site that has all numbers observes x
        with torch.no_grad(), seeded(0, device=x.device), pyro.validation_enabled(False):
            sites = observed_sites(poutine.trace(model).get_trace(x[:2]))
        values = [site["value"] for site in sites.values()]
        if len(values) != 1 or values[0][:1].numel() != size:
            raise PpvaeError(
                f"{name} observes {_names(sites)} and does not run at other values of x, so that it is unknown which "
                "numbers of x they score: write the model with one observed site"
            ) from None
        return Parts({next(iter(sites)): torch.arange(size).reshape(values[0].shape[1:])}, size)
    if not sites:
        raise PpvaeError(f"{name} observes nothing: score x with pyro.sample(..., obs=x)")
    places: dict[str, Tensor] = {}
    for site, message in sites.items():
        first, second = message["value"][:2].double()
        place = first.round().long()
        if not torch.equal(place.double(), first) or not torch.equal(second - first, torch.full_like(first, size)):
            raise PpvaeError(
                f"{name} observes something else than numbers of x at site {site!r}, such as a function of them, so "
                "that its draws are no draws of x: prepare x before, and observe it as it is"
            )
        places[site] = place.cpu()
    every = torch.cat([place.flatten() for place in places.values()])
    if len(every.unique()) < len(every):
        raise PpvaeError(f"{name} observes the same number of x at several of its sites {_names(sites)}")
    return Parts(places, size)


def _names(sites: Mapping[str, Any]) -> str:
    return " and ".join(map(repr, sites)) or "nothing"
