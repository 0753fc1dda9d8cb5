"""Guides made wider, or with heavier tails, as safer proposals."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppvae import require
from ppvae.distributions.flow import ZukoFlow
from ppvae.distributions.mixture import DiagonalMixture
from ppvae.distributions.student_t import StudentT
from ppvae.distributions.wrapped_normal import MOST, WrappedNormal
from ppvae.errors import PpvaeError
from ppvae.pair.model import Model
from ppvae.pair.posterior import Guide, Posterior
from ppvae.pair.sites import draw, is_subsample
from ppvae.randomness import seeded


class Widened:
    """A guide with each Gaussian site, given those before it, widened; it is a guide itself.

    Weights are not bounded by it. But where the true posterior is wider than q, or has heavier tails, weights p/q have
    a huge variance, which a slightly wider q removes (Geweke 1989, "Bayesian inference in econometric models using
    Monte Carlo integration"). Standard deviations are multiplied in unconstrained space: of a Normal, diagonal or not,
    under any transform; of every component of a mixture; of the noise that a flow starts from. Discrete sites do not
    change.

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

    def converted(self, model: Model, dtype: torch.dtype) -> Widened:
        """The same, widened, over a converted model."""
        return Widened(self.guide.converted(model, dtype), self.factor, self.tails)


def widens(guide: Guide, x: Tensor) -> int:
    """The number of continuous latents of a guide whose Gaussians can be widened; 0 where they cannot."""
    first = torch.zeros(1, dtype=torch.long, device=x.device)
    with torch.no_grad(), seeded(0, device=x.device):
        sites = draw(guide.select(first), x[:1]).sites.values()
        try:
            draw(Widened(guide, 2.0).select(first), x[:1])
        except PpvaeError:
            return 0
    return sum(site.fn.event_shape.numel() for site in sites if not site.fn.support.is_discrete)


def tails_of(size: int) -> float:
    """Degrees of freedom of a Student t over `size` latents that loses few effective draws where r is the posterior.

    Its radius spreads by a factor of 1 ± 1/√(2 df), that of a Gaussian by 1 ± 1/√(2 D).
    """
    return max(5.0, 3 * math.sqrt(size))


class _Widening(Messenger):
    """A handler that replaces the distribution of each continuous site of a guide."""

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
                "only Gaussians, their mixtures and their transforms can be widened"
            ) from error


def _widened(fn: Any, factor: float, tails: float | None) -> Any:
    """The distribution with its standard deviations multiplied, and as a Student t where `tails` is given.

    Raises:
        NotImplementedError: it is not Gaussian; the message is its name.
    """
    if factor == 1 and tails is None:
        return fn
    if isinstance(fn, torch.distributions.TransformedDistribution):
        return dist.TransformedDistribution(_widened(fn.base_dist, factor, tails), fn.transforms)
    if isinstance(fn, ZukoFlow):
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
        tril = factor * fn._unbroadcasted_scale_tril  # a covariance that data and particles share is not copied
        if tails is None:
            return dist.MultivariateNormal(fn.loc, scale_tril=tril)
        return dist.MultivariateStudentT(tails, fn.loc, tril.expand(*fn.loc.shape, -1))
    if isinstance(fn, torch.distributions.LowRankMultivariateNormal):
        if tails is None:
            return dist.LowRankMultivariateNormal(fn.loc, factor * fn.cov_factor, factor**2 * fn.cov_diag)
        return dist.MultivariateStudentT(tails, fn.loc, (factor * fn.scale_tril).expand(*fn.loc.shape, -1))
    if isinstance(fn, WrappedNormal):  # an angle has no tails
        return WrappedNormal(fn.loc, (fn.scale * factor).clamp_max(MOST))
    if isinstance(fn, DiagonalMixture):
        if tails is None:
            return DiagonalMixture(fn.locs, factor * fn.coord_scale, fn.component_logits)
        parts = StudentT(tails, fn.locs, fn.coord_scale * factor, 1)
        return dist.MixtureSameFamily(dist.Categorical(logits=fn.component_logits), parts)
    raise NotImplementedError(type(fn).__name__)


class _WidenedFlow(ZukoFlow):
    """A flow that starts from wider noise."""

    def __init__(self, flow: Any, context: Tensor, factor: float, tails: float | None) -> None:
        from zuko.distributions import NormalizingFlow

        super().__init__(flow, context)
        self.factor, self.tails = factor, tails
        self.inner = NormalizingFlow(self.inner.transform, _widened(self.inner.base, factor, tails))

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Any:
        context = self.context.expand(*batch_shape, self.context.shape[-1])
        return _WidenedFlow(self.flow, context, self.factor, self.tails)


#: q widened by 1 + this/√D costs at most a third of the effective draws where q is the posterior, for any D
_WIDTH = 0.45


def widened(posterior: Posterior, x: Tensor, factor: float | None = None) -> Guide:
    """q with its standard deviations multiplied; where the factor is None, by 1 + 0.45/√D for D latents."""
    if factor is not None:
        return posterior if factor == 1 else Widened(posterior, factor)
    size = widens(posterior, x)
    return Widened(posterior, 1 + _WIDTH / math.sqrt(size)) if size else posterior
