"""The values and log-densities of the sites of a program: the Pyro handlers behind `log_densities`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from pyro.distributions import Delta
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppvae.distributions import fast as scoring
from ppvae.errors import PpvaeError
from ppvae.pair.posterior import Posterior
from ppvae.pair.transformed import remembering, remind

Grad = Literal["full", "path", "score"]
GRADS: tuple[Grad, ...] = ("full", "path", "score")


@dataclass(slots=True)
class Site:
    """One sample site of B datapoints; its `log_prob` broadcasts to [*enumerated, S, B].

    A latent is scored when its density is first read; where its KL term is integrated, it never is.
    `weight` is log q(k | φ) of an enumerated guide site, which keeps the gradient to φ in every mode.
    """

    name: str
    fn: Any
    value: Tensor
    batch: int
    observed: bool = False
    weight: Tensor | None = None
    _log_prob: Tensor | None = None

    @property
    def log_prob(self) -> Tensor:
        if self._log_prob is None:
            try:
                log_prob = scoring.log_prob(self.fn, self.value)
            except ValueError as error:  # whose message does not name the site
                raise PpvaeError(f"site {self.name!r}: {error}") from error
            if log_prob.dim() == 0 or log_prob.shape[-1] != self.batch:
                raise PpvaeError(
                    f"site {self.name!r} has log-density of shape {tuple(log_prob.shape)}, not [..., {self.batch}]: it "
                    'must be inside pyro.plate("data", len(x)), with .to_event() over its own dimensions'
                )
            self._log_prob = log_prob
        return cast(Tensor, self._log_prob)


def is_subsample(msg: Any) -> bool:
    """Whether the site is the bookkeeping of a plate of a stated size."""
    return type(msg["fn"]).__name__ == "_Subsample"


def sample_sites(trace: Any) -> dict[str, Any]:
    """The sample sites of a Pyro trace, by name, without the bookkeeping of plates."""
    return {name: s for name, s in trace.nodes.items() if s["type"] == "sample" and not is_subsample(s)}


class Recorder(Messenger):
    """Draws or looks up each latent and keeps its site. It is the outermost handler, so plates have run before it."""

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
                'it something else than a log-density; use pyro.plate("data", len(x)) and multiply outside'
            )
        enumerated = False
        if not msg["is_observed"]:
            if msg["mask"] is not None and msg["mask"] is not True:
                raise PpvaeError(
                    f"latent {name!r} is masked, so that its density does not integrate to 1: mask the observed sites "
                    "alone, and give a latent that is not used a density of its own, such as Normal(0, 1), in model "
                    "and guide"
                )
            enumerated = self.resolve(msg)
            msg["done"] = True
        fn = msg["fn"] if msg["mask"] is None else msg["fn"].mask(msg["mask"])
        site = Site(name, fn, msg["value"], self.batch, msg["is_observed"])
        if enumerated:
            site.weight = site.log_prob
        if site.observed:
            site.log_prob  # noqa: B018 - always needed, and here an error is known to be of this program
        self.sites[name] = site

    def resolve(self, msg: Any) -> bool:
        """Set msg["value"]; True if it holds every value of the site along a new dim."""
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


class GuideRecorder(Recorder):
    """Runs a guide: draws each site [S, B, *event], or enumerates it, or takes the value given."""

    def __init__(
        self,
        batch: int,
        particles: int,
        values: Mapping[str, Tensor] | None,
        detach: bool,
        drawn: Mapping[str, Site] | None = None,
    ) -> None:
        super().__init__(batch, first_dim=-3)
        self.particles = particles
        self.values = values
        self.drawn = drawn or {}
        self.detach = detach
        self.reparameterized = True

    def resolve(self, msg: Any) -> bool:
        fn, name = msg["fn"], msg["name"]
        if self.values is not None:
            if name not in self.values:
                raise PpvaeError(f"values= has no {name!r}: it must hold every latent of the guide")
            msg["value"] = self.values[name]
            if name in self.drawn:
                msg["fn"] = remind(fn, self.drawn[name].fn)
            return False
        if marked(msg):
            self.enumerate(msg)
            return True
        fn = msg["fn"] = remembering(fn)
        shape = fn.batch_shape
        if len(shape) > 1 and shape[-2] == 1 != self.particles:
            fn = fn.expand(torch.Size([*shape[:-2], self.particles, shape[-1]]))
        extra = torch.Size([self.particles]) if len(shape) <= 1 else torch.Size()
        if self.detach or not fn.has_rsample:
            self.reparameterized = self.reparameterized and fn.has_rsample
            with torch.no_grad():
                value = fn.sample(extra)
            msg["value"] = value.detach()  # a record keeps detach, not no_grad (ppvae.pair.compiled)
        else:
            msg["value"] = fn.rsample(extra)
        return False


class ModelRecorder(Recorder):
    """Runs a model at the guide's values: scores every site, and enumerates the discrete ones that the guide lacks."""

    def __init__(self, batch: int, values: Mapping[str, Tensor], first_dim: int) -> None:
        super().__init__(batch, first_dim)
        self.values = values

    def resolve(self, msg: Any) -> bool:
        name = msg["name"]
        if name in self.values:
            msg["value"] = self.values[name]
            return False
        if not marked(msg):
            way_out = (
                'mark it infer={"enumerate": "parallel"} to sum it out, or give it a site in the guide'
                if getattr(msg["fn"], "has_enumerate_support", False)
                else "give it a site of that name in the guide"
            )
            raise PpvaeError(f"latent {name!r} of the model has no site in the guide: {way_out}")
        self.enumerate(msg)
        return True


