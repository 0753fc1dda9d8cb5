"""The log-densities of every site of a model/guide pair, per particle and per datapoint: the one primitive.

Objectives, estimators and checks are arithmetic on these numbers. Shapes: S particles, B datapoints; where
a discrete guide site is enumerated, its K values become rows (R = S·K), otherwise R = S. Nothing here is
scaled by N/B: the caller scales totals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any, cast

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import kl_divergence

import ppvae.distributions.kl  # registers divergences  # noqa: F401
from ppvae import require
from ppvae.entry import locked
from ppvae.errors import PpvaeError
from ppvae.pair.factors import is_factor
from ppvae.pair.sites import GRADS, Draws, Grad, ModelRecorder, Site, draw
from ppvae.pair.summation import sum_out
from ppvae.pair.supports import is_discrete


class Densities:
    """Log-densities [R, B] in nats; rows weigh exp(log_weight), which sums to 1 over rows.

    Each is computed when it is first used, and kept.

    Attributes:
        enumerated: whether rows are values of discrete guide sites rather than draws alone.
        sampled: whether any guide site was drawn at random (otherwise the rows are exact).
        reparameterized: whether the draws carry the gradient to φ.
    """

    def __init__(self, draws: Draws, p: dict[str, Site], summed: int, x: Tensor) -> None:
        self._draws, self._q, self._p, self._summed, self._x = draws, draws.sites, p, summed, x
        self._core = torch.Size((draws.particles, draws.batch))
        self._guide_dims = -draws.next_dim - 3
        self._shape = self._core
        if self._guide_dims:
            self._shape = torch.broadcast_shapes(self._core, *(site.log_prob.shape for site in self._q.values()))
        self._rows = math.prod(self._shape[:-2]) * draws.particles
        drawn = [site for site in self._q.values() if site.weight is None]
        self.enumerated = len(drawn) < len(self._q)
        self.sampled = bool(drawn)
        self.reparameterized = draws.reparameterized
        self._kl: dict[str, Tensor] | None = None

    @cached_property
    def site_log_q(self) -> dict[str, Tensor]:
        """Log-density of each latent under the guide, one term per site."""
        return {name: self._flat(site.log_prob) for name, site in self._q.items()}

    @cached_property
    def site_log_prob(self) -> dict[str, Tensor]:
        """One term per site of the model: log-prior of each latent, log-likelihood of each observed site.

        Sites that depend on a latent that is summed out are one term, under their joined names.
        """
        if self._summed:
            return self._summed_out[2]
        return {name: self._flat(site.log_prob) for name, site in self._p.items()}

    @cached_property
    def log_likelihood(self) -> Tensor:
        """log p(x, z) − log p(z)."""
        if self._summed:
            return self._summed_out[0]
        return self._sum(self._flat(site.log_prob) for site in self._p.values() if site.observed)

    @property
    def likelihood_of_sites(self) -> dict[str, Tensor]:
        """`log_likelihood` of each observed site; of all under their joined names where a latent is summed out."""
        observed = [name for name, site in self._p.items() if site.observed and not is_factor(site.fn)]
        if self._summed or len(observed) == 1:
            return {"+".join(observed): self.log_likelihood}
        return {name: self.site_log_prob[name] for name in observed}

    @cached_property
    def log_prior(self) -> Tensor:
        """log p(z) of the latents that the guide has (others are summed out of it)."""
        return self._summed_out[1] if self._summed else self._sum(self.site_log_prob[name] for name in self._q)

    @cached_property
    def log_q(self) -> Tensor:
        """log q(z | φ)."""
        return self._sum(self.site_log_q.values())

    @cached_property
    def values(self) -> dict[str, Tensor]:
        """The latents of the guide, each [R, B, *event]."""
        out = {}
        for name, site in self._q.items():
            event = site.value.shape[site.value.dim() - site.fn.event_dim :]
            full = site.value.expand(*self._shape, *event)
            out[name] = full.reshape(self._rows, self._draws.batch, *event) if len(self._shape) > 2 else full
        return out

    @property
    def discrete_data(self) -> bool:
        """Whether every observed site has probabilities, so that log p(x) ≤ 0."""
        return all(is_discrete(site.fn) for site in self._p.values() if site.observed)

    @cached_property
    def log_weight(self) -> Tensor:
        """log q(k | φ) − log S for enumerated rows, − log S otherwise."""
        weights = [self._flat(site.weight) for site in self._q.values() if site.weight is not None]
        if weights:
            return cast(Tensor, sum(weights)) - math.log(self._draws.particles)
        return self.log_q.new_tensor(-math.log(self._rows)).expand(self._rows, self._draws.batch)

    @property
    def log_joint(self) -> Tensor:
        """log p(x, z) [R, B]."""
        return self.log_likelihood + self.log_prior

    @property
    def log_ratio(self) -> Tensor:
        """The log importance weight log w = log p(x, z) − log q(z | φ) [R, B]."""
        return self.log_likelihood + self.log_prior - self.log_q

    def mean(self, value: Tensor) -> Tensor:
        """Σ exp(log_weight) · value over rows: [R, B] → [B]."""
        if not self.enumerated:
            return value.mean(0)
        # a value that q never takes has log w = inf, and weighs nothing
        return (self.log_weight.exp() * value.masked_fill(self.log_weight.isneginf(), 0.0)).sum(0)

    def weighed_ratio(self, extra: float = 0.0) -> Tensor:
        """log_weight + extra + log_ratio [R, B]: with no extra, logs of the terms whose sum over rows estimates p(x).

        q cancels in the term of a value of an enumerated site, which is therefore kept where q never takes the value.
        """
        log_weight = self.log_weight + extra if extra else self.log_weight
        terms = self.log_ratio + log_weight
        if not self.enumerated:
            return terms
        drawn = self._sum(self.site_log_q[name] for name, site in self._q.items() if site.weight is None)
        alone = self.log_joint - drawn + (extra - math.log(self._draws.particles))
        return torch.where(log_weight.isneginf(), alone, terms)

    def kl(self, analytic: bool = True) -> Tensor:
        """KL(q ‖ p) [R, B]: the sum of `kl_sites`, or log q − log p of the draws."""
        known = self._analytic_kl() if analytic else {}
        return self._sum(self.kl_sites(analytic).values()) if known else self.log_q - self.log_prior

    def kl_sites(self, analytic: bool = True) -> dict[str, Tensor]:
        """The KL term of each guide site [R, B], analytic where that is exact and registered, Monte Carlo elsewhere.

        The KL term of site z may be integrated analytically when the guide drew everything that z's prior is
        conditioned on before z; in a bottom-up chain only the last layer meets this. Where the model sums out latents
        that the guide does not have, the terms of all guide sites are one.
        """
        if self._summed:
            return {"+".join(self._q): self.log_q - self.log_prior}
        known = self._analytic_kl() if analytic else {}
        return {
            name: known[name] if name in known else self.site_log_q[name] - self.site_log_prob[name] for name in self._q
        }

    @property
    def closed_form(self) -> bool:
        """Whether no KL term is estimated from draws: each is integrated, or its site is enumerated."""
        if not self.sampled or self.enumerated:
            return True
        return self._analytic_kl().keys() == self._q.keys()

    def _analytic_kl(self) -> dict[str, Tensor]:
        if self._kl is None:
            self._kl = {}
            if self._draws.analytic and not self._summed and not self.enumerated:
                for name in _integrable(self._p, self._q):
                    with suppress(NotImplementedError):
                        self._kl[name] = self._flat(kl_divergence(self._q[name].fn, self._p[name].fn))
        return self._kl

    @cached_property
    def _summed_out(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        return sum_out(self._p, self._q, self._summed, self._guide_dims + 2, self._flat)

    def _flat(self, value: Tensor) -> Tensor:
        if value.shape == self._shape == self._core:
            return value
        if value.shape == self._core[1:] and self._shape == self._core:
            return value.expand(self._core)  # the common cases, without the general reshaping
        shape = torch.broadcast_shapes(self._shape, value.shape)
        if len(shape) != self._guide_dims + 2 or shape[-2:] != self._core:
            raise PpvaeError(
                f"a log-density has shape {tuple(value.shape)}, which does not fit [S, B] = {list(self._core)}: "
                "ppvae.check(model, x) finds the site"
            )
        return value.expand(shape).reshape(self._rows, self._draws.batch)

    def _sum(self, terms: Iterable[Tensor]) -> Tensor:
        total = None
        for term in terms:
            total = term if total is None else total + term
        if total is not None:
            return total
        dtype = self._x.dtype if self._x.is_floating_point() else torch.get_default_dtype()
        return torch.zeros((), dtype=dtype, device=self._x.device).expand(self._rows, self._draws.batch)


def score(model: Callable[[Tensor], Any], x: Tensor, draws: Draws) -> Densities:
    """Run the model at the guide's draws; the second half of `log_densities`."""
    recorder = ModelRecorder(draws.batch, draws.raw_values, draws.next_dim)
    with recorder:
        model(x)
    p, q = recorder.sites, draws.sites
    if missing := [name for name in q if name not in p]:
        raise PpvaeError(f"site {missing[0]!r} of the guide does not exist in the model")
    if wrong := [name for name in q if p[name].observed]:
        raise PpvaeError(f"site {wrong[0]!r} is latent in the guide and observed in the model")
    if not any(site.observed for site in p.values()):
        raise PpvaeError("the model observes nothing: score x with pyro.sample(..., obs=x)")
    summed = -recorder.next_dim + draws.next_dim  # number of dims that only the model enumerated
    return Densities(draws, p, summed, x)


