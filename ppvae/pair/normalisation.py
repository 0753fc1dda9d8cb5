"""Whether the prior of a latent is a density: it integrates to 1 over the support that it declares."""

from __future__ import annotations

import math
from typing import Any, cast

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to

from ppvae.distributions.student_t import StudentT
from ppvae.pair.supports import base_of, is_periodic, support_of

#: packages whose distributions and transforms are densities as declared, but for those that this file names
_TRUSTED = ("torch.distributions", "pyro.distributions", "ppvae.distributions", "zuko")
#: ends and number of the points t of the trapezoidal rule over u = sinh t, which holds tails as heavy as Cauchy's
_END, _POINTS = 20.0, 4001
#: draws, and degrees of freedom, of the Student t that a density over several numbers is integrated with
_DRAWS, _TAILS = 20_000, 3.0
#: an integral within this of 1 passes; one from draws must also lie this many standard errors away to fail
_TOLERANCE, _ERRORS = 0.02, 4.0
#: the most elements of a batch that are integrated
_FEW = 20


def why_not_a_density(fn: Any) -> str | None:
    """Why a prior is not a density over its support, or None.

    Distributions of torch and Pyro are known. Others are integrated: by quadrature where their coordinates are
    independent, else by E_r[p(z)/r(z)] with draws from a Student t around draws of p, which must be 1.

    Args:
        fn: a distribution; a batch is integrated at its first elements.
    """
    base = fn
    while hasattr(base, "base_dist") and not isinstance(base, torch.distributions.TransformedDistribution):
        if isinstance(base, dist.MaskedDistribution):
            return "is masked, so that its density is missing where the mask is false"
        base = base.base_dist
    if isinstance(base, dist.ImproperUniform):
        return "is improper: its density has an infinite integral"
    if isinstance(base, dist.Delta) or fn.support.is_discrete or _is_trusted(base):
        return None
    with torch.no_grad():
        total, error = _integral(base)
    off = (total - 1).abs()
    if not bool(((off > _TOLERANCE) & (off > _ERRORS * error)).any()):
        return None
    worst = float(total[off.argmax()])
    return (
        f"({type(base).__name__}) integrates to {worst:.3g}, not 1, over its support {support_of(base)}: "
        "declare the support over which it is normalised, or normalise its log_prob"
    )


def _is_trusted(fn: Any) -> bool:
    """Whether a distribution, and all that it is made of, is of torch or Pyro and not periodic inside a transform."""
    base = base_of(fn)
    if not all(_home(type(base), name).startswith(_TRUSTED) for name in ("log_prob", "support")):
        return False
    if isinstance(base, torch.distributions.TransformedDistribution):
        known = all(type(t).__module__.startswith(_TRUSTED) for t in base.transforms)
        return known and _is_trusted(base.base_dist) and not is_periodic(base.base_dist)
    if isinstance(base, torch.distributions.MixtureSameFamily):
        return _is_trusted(base.component_distribution) and not is_periodic(base.component_distribution)
    return True


def _home(kind: type, attribute: str) -> str:
    """The module of the class that defines an attribute."""
    return next((each.__module__ for each in kind.__mro__ if attribute in vars(each)), "")


def _integral(fn: Any) -> tuple[Tensor, Tensor]:
    """∫ p of the first elements of a batch, and the standard errors."""
    support = support_of(fn)
    bijection = biject_to(support)
    drawn = bijection.inv(fn.sample((1000,)).double())
    batch = fn.batch_shape.numel()
    middle = fn.sample()
    mid, spread = drawn.median(0).values, drawn.std(0).clamp_min(1e-6)

    def log_density(u: Tensor) -> Tensor:
        z = bijection(u)
        change = bijection.log_abs_det_jacobian(u, z)
        missing = change.dim() - len(fn.batch_shape) - 1
        change = change.flatten(-missing).sum(-1) if missing > 0 else change
        # where T(u) overflows or rounds to the edge there is no mass
        inside = support.check(z) & torch.isfinite(z).reshape(*change.shape, -1).all(-1)
        safe = torch.where(inside.reshape(*inside.shape, *[1] * len(fn.event_shape)), z, middle)
        log_p = torch.where(inside, fn.log_prob(safe).double() + change, -math.inf)
        return torch.where(log_p.isnan() | log_p.isposinf(), -math.inf, log_p).reshape(len(u), batch)[:, :_FEW]

    like = {"dtype": torch.float64, "device": mid.device}
    if not fn.event_shape:
        t = torch.linspace(-_END, _END, _POINTS, **like).reshape(-1, *[1] * mid.dim())
        log_step = math.log(2 * _END / (_POINTS - 1))
        log_p = log_density(mid + spread * t.sinh())
        scale = (t.cosh().log() + spread.log() + log_step).reshape(len(t), batch)[:, :_FEW]
        total = (log_p + scale).exp().sum(0)
        return total, torch.zeros_like(total)
    event_dim = mid.dim() - len(fn.batch_shape)
    proposal = StudentT(_TAILS, mid, spread, event_dim)
    u = proposal.sample(torch.Size([_DRAWS]))
    log_r = cast(Tensor, proposal.log_prob(u)).reshape(_DRAWS, batch)[:, :_FEW]
    ratio = (log_density(u) - log_r).exp()
    return ratio.mean(0), ratio.std(0) / math.sqrt(_DRAWS)
