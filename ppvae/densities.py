"""The one primitive: the log-densities of every site of a model/guide pair, per particle and per datapoint.

Objectives, estimators and checks are arithmetic on these numbers. Shapes: S particles, B datapoints; where
a discrete guide site is enumerated, its K values become rows (R = S·K), otherwise R = S. Nothing here is
ever scaled by N/B: totals multiply outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import kl_divergence

from ppvae import require
from ppvae.errors import PpvaeError
from ppvae.local import Phi, select
from ppvae.model import Model

Grad = Literal["full", "path", "score"]
_GRADS = ("full", "path", "score")


class Posterior:
    """A guide with φ bound: a plain Pyro guide, `posterior(x)`.

    Attributes:
        phi: the local parameters, each [B, *event].
        converged: [B] bool where φ was optimised per datapoint, else None.
    """

    def __init__(self, model: Model, phi: Phi, converged: Tensor | None = None) -> None:
        self.model = model
        self.phi = phi
        self.converged = converged

    def __call__(self, x: Tensor) -> None:
        self.model.guide(x, self.phi)

    def __len__(self) -> int:
        return len(next(iter(self.phi.values()), ()))

    def select(self, index: Tensor) -> Posterior:
        """The posterior of the datapoints `index` of this batch."""
        converged = None if self.converged is None else self.converged[index]
        return Posterior(self.model, select(self.phi, index), converged)

    @contextmanager
    def frozen(self) -> Iterator[Posterior]:
        """The same posterior with no gradient to φ nor to the weights that the guide owns."""
        owned = [p for p in self.model.guide_parameters() if p.requires_grad]
        for p in owned:
            p.requires_grad_(False)
        try:
            yield Posterior(self.model, {name: value.detach() for name, value in self.phi.items()})
        finally:
            for p in owned:
                p.requires_grad_(True)


@dataclass(slots=True)
class Site:
    """One sample site as it was scored; `log_prob` broadcasts to [*enumerated, S, B].

    `weight` is log q(k | φ) of an enumerated guide site, which keeps the gradient to φ in every mode.
    """

    fn: Any
    value: Tensor
    log_prob: Tensor
    observed: bool = False
    weight: Tensor | None = None


@dataclass
class Densities:
    """Log-densities [R, B] in nats; rows weigh exp(log_weight), which sums to 1 over rows.

    Attributes:
        log_likelihood: log p(x, z) − log p(z).
        log_prior: log p(z) of the latents that the guide has (others are summed out of it).
        log_q: log q(z | φ).
        values: the latents of the guide, each [R, B, *event].
        log_weight: log q(k | φ) − log S for enumerated rows, − log S otherwise.
        site_log_prob: model side, a term a site: log-prior of each latent, log-likelihood of each observed
            site. Sites that depend on a latent summed out come as one term under their joined names.
        site_log_q: guide side, a term a site.
        enumerated: whether rows are values of discrete guide sites rather than draws alone.
        sampled: whether any guide site was drawn at random (otherwise the rows are exact).
        reparameterized: whether the draws carry the gradient to φ.
    """

    log_likelihood: Tensor
    log_prior: Tensor
    log_q: Tensor
    values: dict[str, Tensor]
    log_weight: Tensor
    site_log_prob: dict[str, Tensor]
    site_log_q: dict[str, Tensor]
    enumerated: bool
    sampled: bool
    reparameterized: bool
    _kl_sites: dict[str, tuple[Site, Site]] = field(default_factory=dict, repr=False)

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
        return (self.log_weight.exp() * value).sum(0)

    def kl(self) -> Tensor:
        """KL(q ‖ p) [R, B], analytic site by site where that is exact and registered, Monte Carlo elsewhere.

        Site z may be integrated analytically when everything its prior is conditioned on was drawn before
        it in the guide; in a bottom-up chain only the last layer is.
        """
        if not self._kl_sites:
            return self.log_q - self.log_prior
        total = torch.zeros_like(self.log_q)
        for name, log_q in self.site_log_q.items():
            analytic = self._analytic_kl(name)
            total = total + (log_q - self.site_log_prob[name] if analytic is None else analytic)
        return total

    def _analytic_kl(self, name: str) -> Tensor | None:
        if name not in self._kl_sites:
            return None
        q, p = self._kl_sites[name]
        try:
            return kl_divergence(q.fn, p.fn)
        except NotImplementedError:
            return None


def is_subsample(msg: Any) -> bool:
    """The bookkeeping site that every plate of a stated size brings along."""
    return type(msg["fn"]).__name__ == "_Subsample"


def sample_sites(trace: Any) -> dict[str, Any]:
    """The sample sites of a Pyro trace, by name, without the bookkeeping of plates."""
    return {name: s for name, s in trace.nodes.items() if s["type"] == "sample" and not is_subsample(s)}


class _Recorder(Messenger):
    """Draws or looks up each latent and keeps its log-density. Entered first, so plates have done their work."""

    def __init__(self, batch: int, first_dim: int) -> None:
        super().__init__()
        self.batch = batch
        self.next_dim = first_dim  # free dims for enumeration, leftwards
        self.sites: dict[str, Site] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if is_subsample(msg) or msg["infer"].get("_deterministic"):
            return
        name = msg["name"]
        if name in self.sites:
            raise PpvaeError(f"two sites are called {name!r}: give each its own name")
        if msg["scale"] is not None and not _is_one(msg["scale"]):
            raise PpvaeError(
                f"site {name!r} is scaled by {msg['scale']}: a plate that subsamples, or poutine.scale, would make "
                'it no log-density; use pyro.plate("data", len(x)) and multiply outside'
            )
        enumerated = False
        if not msg["is_observed"]:
            enumerated = self.resolve(msg)
            msg["done"] = True
        value = msg["value"]
        fn = msg["fn"] if msg["mask"] is None else msg["fn"].mask(msg["mask"])
        try:
            log_prob = fn.log_prob(value)
        except ValueError as error:  # which does not say where
            raise PpvaeError(f"site {name!r}: {error}") from error
        if log_prob.dim() == 0 or log_prob.shape[-1] != self.batch:
            raise PpvaeError(
                f"site {name!r} has log-density of shape {tuple(log_prob.shape)}, not [..., {self.batch}]: it must "
                'be inside pyro.plate("data", len(x)), with .to_event() over its own dimensions'
            )
        self.sites[name] = Site(fn, value, log_prob, msg["is_observed"], log_prob if enumerated else None)

    def resolve(self, msg: Any) -> bool:
        """Set msg["value"]; True if it now holds every value of the site along a dim of its own."""
        raise PpvaeError("a recorder is either of a guide or of a model")

    def enumerate(self, msg: Any) -> None:
        fn = msg["fn"]
        if not getattr(fn, "has_enumerate_support", False):
            raise PpvaeError(
                f"site {msg['name']!r} is marked for enumeration, but {type(fn).__name__} has no finite support"
            )
        support = fn.enumerate_support(expand=False)
        shape = (len(support), *[1] * (-self.next_dim - 1), *fn.event_shape)
        msg["value"] = support.reshape(shape)
        self.next_dim -= 1


class _Guide(_Recorder):
    """Runs a guide: draws each site [S, B, *event], or enumerates it, or takes the value given."""

    def __init__(self, batch: int, particles: int, values: Mapping[str, Tensor] | None, detach: bool) -> None:
        super().__init__(batch, first_dim=-3)
        self.particles = particles
        self.values = values
        self.detach = detach
        self.reparameterized = True

    def resolve(self, msg: Any) -> bool:
        fn, name = msg["fn"], msg["name"]
        if self.values is not None:
            if name not in self.values:
                raise PpvaeError(f"values= has no {name!r}: it must hold every latent of the guide")
            msg["value"] = self.values[name]
            return False
        if _marked(msg):
            self.enumerate(msg)
            return True
        shape = fn.batch_shape
        if len(shape) > 1 and shape[-2] == 1 != self.particles:
            fn = fn.expand(torch.Size([*shape[:-2], self.particles, shape[-1]]))
        extra = torch.Size([self.particles]) if len(shape) <= 1 else torch.Size()
        if self.detach or not fn.has_rsample:
            self.reparameterized = self.reparameterized and fn.has_rsample
            with torch.no_grad():
                msg["value"] = fn.sample(extra)
        else:
            msg["value"] = fn.rsample(extra)
        return False


class _Generative(_Recorder):
    """Runs a model at the guide's values: scores every site, and enumerates the discrete ones it has alone."""

    def __init__(self, batch: int, values: Mapping[str, Tensor], first_dim: int) -> None:
        super().__init__(batch, first_dim)
        self.values = values

    def resolve(self, msg: Any) -> bool:
        name = msg["name"]
        if name in self.values:
            msg["value"] = self.values[name]
            return False
        if not _marked(msg):
            way_out = (
                'mark it infer={"enumerate": "parallel"} to sum it out, or give it a site in the guide'
                if getattr(msg["fn"], "has_enumerate_support", False)
                else "give it a site of that name in the guide"
            )
            raise PpvaeError(f"latent {name!r} of the model has no site in the guide: {way_out}")
        self.enumerate(msg)
        return True