@locked
def log_densities(
    model: Callable[[Tensor], Any],
    posterior: Callable[[Tensor], Any],
    x: Tensor,
    num_particles: int = 1,
    values: Mapping[str, Tensor] | None = None,
    grad: Grad = "full",
) -> Densities:
    """Score a pair at draws of its guide, per particle and per datapoint.

    Args:
        model: p(x, z): a `ppvae.Model`, or any Pyro program of x.
        posterior: q(z | φ): a `Posterior`, or any Pyro program of x.
        x: data [B, *event].
        num_particles: S, draws of the guide for each datapoint.
        values: latents {name: [S, B, *event]} to score instead of drawing.
        grad: "full" lets every gradient through; "path" scores log q with φ detached (sticking the landing,
            Roeder et al. 2017; DReG, Tucker et al. 2019); "score" detaches the draws (score function, VIMCO,
            wake-sleep).

    Returns:
        `Densities` of R = S rows, or S·K where a guide site marked infer={"enumerate": "parallel"} has its K
        values enumerated. A discrete latent that only the model has must be marked in the same way, and is summed out.

    Raises:
        PpvaeError: the sites of the two programs do not match, a site is scaled, or a shape does not fit.
    """
    if grad not in GRADS:
        raise PpvaeError(f"grad must be one of {', '.join(GRADS)}, got {grad!r}")
    if values is not None:
        num_particles = _particles_of(values, len(x))
    else:
        num_particles = require.count("num_particles", num_particles)
    draws = draw(posterior, x, num_particles, values, grad)
    for site in draws.sites.values():
        site.log_prob  # noqa: B018 - report an error of the guide before the model runs
    for name, value in (values or {}).items():
        if name not in draws.sites:
            raise PpvaeError(f"values= names {name!r}, which is not a site of the guide")
        event = draws.sites[name].fn.event_shape
        if value.shape[2:] != event:
            raise PpvaeError(f"values[{name!r}] has shape {list(value.shape)}: the guide's event is {list(event)}")
    densities = score(model, x, draws)
    densities.site_log_prob  # noqa: B018 - report an error of the model now
    return densities


def _particles_of(values: Mapping[str, Tensor], batch: int) -> int:
    shapes = {name: tuple(value.shape[:2]) for name, value in values.items()}
    if not shapes or len(set(shapes.values())) != 1 or next(iter(shapes.values()))[1:] != (batch,):
        raise PpvaeError(
            f"values= must hold tensors [S, {batch}, *event] with the same S; their first two sizes are {shapes}"
        )
    return next(iter(shapes.values()))[0]


def _integrable(p: dict[str, Site], q: dict[str, Site]) -> list[str]:
    """The sites whose KL term may be integrated analytically: see `Densities.kl`."""
    before_in_model: dict[str, set[str]] = {}
    seen: set[str] = set()
    for name, site in p.items():
        before_in_model[name] = set(seen)
        if not site.observed:
            seen.add(name)
    out = []
    drawn: set[str] = set()
    for name, site in q.items():
        if before_in_model[name] <= drawn and not isinstance(site.fn, dist.Delta):
            out.append(name)
        drawn.add(name)
    return out
