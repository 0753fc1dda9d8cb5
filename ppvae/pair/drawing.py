"""Independent draws of q for many data, from a seed and the position of each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import infer_discrete
from torch import Tensor

from ppvae.blocks import DATA_BLOCK, Cell, cells
from ppvae.errors import PpvaeError
from ppvae.pair.factors import factors, is_factor
from ppvae.pair.faults import explained
from ppvae.pair.pair import Pair
from ppvae.pair.parts import Parts, parts_of
from ppvae.pair.posterior import Posterior
from ppvae.pair.sites import marked, sample_sites
from ppvae.randomness import block_seed, forked, reseed


@contextmanager
def evaluating(pair: Pair) -> Iterator[None]:
    """A context for draws: without gradients, and the caller's random state is restored."""
    device = pair.start.device
    with torch.no_grad(), forked(device), pyro.validation_enabled(False), explained(type(pair.model).__name__):
        yield


def gather(pair: Pair, size: int, num_draws: int, of: Callable[[Cell], Sequence[Any]], *key: int) -> list[Any]:
    """`of(cell)` for every cell: tensors [draws, data, …], or dicts of them, each joined to [S, N, …]."""
    groups: dict[int, list[Sequence[Any]]] = {}  # first draw → every block of data
    with evaluating(pair):
        for cell in cells(size, num_draws, pair.start.device, *key):
            groups.setdefault(cell.draws.start, []).append(of(cell))
    rows = [[_join(each, 1) for each in zip(*group, strict=True)] for group in groups.values()]
    return [_join(each, 0) for each in zip(*rows, strict=True)]


def _join(parts: Sequence[Any], dim: int) -> Any:
    if isinstance(parts[0], dict):
        return {name: torch.cat([part[name] for part in parts], dim) for name in parts[0]}
    return torch.cat(list(parts), dim)


def guide_values(posterior: Posterior, x: Tensor, index: Tensor) -> dict[str, Tensor]:
    """One draw of z ~ q(z | x) for each of the positions `index` [n] in x: site → [n, *event].

    A discrete site is drawn, whether or not it is marked for enumeration.
    """
    sites = sample_sites(poutine.trace(posterior.select(index)).get_trace(x[index]))
    return {name: site["value"] for name, site in sites.items() if not site["infer"].get("_deterministic")}


def latents(posterior: Posterior, x: Tensor, index: Tensor) -> dict[str, Tensor]:
    """As `guide_values`; raises PpvaeError where q has no latent."""
    values = guide_values(posterior, x, index)
    if not values:
        raise PpvaeError("the guide has no latent, so there is no q to examine")
    return values


def names(values: Mapping[str, Tensor]) -> list[str]:
    """One name per coordinate of the latents {site: [S, B, *event]}."""
    return [each for site, value in values.items() for each in numbered(site, value.shape[2:])]


def numbered(name: str, shape: Sequence[int]) -> list[str]:
    """One name per number of an array of this shape: z, z[3] or z[0,2]."""
    places = itertools.product(*map(range, shape))
    return [f"{name}[{','.join(map(str, place))}]" if place else name for place in places]


def coordinates(values: Mapping[str, Tensor]) -> Tensor:
    """The latents {site: [S, B, *event]} as numbers [S, B, D], in the order of `names`."""
    return torch.cat([value.double().reshape(*value.shape[:2], -1) for value in values.values()], -1)


@dataclass(frozen=True, eq=False)
class Samples:
    """Draws of a model, on its device.

    Attributes:
        x: drawn values of the observed sites, in their places [n, *event]; numbers that no site observes are as given.
        mean: mean of the observation model p(x | z) that x was drawn from [n, *event]; pictures show it. x where the
            distribution has no mean.
        latents: site → values [n, ...].
    """

    x: Tensor
    mean: Tensor
    latents: dict[str, Tensor]


def replicate(pair: Pair, posterior: Posterior, x: Tensor, index: Tensor) -> Samples:
    """One draw of z ~ q(z | x) and of data from p(x | z) for each of the positions `index` [n] in x.

    Random numbers come from the global generator in its present state.
    """
    rows = x[index]
    known = poutine.trace(posterior.select(index)).get_trace(rows)
    program = poutine.replay(pair.model, trace=known)
    sites = sample_sites(poutine.trace(program).get_trace(rows))
    if any(marked(site) and name not in known for name, site in sites.items()):
        known = poutine.trace(infer_discrete(program, first_available_dim=-2)).get_trace(rows)
        program = poutine.replay(pair.model, trace=known)
    return run_unconditioned(pair, program, rows, given=True)


def samples_in_blocks(pair: Pair, size: int, key: tuple[int, int], block: Callable[[Tensor], Samples]) -> Samples:
    """`block(index)` for full blocks of positions, so that draws do not depend on `size`; cut to `size`."""
    device = pair.start.device
    parts = []
    with evaluating(pair):
        for at in range(0, size, DATA_BLOCK):
            reseed(block_seed(*key, at // DATA_BLOCK), device)
            parts.append(block((at + torch.arange(DATA_BLOCK, device=device)).clamp_max(size - 1)))
    return Samples(
        torch.cat([part.x for part in parts])[:size],
        torch.cat([part.mean for part in parts])[:size],
        {name: torch.cat([part.latents[name] for part in parts])[:size] for name in parts[0].latents},
    )


def run_unconditioned(pair: Pair, program: Callable[[Tensor], Any], x: Tensor, *, given: bool = False) -> Samples:
    """Run a program of x [B, *event], and draw its observations in place of x.

    Args:
        given: whether the latents are draws of a posterior and x are data: numbers of x that no site observes are kept
            then, and `pyro.factor` does not matter, as it says nothing of x at given latents.

    Raises:
        PpvaeError: draws of the observed sites are not draws of x.
    """
    parts = parts_of(pair.model, x)
    if not given:
        _refuse_unnormalised(pair, parts, x)
    sites = sample_sites(poutine.trace(poutine.uncondition(program)).get_trace(x))
    sites = {name: site for name, site in sites.items() if not site["infer"].get("_deterministic")}
    drawn, means = {}, {}
    for name in parts.places:
        site = sites.pop(name)
        drawn[name] = site["value"]
        try:
            mean = site["fn"].mean.expand(site["value"].shape).to(x)
        except (NotImplementedError, AttributeError):
            mean = site["value"].to(x)
        # a Cauchy and a Categorical have a NaN mean
        means[name] = torch.where(mean.isnan(), site["value"].to(x), mean)
    latents = {
        name: site["value"]
        for name, site in sites.items()
        if not site["infer"].get("was_observed") and not is_factor(site["fn"])
    }
    return Samples(parts.joined(drawn, x), parts.joined(means, x), latents)


def _refuse_unnormalised(pair: Pair, parts: Parts, x: Tensor) -> None:
    name = type(pair.model).__name__
    if found := factors(pair.model, x):
        raise PpvaeError(
            f"{name} has pyro.factor ({', '.join(found)}), so that runs of it are not draws of its joint density: "
            "write the factor as an observed site, or draw from given data with reconstruct"
        )
    if rest := parts.unobserved:
        raise PpvaeError(
            f"{name} observes {parts.size - len(rest)} of the {parts.size} numbers of x, and has no distribution of "
            f"the others (number {rest[0]} is the first): observe them too, or draw from given data with reconstruct"
        )