def _marked(msg: Any) -> bool:
    return msg["infer"].get("enumerate") == "parallel"


def _is_one(scale: Any) -> bool:
    return bool((scale == 1).all()) if isinstance(scale, Tensor) else scale == 1


@dataclass
class Draws:
    """What one run of a guide gave: its sites, and the dims that enumeration took."""

    sites: dict[str, Site]
    batch: int
    particles: int
    next_dim: int
    reparameterized: bool
    analytic: bool  # whether the sites' distributions are those of all the draws, gradient included

    def part(self, batch: int, particles: slice) -> Draws:
        """The first `batch` datapoints at some of the particles."""

        def cut(t: Tensor, event_dim: int) -> Tensor:
            data = t.dim() - event_dim - 1
            t = t.narrow(data, 0, batch) if t.shape[data] > 1 else t
            if data > 0 and t.shape[data - 1] == self.particles:
                t = t[(slice(None),) * (data - 1) + (particles,)]
            return t

        sites = {
            name: Site(
                site.fn,
                cut(site.value, site.fn.event_dim),
                cut(site.log_prob, 0),
                weight=None if site.weight is None else cut(site.weight, 0),
            )
            for name, site in self.sites.items()
        }
        kept = len(range(*particles.indices(self.particles)))
        return Draws(sites, batch, kept, self.next_dim, self.reparameterized, analytic=False)

    @property
    def raw_values(self) -> dict[str, Tensor]:
        return {name: site.value for name, site in self.sites.items()}


