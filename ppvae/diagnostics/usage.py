"""The information about x in the latents, and the distance between the aggregate posterior and the prior."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from pyro import poutine
from pyro.distributions import Independent, LowRankMultivariateNormal, MultivariateNormal, Normal
from torch import Tensor

from ppvae import require
from ppvae.blocks import DATA_BLOCK, Cell
from ppvae.entry import entry
from ppvae.errors import PpvaeError
from ppvae.pair.densities import Densities, log_densities
from ppvae.pair.drawing import coordinates, evaluating, gather, latents, names
from ppvae.pair.pair import Pair, require_pair
from ppvae.pair.posterior import Posterior
from ppvae.pair.sites import draw, sample_sites
from ppvae.randomness import block_seed, reseed, stream

_STREAM, _STREAM_PRIOR = stream("diagnostics/usage"), stream("diagnostics/usage/prior")
#: a coordinate whose posterior mean varies more over data, in units of its prior variance, is active
ACTIVE = 0.01
#: nats/datum: a latent that carries less has collapsed onto the prior
COLLAPSED = 0.01
#: draws of the prior for its moments
_PRIOR_DRAWS = 5000
#: numbers in memory while each draw is scored under the posterior of every datum
_AT_ONCE = 2_000_000


@entry
def latent_usage(
    pair: Pair, x: Tensor, index: Tensor | None = None, *, num_draws: int = 10, seed: int = 0
) -> xr.Dataset:
    """The information of each latent, and the aggregate posterior q(z) = (1/N) Σₙ q(z | xₙ) against the prior.

    Active units are coordinates with Cov_x(E_q[z | x]) > 0.01 (Burda, Grosse & Salakhutdinov 2016), here in units of
    the prior variance and without the noise of the draws. The KL term of the bound has two parts, E KL(q(z|x)‖p(z)) =
    I_q(x; z) + KL(q(z)‖p(z)) (Hoffman & Johnson 2016; Dieng, Kim, Rush & Blei 2019): information about x, and the
    distance from the aggregate posterior to the prior. The aggregate posterior is that of the N given data. As an
    estimate for the distribution that they come from, mutual_information is too low, at most log N, and marginal_kl
    too high by the same amount. Each draw is scored under all N posteriors, so that time grows as N².

    Args:
        pair: a trained pair.
        x: data [N, *event], at least two.
        index: the positions of x in the training set, to use q as training left it; where None, φ is inferred again.
        num_draws: S, draws of q for each datum, at least two.
        seed: of all draws; the caller's random state is restored.

    Returns:
        Dataset. In nats/datum: kl [datum]; site_kl [site], each latent's share of it; coordinate_kl [coordinate], the
        KL of a coordinate where q and p factorise, that of their marginals where they are Gaussian, else NaN;
        mutual_information and marginal_kl, with standard errors over data, which sum to the mean of kl. Over
        coordinate: activity (Cov_x(E_q[z | x]); NaN for discrete latents), activity_se (of the draws: 0 where the mean
        of q is known), active, aggregate_mean, aggregate_std, prior_mean, prior_std (of 5,000 draws). Attributes
        num_data, num_draws, num_active, seed, and warning: which latents have collapsed onto the prior, and
        whether mutual_information is close to its maximum log N, or "".

    Raises:
        PpvaeError: x or index is invalid as in `log_marginal`, an argument is out of range, or the guide has no
            latents.
    """
    require_pair(pair)
    require.count("num_draws", num_draws, least=2)
    require.count("seed", seed, least=0)
    x = pair.as_input(x)
    if len(x) < 2:
        raise PpvaeError("x holds one datum, and usage is measured over data: give at least two")
    posterior = pair.posterior(x, index, seed=seed)
    seen = measure(pair, posterior, x, num_draws, seed)
    kl = (seen.log_q - seen.log_prior).mean(0)
    with evaluating(pair):
        log_aggregate = _log_aggregate(posterior, x, seen.values)
        prior_mean, prior_std = _prior_moments(pair, x, seen.values, seed)
    information = (seen.log_q - log_aggregate).mean(0)
    beyond = (log_aggregate - seen.log_prior).mean(0)
    z = coordinates(seen.values)
    active = seen.activity > ACTIVE * prior_std**2
    coordinate = names(seen.values)

    def se(per_datum: Tensor) -> float:
        return float(per_datum.std() / math.sqrt(len(per_datum)))

    def per(dim: str, value: Tensor, units: str = "nats/datum") -> tuple[str, np.ndarray, dict[str, str]]:
        return dim, value.cpu().numpy(), {"units": units}

    nats = {"units": "nats/datum"}
    return xr.Dataset(
        {
            "kl": per("datum", kl, "nats"),
            "site_kl": per("site", torch.stack(list(seen.site_kl.values()))),
            "coordinate_kl": per("coordinate", seen.coordinate_kl),
            "mutual_information": ((), float(information.mean()), nats),
            "mutual_information_se": ((), se(information), nats),
            "marginal_kl": ((), float(beyond.mean()), nats),
            "marginal_kl_se": ((), se(beyond), nats),
            "activity": per("coordinate", seen.activity, "those of z, squared"),
            "activity_se": per("coordinate", seen.activity_se, "those of z, squared"),
            "active": per("coordinate", active, ""),
            "aggregate_mean": per("coordinate", z.flatten(0, 1).mean(0), "those of z"),
            "aggregate_std": per("coordinate", z.flatten(0, 1).std(0), "those of z"),
            "prior_mean": per("coordinate", prior_mean, "those of z"),
            "prior_std": per("coordinate", prior_std, "those of z"),
        },
        coords={"datum": np.arange(len(x)), "site": list(seen.site_kl), "coordinate": coordinate},
        attrs={
            "num_data": len(x),
            "num_draws": num_draws,
            "num_active": int(active.sum()),
            "seed": seed,
            "warning": _warning(seen, active, float(information.mean()), len(x)),
        },
    )


@dataclass(frozen=True)
class Moments:
    """Draws of q for all data, with their densities and moments.

    Attributes:
        values: site → [S, N, *event].
        log_q, log_prior: [S, N].
        site_kl: site → mean over draws and data.
        coordinate_kl: [D], NaN where a coordinate has no density of its own.
        activity, activity_se: [D], Cov_x(E_q[z | x]) without the noise of draws; NaN for discrete coordinates.
    """

    values: dict[str, Tensor]
    log_q: Tensor
    log_prior: Tensor
    site_kl: dict[str, Tensor]
    coordinate_kl: Tensor
    activity: Tensor
    activity_se: Tensor


def measure(pair: Pair, posterior: Posterior, x: Tensor, num_draws: int, seed: int) -> Moments:
    def of(cell: Cell) -> list[Tensor | dict[str, Tensor]]:
        index = cell.of(x)
        drawn = {name: cell.cut(value) for name, value in latents(posterior, x, cell.index).items()}
        densities = log_densities(pair.model, posterior.select(index), x[index], values=drawn)
        sites = {name: value.double() for name, value in densities.kl_sites(analytic=False).items()}
        terms = torch.cat([_coordinate_terms(densities, name, drawn[name]) for name in drawn], -1)
        means = torch.cat([_means(densities, name, drawn[name]) for name in drawn], -1)
        return [drawn, densities.log_q.double(), densities.log_prior.double(), sites, terms, means]

    values, log_q, log_prior, sites, terms, means = gather(pair, len(x), num_draws, of, seed, _STREAM)
    noise = (means.var(0) / num_draws).mean(0)
    activity = (means.mean(0).var(0) - noise).clamp_min(0)
    return Moments(
        values,
        log_q,
        log_prior,
        site_kl={name: value.mean() for name, value in sites.items()},
        coordinate_kl=terms.mean((0, 1)),
        activity=activity,
        activity_se=((2 * noise**2 + 4 * noise * activity) / (len(x) - 1)).sqrt(),
    )


def _coordinate_terms(densities: Densities, name: str, value: Tensor) -> Tensor:
    """log q − log p of each coordinate of a site at its draws [S, B, D]; NaN where one has no density of its own."""
    q, p = (_elementwise(side[name].fn) for side in (densities._q, densities._p))
    nan = torch.full((*value.shape[:2], value[0, 0].numel()), math.nan, dtype=torch.float64, device=value.device)
    if q is None or p is None:
        return nan
    terms = q.log_prob(value) - p.log_prob(value)
    # a prior that depends on a latent that is summed out has more dimensions
    return terms.double().reshape(nan.shape) if terms.shape == value.shape else nan


def _elementwise(fn: Any) -> Any:
    """The distribution of each coordinate: independent ones, or the marginals of a Gaussian; None for others."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    if isinstance(fn, MultivariateNormal | LowRankMultivariateNormal):
        return Normal(fn.mean, fn.variance.sqrt())
    return None if fn.event_shape else fn


