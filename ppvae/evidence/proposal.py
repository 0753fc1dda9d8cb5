"""Importance sampling from a Pyro guide, and what makes a guide a safer proposal: wider, or with heavier tails."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppvae import require
from ppvae.check import one_line
from ppvae.compiled import CompiledJoint
from ppvae.densities import Densities, score
from ppvae.errors import PpvaeError
from ppvae.evidence.method import PARTICLE_BLOCK, Block, Guide, Weighted
from ppvae.families import _Mixture, _Zuko
from ppvae.model import Model
from ppvae.randomness import seeded
from ppvae.sites import Draws, draw, is_subsample

_NO_SHAPE = torch.Size()


class Proposal:
    """Weights p(x, z)/r(z) of draws from a guide r.

    Args:
        model: p.
        guide: r, for every datum.
        converged: [N] bool where r was optimised for each datum.
    """

    def __init__(self, model: Model, guide: Guide, converged: Tensor | None = None) -> None:
        self.model, self.guide, self.converged = model, guide, converged
        self._validated: set[int] = set()

    def weights(self, block: Block, particles: int, size: int) -> Iterator[Weighted]:
        x = block.x
        draws = self.draws(self.proposal(block), block.data[block.positions], particles)
        at = int(block.positions[0])
        plain = type(self).weighed is Proposal.weighed and all(site.weight is None for site in draws.sites.values())
        if block.joint is not None and plain:
            yield from self._compiled(block, block.joint, draws, particles, size)
            return
        for first in range(0, particles, size):
            # x is held against the support of its likelihood once
            with pyro.validation_enabled(at not in self._validated), one_line(type(self.model).__name__):
                densities = score(self.model, x, draws.part(block.rows, slice(first, first + size)))
            self._validated.add(at)
            yield self.weighed(densities, min(size, particles - first), len(x))

    def _compiled(
        self, block: Block, joint: CompiledJoint, draws: Draws, particles: int, size: int
    ) -> Iterator[Weighted]:
        """As `weights`, always in one shape: that of whole blocks, what lies beyond thrown away."""
        x = block.data[block.positions]
        if int(block.positions[0]) not in self._validated:
            with pyro.validation_enabled(True), one_line(type(self.model).__name__):
                score(self.model, x, draws.part(torch.arange(len(x), device=x.device), slice(0, 1)))
            self._validated.add(int(block.positions[0]))
        log_q = sum((site.log_prob for site in draws.sites.values()), x.new_zeros(()))
        size = min(size, PARTICLE_BLOCK)
        for first in range(0, particles, size):
            some = (first + torch.arange(size, device=x.device)).clamp_max(particles - 1)
            log_joint = joint(x, {name: value[some] for name, value in draws.raw_values.items()})
            log_w = (log_joint - log_q[some])[: particles - first, block.rows]
            yield Weighted(log_w, log_w)

    def with_tails(self, x: Tensor) -> Proposal | None:
        """The same with a Student t in place of each Gaussian of r, or None where it has none."""
        guide = self.guide.guide if isinstance(self.guide, Widened) else self.guide
        size = widens(guide, x)
        return Proposal(self.model, Widened(guide, 1.0, tails_of(size)), self.converged) if size else None

    def proposal(self, block: Block) -> Guide:
        """r of all data of a block."""
        return self.guide.select(block.positions)

    def draws(self, guide: Guide, x: Tensor, particles: int) -> Draws:
        """Draws of r for all data x [B, *event] of a block."""
        return draw(guide, x, particles)

    def weighed(self, densities: Densities, drawn: int, batch: int) -> Weighted:
        """The weights of so many draws for so many data, scored under both programs."""
        log_ratio = densities.log_ratio
        if not densities.enumerated:
            return Weighted(log_ratio, log_ratio)
        if not densities.sampled:  # the rows are every value there is
            log_marginal = (densities.log_weight + log_ratio).logsumexp(0, keepdim=True)
            return Weighted(log_marginal, densities.mean(log_ratio).unsqueeze(0), exact=True)
        # draw s weighs Σ_k q(k) w(k, zₛ); its bound is Σ_k q(k) log w(k, zₛ)
        log_q = densities.log_weight + math.log(drawn)
        log_w = (log_q + log_ratio).reshape(-1, drawn, batch).logsumexp(0)
        return Weighted(log_w, (log_q.exp() * log_ratio).reshape(-1, drawn, batch).sum(0))


class Widened:
    """A guide whose Gaussian sites are widened, each given those before it, as a guide.

    Bounds nothing by itself, but where the true posterior is wider than q, or has heavier tails, weights p/q have a
    huge variance that a little width takes away (Geweke 1989, "Bayesian inference in econometric models using Monte
    Carlo integration"). Standard deviations are multiplied in unconstrained space: of a Normal, diagonal or not, under
    any transform; of every component of a mixture; of the noise that a flow starts from. Discrete sites are left alone.

    Args:
        guide: any guide.
        factor: of the standard deviations.
        tails: degrees of freedom of a multivariate Student t in place of each Normal, or None.
    """

    def __init__(self, guide: Guide, factor: float = 1.0, tails: float | None = None) -> None:
        self.guide = guide
        self.factor = require.positive("factor", factor)
        self.tails = None if tails is None else require.positive("tails", tails)

    def __call__(self, x: Tensor) -> None:
        with _Widening(self.factor, self.tails):
            self.guide(x)

    def select(self, index: Tensor) -> Widened:
        return Widened(self.guide.select(index), self.factor, self.tails)


def widens(guide: Guide, x: Tensor) -> int:
    """The number of continuous latents of a guide whose Gaussians can be widened; 0 where it has none."""
    first = torch.zeros(1, dtype=torch.long, device=x.device)
    with torch.no_grad(), seeded(0, device=x.device):
        sites = draw(guide.select(first), x[:1]).sites.values()
        try:
            draw(Widened(guide, 2.0).select(first), x[:1])
        except PpvaeError:
            return 0
    return sum(site.fn.event_shape.numel() for site in sites if not site.fn.support.is_discrete)


def tails_of(size: int) -> float:
    """Degrees of freedom of a Student t over so many latents that loses few draws where r is the posterior.

    Its radius spreads by a factor of 1 ± 1/√(2 df), that of a Gaussian by 1 ± 1/√(2 D).
    """
    return max(5.0, 3 * math.sqrt(size))


class _Widening(Messenger):
    """Inside a guide, replaces the distribution of each continuous site."""

    def __init__(self, factor: float, tails: float | None) -> None:
        super().__init__()
        self.factor, self.tails = factor, tails

    def _pyro_sample(self, msg: Any) -> None:
        if is_subsample(msg) or msg["is_observed"] or msg["fn"].support.is_discrete:
            return
        try:
            msg["fn"] = _widened(msg["fn"], self.factor, self.tails)
        except NotImplementedError as error:
            raise PpvaeError(
                f"latent {msg['name']!r} is a {error} in the guide, which has no standard deviation to widen: "
                "only Gaussians have, their mixtures and their transforms"
            ) from error


def _widened(fn: Any, factor: float, tails: float | None) -> Any:
    """The distribution with its standard deviations multiplied, and Student's tails where asked for.

    Raises:
        NotImplementedError: not Gaussian; with its name.
    """
    if factor == 1 and tails is None:
        return fn
    if isinstance(fn, torch.distributions.TransformedDistribution):
        return dist.TransformedDistribution(_widened(fn.base_dist, factor, tails), fn.transforms)
    if isinstance(fn, _Zuko):
        return _WidenedFlow(fn.flow, fn.context, factor, tails)
    event_dim = 0
    if isinstance(fn, torch.distributions.Independent):
        if not isinstance(fn.base_dist, torch.distributions.Normal):
            return dist.Independent(_widened(fn.base_dist, factor, tails), fn.reinterpreted_batch_ndims)
        fn, event_dim = fn.base_dist, fn.reinterpreted_batch_ndims
    if isinstance(fn, torch.distributions.Normal):
        if tails is None:
            return dist.Normal(fn.loc, fn.scale * factor).to_event(event_dim)
        return StudentT(tails, fn.loc, factor * fn.scale, event_dim)
    if isinstance(fn, torch.distributions.MultivariateNormal):
        tril = factor * fn._unbroadcasted_scale_tril  # where data and particles share one covariance, it stays one
        if tails is None:
            return dist.MultivariateNormal(fn.loc, scale_tril=tril)
        return dist.MultivariateStudentT(tails, fn.loc, tril.expand(*fn.loc.shape, -1))
    if isinstance(fn, torch.distributions.LowRankMultivariateNormal):
        if tails is None:
            return dist.LowRankMultivariateNormal(fn.loc, factor * fn.cov_factor, factor**2 * fn.cov_diag)
        return dist.MultivariateStudentT(tails, fn.loc, (factor * fn.scale_tril).expand(*fn.loc.shape, -1))
    if isinstance(fn, _Mixture):
        if tails is None:
            return _Mixture(fn.locs, factor * fn.coord_scale, fn.component_logits)
        parts = StudentT(tails, fn.locs, fn.coord_scale * factor, 1)
        return dist.MixtureSameFamily(dist.Categorical(logits=fn.component_logits), parts)
    raise NotImplementedError(type(fn).__name__)


class StudentT(dist.TorchDistribution):
    """The multivariate Student t of diagonal scale: loc + scale · ε/√(χ²/df), one χ² for the whole event.

    Args:
        df: degrees of freedom.
        loc, scale: [..., *event].
        event_dim: dims of the event.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # type: ignore[assignment]
    has_rsample = True

    def __init__(self, df: float, loc: Tensor, scale: Tensor, event_dim: int) -> None:
        self.df = df
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        split = self.loc.dim() - event_dim
        super().__init__(self.loc.shape[:split], self.loc.shape[split:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, self.event_dim)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Any:
        shape = (*batch_shape, *self.event_shape)
        return StudentT(self.df, self.loc.expand(shape), self.scale.expand(shape), self.event_dim)

    def rsample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        shape = torch.Size((*sample_shape, *self.batch_shape))
        noise = torch.randn((*shape, *self.event_shape), dtype=self.loc.dtype, device=self.loc.device)
        half = torch.full(shape, self.df / 2, dtype=self.loc.dtype, device=self.loc.device)
        precision = torch.distributions.Gamma(half, half, validate_args=False).sample()  # χ²/df
        return self.loc + self.scale * noise * precision.rsqrt().reshape(*shape, *[1] * self.event_dim)

    def log_prob(self, value: Tensor) -> Tensor:
        size, df = self.event_shape.numel(), self.df
        event = tuple(range(-self.event_dim, 0))
        square, log_scale = ((value - self.loc) / self.scale).square(), self.scale.log()
        if event:
            square, log_scale = square.sum(event), log_scale.sum(event)
        norm = math.lgamma((df + size) / 2) - math.lgamma(df / 2) - size / 2 * math.log(df * math.pi)
        return norm - log_scale - (df + size) / 2 * torch.log1p(square / df)


class _WidenedFlow(_Zuko):
    """A flow that starts from wider noise."""

    def __init__(self, flow: Any, context: Tensor, factor: float, tails: float | None) -> None:
        from zuko.distributions import NormalizingFlow

        super().__init__(flow, context)
        self.factor, self.tails = factor, tails
        self.inner = NormalizingFlow(self.inner.transform, _widened(self.inner.base, factor, tails))

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Any:
        context = self.context.expand(*batch_shape, self.context.shape[-1])
        return _WidenedFlow(self.flow, context, self.factor, self.tails)
