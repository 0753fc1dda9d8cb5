"""Naive Monte Carlo: latents from the prior, or uniform, whatever x is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from ppvae.densities import Densities
from ppvae.errors import PpvaeError
from ppvae.evidence.method import Guide, Question, Weighted, method
from ppvae.evidence.proposal import Proposal
from ppvae.model import Model
from ppvae.randomness import seeded
from ppvae.sites import Draws, draw, marked, sample_sites
from ppvae.story import tell


@method("uniform", applies=("continuous", "mixed", "enumerated", "summed", "drawn"))
def uniform(asked: Question) -> Proposal:
    """Naive Monte Carlo with z uniform over a bounded support: log (1/S) Σ p(x, zₛ)/u(zₛ).

    For latents in an interval, on a simplex or of a few values, one and all; those that a model would sum out are
    drawn. What little of the support has weight is rarely met: the first attempt of a lecture, and not the last.
    """
    story = Story(asked.model, asked.x, _uniform)
    with torch.no_grad(), seeded(0, device=asked.x.device):
        draw(story, asked.x[:1])  # an unbounded support is refused before anything is computed
    return Proposal(asked.model, story)


@method("prior", applies=("continuous", "mixed", "enumerated", "summed", "drawn"))
def prior(asked: Question) -> Prior:
    """Naive Monte Carlo from the prior: the mean likelihood of its draws.

    log (1/S) Σ p(x | zₛ). Weights are bounded by the largest p(x | z), and hardly ever near it where z says much about
    x. Discrete latents that the model marks are summed out.
    """
    return Prior(asked.model, asked.x)


Replace = Callable[[str, Any, Tensor], Any]


class Story:
    """What a model's program does until its last latent is drawn, as a guide: no observation, nothing marked.

    Args:
        model: p.
        x: some data [B, *event].
        replace: (name of a latent, its distribution, x) → the distribution to draw it from instead.

    Attributes:
        latents: name → the site of a Pyro trace, in the model's order.
    """

    def __init__(self, model: Model, x: Tensor, replace: Replace | None = None) -> None:
        self.model, self.replace = model, replace
        with torch.no_grad(), seeded(0, device=x.device):
            trace = poutine.trace(model.model).get_trace(x[:4])
        self.latents = {name: site for name, site in sample_sites(trace).items() if not site["is_observed"]}

    def __call__(self, x: Tensor) -> None:
        def unmark(msg: Any, left: dict[str, None]) -> None:
            msg["infer"] = {key: value for key, value in msg["infer"].items() if key != "enumerate"}
            if self.replace is not None:
                msg["fn"] = self.replace(msg["name"], msg["fn"], x)

        tell(self.model, x, self.latents, unmark)

    def select(self, index: Tensor) -> Story:
        return self


class Prior(Proposal):
    """Weights p(x | z) of draws from the prior, discrete latents that the model marks summed out."""

    def __init__(self, model: Model, x: Tensor) -> None:
        self.story = Story(model, x)
        super().__init__(model, self.story)

    def draws(self, guide: Guide, x: Tensor, particles: int) -> Draws:
        drawn = draw(guide, x, particles).raw_values
        kept = {name: value for name, value in drawn.items() if not marked(self.story.latents[name])}
        if not kept:
            return Draws({}, len(x), particles, next_dim=-3, reparameterized=True, analytic=False)
        return Draws.given(kept)

    def weighed(self, densities: Densities, drawn: int, batch: int) -> Weighted:
        return Weighted(densities.log_likelihood, densities.log_likelihood)


class Defended(Proposal):
    """Weights p(x, z)/r(z) of draws from r = (1 − a) q + a p(z), which are at most p(x | z)/a.

    Defensive importance sampling (Hesterberg 1995, "Weighted average importance sampling and defensive mixture
    distributions"). Every draw is weighed by the mixture, whichever part it is from.

    Args:
        model: p.
        guide: q, for every datum.
        share: a.
        x: some data.
    """

    def __init__(self, model: Model, guide: Guide, share: float, x: Tensor) -> None:
        super().__init__(model, guide)
        self.share, self.story = share, Story(model, x)

    def draws(self, guide: Guide, x: Tensor, particles: int) -> Draws:
        q = draw(guide, x, particles)
        enumerated = [name for name, site in q.sites.items() if site.weight is not None]
        if len(enumerated) == len(q.sites):
            return q  # there is no draw to defend
        if enumerated:
            raise PpvaeError(
                f"defence= is a share of draws, and the guide enumerates {enumerated[0]!r} beside those it draws: "
                "leave defence out, or let the model sum it out"
            )
        p = draw(self.story, x, particles).raw_values
        from_prior = torch.rand(particles, len(x), device=x.device) < self.share
        values = {}
        for name, value in q.raw_values.items():
            which = from_prior.reshape(*from_prior.shape, *[1] * (value.dim() - 2))
            values[name] = torch.where(which, p[name], value)
        return draw(guide, x, particles, values)

    def weighed(self, densities: Densities, drawn: int, batch: int) -> Weighted:
        if densities.enumerated or not densities.sampled:
            return super().weighed(densities, drawn, batch)
        parts = math.log1p(-self.share) + densities.log_q, math.log(self.share) + densities.log_prior
        log_weight = densities.log_joint - torch.logaddexp(*parts)
        return Weighted(log_weight, log_weight)


def _uniform(name: str, fn: Any, x: Tensor) -> Any:
    """The uniform distribution over the support of a latent.

    Raises:
        PpvaeError: there is none.
    """
    if isinstance(fn, torch.distributions.Independent):
        return dist.Independent(_uniform(name, fn.base_dist, x), fn.reinterpreted_batch_ndims)
    for finite in (dist.Categorical, dist.OneHotCategorical, dist.Bernoulli):
        if isinstance(fn, finite):
            return finite(logits=torch.zeros_like(fn.logits))
    support = fn.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    shape = fn.batch_shape + fn.event_shape
    if isinstance(support, constraints.interval | constraints.half_open_interval) and not support.is_discrete:
        low, high = (torch.as_tensor(end).to(x).expand(shape) for end in (support.lower_bound, support.upper_bound))
        # the end points themselves, where a density may be infinite, do turn up among float32 numbers
        edge = torch.finfo(x.dtype).eps * (high - low)
        return dist.Uniform(low + edge, high - edge, validate_args=False).to_event(fn.event_dim)
    if support is constraints.simplex:
        return dist.Dirichlet(x.new_ones(shape))
    raise PpvaeError(
        f"latent {name!r} is a {type(fn).__name__}: over such a support z has no uniform distribution that could be "
        'drawn from: use method="prior"'
    )
