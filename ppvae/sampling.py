"""Data drawn from a trained model, and reconstructions of given ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import infer_discrete
from torch import Tensor

from ppvae import require
from ppvae.check import one_line
from ppvae.errors import PpvaeError
from ppvae.evidence.method import DATA_BLOCK
from ppvae.fitted import Fit, require_fit
from ppvae.posterior import Posterior
from ppvae.randomness import block_seed, forked, reseed
from ppvae.sites import marked, sample_sites

_STREAM_SAMPLE, _STREAM_RECONSTRUCT = 4, 5


@dataclass(frozen=True, eq=False)
class Samples:
    """Draws of a model, on its device.

    Attributes:
        x: drawn values of the observed site [n, *event].
        mean: mean of the observation model p(x | z) they came from [n, *event], which is what pictures show; x where
            the distribution has no mean.
        latents: site → values [n, ...].
    """

    x: Tensor
    mean: Tensor
    latents: dict[str, Tensor]


def sample(fit: Fit, num_samples: int = 64, *, seed: int = 0) -> Samples:
    """Draw data from p(z) p(x | z).

    Args:
        fit: a trained pair.
        num_samples: n. The first of more samples are the samples of fewer.
        seed: of the draws; the caller's random state is left alone.

    Raises:
        PpvaeError: arguments out of range, a model that does not observe exactly one site, or one whose observed site
            is not of the data's size.
    """
    require_fit(fit)
    require.count("num_samples", num_samples)
    require.count("seed", seed, least=0)
    # a model may look at the length and the device of x, and no further
    x = fit.strategy.start.new_zeros(DATA_BLOCK, *fit.settings.event_shape)
    return _in_blocks(fit, num_samples, (seed, _STREAM_SAMPLE), lambda index: _run(fit, fit.model, x))


def reconstruct(fit: Fit, x: Tensor, index: Tensor | None = None, *, seed: int = 0) -> Samples:
    """Draw z from q(z | x), one for each datum, and data from p(x | z).

    A discrete latent that the model sums out by itself is drawn from its exact conditional p(k | x, z).

    Args:
        fit: a trained pair.
        x: data [N, *event].
        index: the positions of x in the training set, where q is to be what training left there; without, φ is inferred
            afresh.
        seed: of the draws, which depend on it and on the position of a datum in x; the caller's random state is left
            alone.

    Raises:
        PpvaeError: as `sample`, and x or index as `log_marginal` refuses them.
    """
    require_fit(fit)
    require.count("seed", seed, least=0)
    x = fit.as_input(x)
    posterior = fit.posterior(x, index, seed=seed)
    return _in_blocks(fit, len(x), (seed, _STREAM_RECONSTRUCT), lambda index: replicate(fit, posterior, x, index))


def replicate(fit: Fit, posterior: Posterior, x: Tensor, index: Tensor) -> Samples:
    """One draw of z ~ q(z | x) and of data from p(x | z) for each of the positions `index` [n] in x, from the global
    generator as it stands."""
    rows = x[index]
    known = poutine.trace(posterior.select(index)).get_trace(rows)
    program = poutine.replay(fit.model, trace=known)
    sites = sample_sites(poutine.trace(program).get_trace(rows))
    if any(marked(site) and name not in known for name, site in sites.items()):
        known = poutine.trace(infer_discrete(program, first_available_dim=-2)).get_trace(rows)
        program = poutine.replay(fit.model, trace=known)
    return _run(fit, program, rows)


def _in_blocks(fit: Fit, size: int, key: tuple[int, int], block: Callable[[Tensor], Samples]) -> Samples:
    """`block(index)` for full blocks of positions, so that draws do not depend on how many follow, cut to `size`."""
    device = fit.strategy.start.device
    parts = []
    with torch.no_grad(), forked(device), pyro.validation_enabled(False), one_line(type(fit.model).__name__):
        for at in range(0, size, DATA_BLOCK):
            reseed(block_seed(*key, at // DATA_BLOCK), device)
            parts.append(block((at + torch.arange(DATA_BLOCK, device=device)).clamp_max(size - 1)))
    return Samples(
        torch.cat([part.x for part in parts])[:size],
        torch.cat([part.mean for part in parts])[:size],
        {name: torch.cat([part.latents[name] for part in parts])[:size] for name in parts[0].latents},
    )


def _run(fit: Fit, program: Callable[[Tensor], Any], x: Tensor) -> Samples:
    """Run a program of x [B, *event] with its observation drawn instead."""
    sites = sample_sites(poutine.trace(poutine.uncondition(program)).get_trace(x))
    sites = {name: site for name, site in sites.items() if not site["infer"].get("_deterministic")}
    observed = [name for name, site in sites.items() if site["infer"].get("was_observed")]
    if len(observed) != 1:
        names = " and ".join(map(repr, observed)) or "nothing"
        raise PpvaeError(f"the model observes {names}: write it with one observed site to draw data from it")
    site = sites.pop(observed[0])
    value = site["value"]
    if value.numel() != x.numel():
        raise PpvaeError(f"site {observed[0]!r} draws {tuple(value.shape)}, which is no batch of {tuple(x.shape)}")
    drawn = value.reshape(x.shape).to(x)
    latents = {name: site["value"] for name, site in sites.items()}
    try:
        mean = site["fn"].mean.expand(value.shape).reshape(x.shape).to(x)
    except (NotImplementedError, AttributeError):
        return Samples(drawn, drawn, latents)
    return Samples(drawn, torch.where(mean.isnan(), drawn, mean), latents)  # as of a Cauchy, or of a Categorical