def marked(msg: Any) -> bool:
    """Whether a site, of a trace or a message, is marked for enumeration."""
    return msg["infer"].get("enumerate") == "parallel"


def _is_one(scale: Any) -> bool:
    return bool((scale == 1).all()) if isinstance(scale, Tensor) else scale == 1


@dataclass
class Draws:
    """The result of one run of a guide: its sites, and the dims that enumeration used."""

    sites: dict[str, Site]
    batch: int
    particles: int
    next_dim: int
    reparameterized: bool
    analytic: bool  # whether the sites' distributions, with their gradient, are those of all draws

    @classmethod
    def given(cls, values: Mapping[str, Tensor]) -> Draws:
        """Latents [S, B, *event] that no guide has drawn; their log q is 0."""
        particles, batch = next(iter(values.values())).shape[:2]
        sites = {
            name: Site(name, Delta(value, event_dim=value.dim() - 2), value, batch) for name, value in values.items()
        }
        for site in sites.values():
            site._log_prob = site.value.new_zeros(particles, batch)
        return cls(sites, batch, particles, next_dim=-3, reparameterized=True, analytic=False)

    def part(self, rows: Tensor, particles: slice) -> Draws:
        """The draws of the datapoints `rows` [A], at some of the particles."""
        everyone = torch.equal(rows, torch.arange(self.batch, device=rows.device))

        def cut(t: Tensor, event_dim: int) -> Tensor:
            data = t.dim() - event_dim - 1
            t = t.index_select(data, rows) if t.shape[data] > 1 and not everyone else t
            if data > 0 and t.shape[data - 1] == self.particles:
                t = t[(slice(None),) * (data - 1) + (particles,)]
            return t

        sites = {
            name: Site(
                name,
                site.fn,
                cut(site.value, site.fn.event_dim),
                len(rows),
                weight=None if site.weight is None else cut(site.weight, 0),
                _log_prob=cut(site.log_prob, 0),
            )
            for name, site in self.sites.items()
        }
        kept = len(range(*particles.indices(self.particles)))
        return Draws(sites, len(rows), kept, self.next_dim, self.reparameterized, analytic=False)

    def converted(self, dtype: torch.dtype) -> Draws:
        """The same values, with their log q, in another precision; their distributions are not."""
        sites = {}
        for name, site in self.sites.items():
            value = site.value.to(dtype) if site.value.is_floating_point() else site.value
            weight = None if site.weight is None else site.weight.to(dtype)
            sites[name] = replace(site, value=value, weight=weight, _log_prob=site.log_prob.to(dtype))
        return replace(self, sites=sites, analytic=False)

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
    recorder = GuideRecorder(len(x), num_particles, values, detach=grad == "score")
    with recorder:
        posterior(x)
    sites = recorder.sites
    if observed := [name for name, site in sites.items() if site.observed]:
        raise PpvaeError(f"the guide observes {observed[0]!r}: only the model may have obs=")
    if grad == "path" and sites:
        if not isinstance(posterior, Posterior):
            raise PpvaeError('grad="path" needs a ppvae posterior, whose φ can be detached; got a plain guide')
        again = GuideRecorder(len(x), num_particles, {name: s.value for name, s in sites.items()}, False, sites)
        with posterior.frozen() as fixed, again:
            fixed(x)
        for name, site in sites.items():
            again.sites[name].log_prob  # noqa: B018 - scored here, while the weights that the guide owns are frozen
            again.sites[name].weight = site.weight
        sites = again.sites
    return Draws(sites, len(x), num_particles, recorder.next_dim, recorder.reparameterized, grad == "full")