def draw(
    posterior: Callable[[Tensor], Any],
    x: Tensor,
    num_particles: int = 1,
    values: Mapping[str, Tensor] | None = None,
    grad: Grad = "full",
) -> Draws:
    """Run the guide alone; the first half of `log_densities`."""
    recorder = _Guide(len(x), num_particles, values, detach=grad == "score")
    with recorder:
        posterior(x)
    sites = recorder.sites
    if observed := [name for name, site in sites.items() if site.observed]:
        raise PpvaeError(f"the guide observes {observed[0]!r}: only the model may have obs=")
    if grad == "path" and sites:
        if not isinstance(posterior, Posterior):
            raise PpvaeError('grad="path" needs a ppvae posterior, whose φ can be detached; got a plain guide')
        again = _Guide(len(x), num_particles, {name: s.value for name, s in sites.items()}, detach=False)
        with posterior.frozen() as fixed, again:
            fixed(x)
        for name, site in sites.items():
            again.sites[name].weight = site.weight
        sites = again.sites
    return Draws(sites, len(x), num_particles, recorder.next_dim, recorder.reparameterized, grad == "full")


def score(model: Callable[[Tensor], Any], x: Tensor, draws: Draws) -> Densities:
    """Run the model at the guide's draws; the second half of `log_densities`."""
    recorder = _Generative(draws.batch, draws.raw_values, draws.next_dim)
    with recorder:
        model(x)
    p, q = recorder.sites, draws.sites
    if missing := [name for name in q if name not in p]:
        raise PpvaeError(f"site {missing[0]!r} of the guide does not exist in the model")
    if wrong := [name for name in q if p[name].observed]:
        raise PpvaeError(f"site {wrong[0]!r} is latent in the guide and observed in the model")
    if not any(site.observed for site in p.values()):
        raise PpvaeError("the model observes nothing: score x with pyro.sample(..., obs=x)")

    summed = -recorder.next_dim + draws.next_dim  # how many dims the model enumerated alone
    core = torch.Size((draws.particles, draws.batch))
    guide_dims = -draws.next_dim - 3
    guide_shape = torch.broadcast_shapes(core, *(site.log_prob.shape for site in q.values())) if guide_dims else core
    rows = math.prod(guide_shape[:-2]) * draws.particles

    def flat(value: Tensor) -> Tensor:
        if value.shape == guide_shape == core:
            return value
        shape = torch.broadcast_shapes(guide_shape, value.shape)
        if len(shape) != guide_dims + 2 or shape[-2:] != core:
            raise PpvaeError(
                f"a log-density has shape {tuple(value.shape)}, which does not fit [S, B] = {list(core)}: "
                "ppvae.check(model, x) finds the site"
            )
        return value.expand(shape).reshape(rows, draws.batch)

    site_log_q = {name: flat(site.log_prob) for name, site in q.items()}
    log_q = _sum(site_log_q.values(), rows, draws.batch, x)
    if summed:
        log_likelihood, log_prior, site_log_prob = _sum_out(p, q, summed, guide_dims + 2, flat)
    else:
        site_log_prob = {name: flat(site.log_prob) for name, site in p.items()}
        log_prior = _sum((site_log_prob[name] for name in q), rows, draws.batch, x)
        log_likelihood = _sum((term for name, term in site_log_prob.items() if p[name].observed), rows, draws.batch, x)
    enumerated = [flat(site.weight) for site in q.values() if site.weight is not None]
    if enumerated:
        log_weight = sum(enumerated) - math.log(draws.particles)
    else:
        log_weight = log_q.new_tensor(-math.log(rows)).expand(rows, draws.batch)
    values = {}
    for name, site in q.items():
        event = site.value.shape[site.value.dim() - site.fn.event_dim :]
        full = site.value.expand(*guide_shape, *event)
        values[name] = full.reshape(rows, draws.batch, *event) if len(guide_shape) > 2 else full
    return Densities(
        log_likelihood=log_likelihood,
        log_prior=log_prior,
        log_q=log_q,
        values=values,
        log_weight=cast(Tensor, log_weight),
        site_log_prob=site_log_prob,
        site_log_q=site_log_q,
        enumerated=bool(enumerated),
        sampled=len(enumerated) < len(q),
        reparameterized=draws.reparameterized,
        _kl_sites=_integrable(p, q) if draws.analytic and not (summed or enumerated) else {},
    )


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
        values enumerated. A discrete latent that the model has alone must be so marked, and is summed out.

    Raises:
        PpvaeError: sites of the two programs that do not match, a scaled site, a shape that does not fit.
    """
    if grad not in _GRADS:
        raise PpvaeError(f"grad must be one of {', '.join(_GRADS)}, got {grad!r}")
    if values is not None:
        num_particles = _particles_of(values, len(x))
    else:
        num_particles = require.count("num_particles", num_particles)
    draws = draw(posterior, x, num_particles, values, grad)
    for name, value in (values or {}).items():
        if name not in draws.sites:
            raise PpvaeError(f"values= names {name!r}, which is no site of the guide")
        event = draws.sites[name].fn.event_shape
        if value.shape[2:] != event:
            raise PpvaeError(f"values[{name!r}] has shape {list(value.shape)}: the guide's event is {list(event)}")
    return score(model, x, draws)


def _particles_of(values: Mapping[str, Tensor], batch: int) -> int:
    shapes = {name: tuple(value.shape[:2]) for name, value in values.items()}
    if not shapes or len(set(shapes.values())) != 1 or next(iter(shapes.values()))[1:] != (batch,):
        raise PpvaeError(f"values= must hold tensors [S, {batch}, *event] of one S; their first two sizes are {shapes}")
    return next(iter(shapes.values()))[0]


def _sum(terms: Any, rows: int, batch: int, x: Tensor) -> Tensor:
    terms = list(terms)
    if not terms:
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        return torch.zeros((), dtype=dtype, device=x.device).expand(rows, batch)
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _sum_out(
    p: dict[str, Site], q: dict[str, Site], summed: int, keep: int, flat: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Sum the model's own discrete latents out of the joint, exactly, over the product of their values."""
    dims = tuple(range(-keep - summed, -keep))

    def marginal(names: list[str]) -> Tensor:
        total = cast(Tensor, sum(p[name].log_prob for name in names))
        lead = total.dim() - keep
        if lead <= 0:
            return total
        return total.logsumexp(tuple(range(lead))) if total.dim() <= keep + summed else total.logsumexp(dims)

    latents = [name for name, site in p.items() if not site.observed]
    free = [name for name in latents if name in q and p[name].log_prob.dim() <= keep]
    log_joint = flat(marginal(list(p)))
    bound = [name for name in latents if name not in free]
    # log p of the guide's latents with the others summed out; the latter alone sum to 1
    log_prior = flat(marginal(latents)) if q else torch.zeros_like(log_joint)
    terms = {name: flat(p[name].log_prob) for name in free}
    named = [name for name in bound if name in q]
    if named:
        terms["+".join(named)] = log_prior - cast(Tensor, sum(terms.values()))
    terms["+".join(name for name, site in p.items() if site.observed)] = log_joint - log_prior
    return log_joint - log_prior, log_prior, terms


def _integrable(p: dict[str, Site], q: dict[str, Site]) -> dict[str, tuple[Site, Site]]:
    """The sites whose KL term may be integrated analytically: see `Densities.kl`."""
    before_in_model: dict[str, set[str]] = {}
    seen: set[str] = set()
    for name, site in p.items():
        before_in_model[name] = set(seen)
        if not site.observed:
            seen.add(name)
    out: dict[str, tuple[Site, Site]] = {}
    drawn: set[str] = set()
    for name, site in q.items():
        if before_in_model[name] <= drawn and not isinstance(site.fn, dist.Delta):
            out[name] = (site, p[name])
        drawn.add(name)
    return out
