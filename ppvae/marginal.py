"""Estimates of log p(x), one a datum, that say how far they can be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyro
import torch
import xarray as xr
from torch import Tensor

from ppvae import require
from ppvae.check import one_line
from ppvae.densities import Densities, score
from ppvae.errors import PpvaeError
from ppvae.fitted import Fit, require_fit
from ppvae.memory import keep_freed_pages
from ppvae.model import overrides
from ppvae.posterior import Posterior
from ppvae.progress import Progress
from ppvae.randomness import block_seed, forked, reseed
from ppvae.reliability import Weights, checkpoints, khat_threshold
from ppvae.sites import draw

Method = Literal["importance", "exact"]
#: random numbers are drawn for fixed blocks of this many datapoints and particles
DATA_BLOCK, PARTICLE_BLOCK = 100, 20
_STREAM = 3


def log_marginal(
    fit: Fit,
    x: Tensor,
    index: Tensor | None = None,
    *,
    num_samples: int = 1000,
    method: Method = "importance",
    seed: int = 0,
    chunk_size: int = DATA_BLOCK * PARTICLE_BLOCK,
    progress: bool | None = False,
) -> xr.Dataset:
    """Estimate log p(x) of each datum.

    Args:
        fit: a trained pair.
        x: data [N, *event].
        index: the positions of x in the training set, where q is to be what training left there; without, φ is inferred
            afresh.
        num_samples: S, exactly the draws that each datum gets.
        method: "importance": log (1/S) Σ p(x, zₛ)/q(zₛ | x), a lower bound in expectation (Burda et al.
            2016), from q as it is. "exact": the model's own `log_prob`.
        seed: of the draws. Results depend on it and on the position of a datum in x, not on chunk_size; the
            caller's random state is left alone.
        chunk_size: particles × datapoints scored at once: bounds memory.
        progress: show a progress bar; None only on a terminal.

    Returns:
        Dataset over dim `datum`: log_marginal, log_marginal_se, elbo, elbo_se (nats), ess, khat, ok, method; attributes
        num_samples, seed, khat_threshold. Over (datum, num_draws) besides: running, the estimate from the first K
        draws for K = 1, 2, 4, … and S. Where q is enumerated the estimate is exact: its error is 0, ess and khat are
        NaN, and there is no running.

    Raises:
        PpvaeError: x of the wrong shape or not finite, arguments out of range, an unknown method, or "exact" for
            a model without one.
    """
    require_fit(fit)
    require.one_of("method", method, ("importance", "exact"))
    require.count("num_samples", num_samples)
    require.count("chunk_size", chunk_size)
    require.count("seed", seed, least=0)
    x = fit.as_input(x)
    if method == "exact":
        return _dataset(_exact(fit, x), method, num_samples, seed)
    posterior = fit.posterior(x, index, seed=seed)
    with torch.no_grad(), forked(x.device), pyro.validation_enabled(False):
        parts = _importance(fit, posterior, x, num_samples, seed, chunk_size, progress)
    return _dataset(parts, method, num_samples, seed)


def _importance(
    fit: Fit,
    posterior: Posterior,
    x: Tensor,
    num_samples: int,
    seed: int,
    chunk_size: int,
    progress: bool | None,
) -> list[dict[str, Tensor]]:
    keep_freed_pages()
    parts = []
    with Progress(progress, len(x), "log p(x)") as bar:
        for block, index in enumerate(torch.arange(len(x), device=x.device).split(DATA_BLOCK)):
            # draws are made for a full block, so that those of a datum do not depend on how many follow it
            full = index[torch.arange(DATA_BLOCK, device=x.device).clamp_max(len(index) - 1)]
            key = (seed, _STREAM, block)
            parts.append(_block(fit, posterior.select(full), x[full], len(index), num_samples, key, chunk_size))
            bar.update(int(index[-1]) + 1)
    return parts


def _block(
    fit: Fit,
    posterior: Posterior,
    x: Tensor,
    batch: int,
    num_samples: int,
    key: tuple[int, ...],
    chunk_size: int,
) -> dict[str, Tensor]:
    """The estimates of the first `batch` datapoints of a block."""
    weights = Weights.empty(num_samples, x.new_empty(batch))
    size = max(1, chunk_size // batch)
    for at in range(0, num_samples, PARTICLE_BLOCK):
        reseed(block_seed(*key, at // PARTICLE_BLOCK), x.device)
        particles = min(PARTICLE_BLOCK, num_samples - at)
        draws = draw(posterior, x, particles)
        for first in range(0, particles, size):
            # x is held against the support of its likelihood once
            with pyro.validation_enabled(at == first == 0), one_line(type(fit.model).__name__):
                densities = score(fit.model, x[:batch], draws.part(batch, slice(first, first + size)))
            if not densities.sampled:
                return _enumerated(densities)
            if not densities.enumerated:
                weights.add(densities.log_ratio, densities.log_ratio)
                continue
            # draw s weighs Σ_k q(k) w(k, zₛ); its bound is Σ_k q(k) log w(k, zₛ)
            drawn = min(size, particles - first)
            log_q = densities.log_weight + math.log(drawn)
            log_w = (log_q + densities.log_ratio).reshape(-1, drawn, batch).logsumexp(0)
            weights.add(log_w, (log_q.exp() * densities.log_ratio).reshape(-1, drawn, batch).sum(0))
    khat = weights.khat()
    return {
        "log_marginal": weights.log_mean(),
        "log_marginal_se": weights.standard_error(),
        "elbo": weights.mean_log(),
        "elbo_se": weights.mean_log_se(),
        "ess": weights.ess(),
        "khat": khat,
        "ok": weights.ok(khat),
        "running": torch.stack(list(weights.running.values()), -1),
    }


def _enumerated(densities: Densities) -> dict[str, Tensor]:
    """The rows are every value there is: one look is exact."""
    return _certain((densities.log_weight + densities.log_ratio).logsumexp(0), densities.mean(densities.log_ratio))


def _certain(log_marginal: Tensor, elbo: Tensor) -> dict[str, Tensor]:
    value = log_marginal.double()
    nan = torch.full_like(value, math.nan)
    certain = torch.ones_like(value, dtype=torch.bool)
    zero = torch.zeros_like(value)
    return {
        "log_marginal": value,
        "log_marginal_se": zero,
        "elbo": elbo.double(),
        "elbo_se": zero + 0 * elbo,
        "ess": nan,
        "khat": nan,
        "ok": certain,
    }


def _exact(fit: Fit, x: Tensor) -> list[dict[str, Tensor]]:
    model = fit.model
    if not overrides(model, "log_prob"):
        raise PpvaeError(f'{type(model).__name__} has no exact log_prob(x): use method="importance"')
    with torch.no_grad():
        value = model.log_prob(x)
    return [_certain(value, torch.full_like(value, math.nan))]


_UNITS = {
    "log_marginal": "nats/datum",
    "log_marginal_se": "nats/datum",
    "elbo": "nats/datum",
    "elbo_se": "nats/datum",
    "ess": "draws",
    "khat": "",
    "ok": "",
}


def _dataset(parts: list[dict[str, Tensor]], method: str, num_samples: int, seed: int) -> xr.Dataset:
    columns: dict[str, tuple] = {
        name: ("datum", torch.cat([part[name] for part in parts]).cpu().numpy(), {"units": units})
        for name, units in _UNITS.items()
    }
    size = len(columns["ok"][1])
    coords = {"datum": np.arange(size)}
    if "running" in parts[0]:
        running = torch.cat([part["running"] for part in parts]).cpu().numpy()
        columns["running"] = (("datum", "num_draws"), running, {"units": "nats/datum"})
        coords["num_draws"] = np.array(checkpoints(num_samples))
    columns["method"] = ("datum", np.full(size, method), {"units": ""})
    attributes = {"num_samples": num_samples, "seed": seed, "khat_threshold": khat_threshold(num_samples)}
    return xr.Dataset(columns, coords=coords, attrs=attributes)


@dataclass(frozen=True)
class Summary:
    """An estimate averaged over data, in nats/datum.

    Attributes:
        mean: over data.
        mc_se: its sampling error given the data; NaN where unknown.
        data_se: the spread over data divided by √N: how well this many data pin down the expectation.
    """

    mean: float
    mc_se: float
    data_se: float


def summarise(estimates: xr.Dataset, name: str = "log_marginal") -> Summary:
    """Mean over data with its sampling error and the data's own spread kept apart; name is log_marginal or elbo."""
    require.one_of("estimate", name, ("log_marginal", "elbo"))
    values = estimates[name].values
    se = estimates[f"{name}_se"].values
    n = len(values)
    spread = float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return Summary(float(values.mean()), float(np.sqrt((se**2).sum()) / n), spread)