def _means(densities: Densities, name: str, value: Tensor) -> Tensor:
    """E_q[z | the sites before it] [S, B, D] where it is known, else the draws; NaN for a discrete site."""
    fn = densities._q[name].fn
    if getattr(fn.support, "is_discrete", False):
        return torch.full_like(value, math.nan, dtype=torch.float64).reshape(*value.shape[:2], -1)
    try:
        mean = fn.mean.expand(value.shape)
    except (NotImplementedError, AttributeError):
        mean = value
    mean = torch.where(mean.isfinite(), mean, value)  # a Cauchy has no mean
    return mean.double().reshape(*value.shape[:2], -1)


def _log_aggregate(posterior: Posterior, x: Tensor, values: dict[str, Tensor]) -> Tensor:
    """log (1/N) Σₘ q(z | xₘ) [S, N] at draws z."""
    size = next(iter(values.values())).shape[:2]
    flat = {name: value.flatten(0, 1) for name, value in values.items()}
    numbers = sum(value[0].numel() for value in flat.values())
    at_once = max(1, _AT_ONCE // (len(x) * numbers))
    out = []
    for some in torch.arange(math.prod(size), device=x.device).split(at_once):
        spread = {name: value[some].unsqueeze(1) for name, value in flat.items()}
        spread = {name: value.expand(-1, len(x), *value.shape[2:]) for name, value in spread.items()}
        sites = draw(posterior, x, len(some), spread).sites.values()
        log_q = torch.stack([site.log_prob.expand(len(some), len(x)) for site in sites]).sum(0)
        out.append(log_q.double().logsumexp(1) - math.log(len(x)))
    return torch.cat(out).reshape(size)


def _prior_moments(pair: Pair, x: Tensor, values: dict[str, Tensor], seed: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each coordinate under p(z), [D] each."""
    like = x.new_zeros(DATA_BLOCK, *x.shape[1:])
    parts = []
    for block in range(_PRIOR_DRAWS // DATA_BLOCK):
        reseed(block_seed(seed, _STREAM_PRIOR, block), x.device)
        sites = sample_sites(poutine.trace(poutine.uncondition(pair.model)).get_trace(like))
        parts.append(coordinates({name: sites[name]["value"].unsqueeze(0) for name in values})[0])
    z = torch.cat(parts)
    return z.mean(0), z.std(0)


def _warning(seen: Moments, active: Tensor, information: float, size: int) -> str:
    said, at = [], 0
    for name, value in seen.values.items():
        count = value[0, 0].numel()
        here = slice(at, at + count)
        at += count
        kl, still = seen.coordinate_kl[here], ~active[here] & ~seen.activity[here].isnan()
        empty, idle = int((kl < COLLAPSED).sum()), int(still.sum())
        if empty and count > 1:
            said.append(
                f"{empty} of {count} coordinates of {name} carry less than {COLLAPSED} nats: posterior collapse"
            )
        elif idle and count > 1 and bool(kl.isnan().all()):  # as under a flow
            said.append(f"{idle} of {count} coordinates of {name} are not active: posterior collapse")
        elif name in seen.site_kl and float(seen.site_kl[name]) < COLLAPSED:
            said.append(f"{name} carries less than {COLLAPSED} nats: posterior collapse")
    if information < COLLAPSED and not said:
        said.append(f"z carries less than {COLLAPSED} nats about x: posterior collapse")
    if information > math.log(size) - 0.5:
        most = f"log N = {math.log(size):.1f} nats"
        said.append(f"mutual information is close to {most}, the maximum for {size} data: give more data")
    return "; ".join(said)
