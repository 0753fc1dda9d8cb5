"""Newton's method for the mode and the curvature of the posterior of each datum."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ppvae.pair.target import Target

#: the most Newton steps towards a mode
_MOST_STEPS = 100
#: fractions of a Newton step that are candidates, all at once
_FRACTIONS = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01, 1e-3, 1e-4)
#: a mode is reached where a Newton step would gain less than this many nats
_GAIN = 0.01
#: the least precision that is used, in units of the prior's
_LEAST_PRECISION = 1e-4


@dataclass(frozen=True)
class Modes:
    """Local maxima of log p(x, u) of B datapoints, and its curvature there.

    Attributes:
        u: [B, D].
        log_joint: log p(x, u) [B].
        precision, axes: eigenvalues [B, D] and eigenvectors [B, D, D], in columns, of −H in units of the prior's
            standard deviations; where not usable, at least 1, the prior's precision. In float64.
        usable: [B] bool: a Newton step would gain less than 0.01 nats, and −H is positive definite.
    """

    u: Tensor
    log_joint: Tensor
    precision: Tensor
    axes: Tensor
    usable: Tensor

    def scale_tril(self, target: Target) -> Tensor:
        """L with L Lᵀ = (−H)⁻¹, [B, D, D]."""
        root = self.axes * self.precision.rsqrt().unsqueeze(-2)  # root rootᵀ: the covariance
        upper = torch.linalg.qr(root.mT).R  # without squaring the condition number
        tril = (upper * upper.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-1)).mT
        return (target.std.unsqueeze(-1) * tril).to(self.u)

    def log_integral(self, target: Target) -> Tensor:
        """log ∫ of the Gaussian with the same mode and curvature: Laplace's log p(x), [B]."""
        log_det = self.precision.log().sum(-1) - 2 * target.std.double().log().sum()
        return self.log_joint.double() + 0.5 * (target.size * math.log(2 * math.pi) - log_det)


def best_of(target: Target, u: Tensor, x: Tensor) -> Tensor:
    """For each datum the candidate u [S, B, D] of the largest log p(x, u); the last where none is finite."""
    with torch.no_grad():
        density = target.log_joint(u, x)
    density = torch.where(density.isfinite() & u.isfinite().all(-1), density, -math.inf)
    best = torch.where(density.isfinite().any(0), density.argmax(0), len(u) - 1)
    return u.gather(0, best[None, :, None].expand(1, -1, u.shape[-1])).squeeze(0)


def modes(target: Target, start: Tensor, x: Tensor, rows: int) -> Modes:
    """Climb log p(x, u) from start [B, D] by Newton steps, for each datum by itself.

    Where −H is not positive definite, its eigenvalues are replaced by their absolute values, so that every step goes
    upwards. The best of a few fractions of a step is taken; a step without gain is the last.

    Args:
        x: data [B, *event].
        rows: latents × datapoints scored at once.
    """
    u, size = start.clone(), target.size
    value = u.new_full((len(u),), -math.inf)
    gain = torch.full_like(value, math.inf)
    precision = torch.ones(len(u), size, dtype=torch.float64, device=u.device)
    axes = torch.eye(size, dtype=torch.float64, device=u.device).repeat(len(u), 1, 1)
    active = torch.arange(len(u), device=u.device)
    fractions = u.new_tensor(_FRACTIONS)[:, None, None]
    for number in range(_MOST_STEPS + 1):
        value[active], slope, hessian = derivatives(target, u[active], x[active], rows)
        sound = value[active].isfinite() & slope.isfinite().all(-1) & hessian.isfinite().all((-1, -2))
        gain[active[~sound]], precision[active[~sound]] = math.inf, math.nan
        active, slope, hessian = active[sound], slope[sound], hessian[sound]
        scaled = -(target.std.unsqueeze(-1) * hessian * target.std).double()
        precision[active], axes[active] = torch.linalg.eigh((scaled + scaled.mT) / 2)
        along = (axes[active].mT @ (target.std * slope).double().unsqueeze(-1)).squeeze(-1)
        length = along / precision[active].abs().clamp_min(_LEAST_PRECISION)
        gain[active] = (0.5 * along * length).sum(-1).to(gain)
        step = target.std * (axes[active] @ length.unsqueeze(-1)).squeeze(-1).to(u)
        going = gain[active] > _resolution(value[active])
        active, step = active[going], step[going]
        if not len(active) or number == _MOST_STEPS:
            break
        candidates = torch.cat([u[active] + fractions * step, u[active][None]])
        moved = best_of(target, candidates, x[active])
        going = (moved != u[active]).any(-1)
        active = active[going]
        u[active] = moved[going]
        if not len(active):
            break
    curved = (precision > _LEAST_PRECISION).all(-1) & value.isfinite()
    usable = curved & (gain < _resolution(value).clamp_min(_GAIN))
    precision = torch.where(usable.unsqueeze(-1), precision, precision.nan_to_num(1.0).clamp_min(1.0))
    u = torch.where(value.isfinite().unsqueeze(-1), u, target.mean)
    return Modes(u, value, precision, axes, usable)


def _resolution(value: Tensor) -> Tensor:
    """The smallest difference between densities that is larger than their rounding errors."""
    return 1e-10 + 4 * torch.finfo(value.dtype).eps * (1 + value.abs())


def derivatives(target: Target, u: Tensor, x: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x, u) [B], its gradient [B, D] and its Hessian [B, D, D] at u [B, D].

    The density of a datum depends on its own u alone. Each direction v has a particle, and one backward pass through
    the sum of gᵀv over data and directions gives the rows vᵀH of each datum.
    """
    parts = [_derivatives(target, u[at], x[at], rows) for at in torch.arange(len(u), device=u.device).split(rows)]
    return (*(torch.cat(part) for part in zip(*parts, strict=True)),)  # type: ignore[return-value]


def _derivatives(target: Target, u: Tensor, x: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    value, slope, hessian = u.new_zeros(len(u)), torch.zeros_like(u), []
    for directions in torch.eye(target.size, dtype=u.dtype, device=u.device).split(max(1, rows // len(u))):
        with torch.enable_grad():
            at = u.detach().expand(len(directions), -1, -1).clone().requires_grad_()
            density = target.log_joint(at, x)
            value = density[0].detach()
            rows_of_h = torch.zeros_like(at)
            if density.requires_grad:
                (gradient,) = torch.autograd.grad(density.sum(), at, create_graph=True, materialize_grads=True)
                slope = gradient[0].detach()
                if gradient.requires_grad:
                    along = (gradient * directions.unsqueeze(1)).sum()
                    (rows_of_h,) = torch.autograd.grad(along, at, materialize_grads=True)
        hessian.append(rows_of_h)
    return value, slope, torch.cat(hessian).transpose(0, 1)
