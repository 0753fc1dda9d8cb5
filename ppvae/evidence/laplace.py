"""Laplace's approximation as a proposal: a Gaussian of the posterior's own mode and curvature for each datum."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ppvae import require
from ppvae.check import one_line
from ppvae.evidence.method import Block, Guide, Question, method
from ppvae.evidence.proposal import Proposal, Widened, tails_of
from ppvae.families import FullCovariance
from ppvae.local import Phi, select
from ppvae.randomness import seeded
from ppvae.sites import draw
from ppvae.target import Target

#: the stream of random numbers of draws to start from
_STREAM_START = 41
#: draws of q among which a start is looked for
_START_DRAWS = 8
#: Newton steps towards a mode
_MOST_STEPS = 100
#: fractions of a Newton step that are tried, all at once
_FRACTIONS = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01, 1e-3, 1e-4)
#: a mode is found where a Newton step would gain less than this many nats
_GAIN = 0.01
#: the least precision that is believed, in units of the prior's
_LEAST_PRECISION = 1e-4


@method("laplace", applies=("continuous", "mixed"))
def laplace(asked: Question, *, widen: float = 1.1, tails: float | None = None) -> Laplace:
    """Importance sampling from Laplace's approximation: the posterior's mode and curvature of each datum.

    r(u) = Normal(û, widen² (−H)⁻¹) in unconstrained space, û a mode of log p(x, u) and H its Hessian there, found by
    Newton's method from the best of a few draws of q (Tierney & Kadane 1986; as a proposal, Geweke 1989). Where no mode
    was found or −H is not positive definite, `converged` is False, and directions of less curvature than the prior's
    get the prior's: the estimate stays unbiased. It holds one D × D matrix for each datum.

    Args:
        widen: multiplies the standard deviations.
        tails: degrees of freedom of a Student t in place of the Gaussian.

    Raises:
        PpvaeError: an option out of range, or a pair without continuous latents or with drawn discrete ones.
    """
    require.positive("widen", widen)
    if tails is not None:
        require.positive("tails", tails)
    return Laplace(asked, widen, tails)


class Laplace(Proposal):
    """The Gaussians of each datum, found when its block is first asked for.

    Attributes:
        converged: [N], whether the mode was found and its curvature is usable.
        gaussian: of every datum, not widened; the prior's mean and scale where none was asked for.
    """

    converged: Tensor

    def __init__(self, asked: Question, widen: float, tails: float | None) -> None:
        none = torch.zeros(len(asked.x), dtype=torch.bool, device=asked.x.device)
        super().__init__(asked.model, asked.posterior, none)
        self.asked, self.target, self.widen, self.tails = asked, asked.target, widen, tails
        self._found = none.clone()
        phi: Phi = {
            "loc": self.target.mean.to(asked.x).repeat(len(none), 1),
            "scale_tril": self.target.std.to(asked.x).diag().repeat(len(none), 1, 1),
        }
        self.gaussian = Gaussian(FullCovariance(self.target.sites), phi)

    def with_tails(self, x: Tensor) -> Laplace:
        heavier = copy.copy(self)  # with the modes found so far
        heavier.widen, heavier.tails = 1.0, tails_of(self.target.size)
        return heavier

    def proposal(self, block: Block) -> Guide:
        new = block.rows[~self._found[block.wanted]]
        if len(new):
            wanted = replace(block, rows=new)
            with one_line(type(self.model).__name__):
                at = modes(self.target, self._start(wanted), wanted.x, self.asked.chunk_size)
            self.converged[wanted.wanted] = at.usable
            self.gaussian.phi["loc"][wanted.wanted] = at.u
            self.gaussian.phi["scale_tril"][wanted.wanted] = at.scale_tril(self.target)
            self._found[wanted.wanted] = True
        return Widened(self.gaussian.select(block.positions), self.widen, self.tails)

    def _start(self, block: Block) -> Tensor:
        """The best of a few draws of q, their mean and the prior's, [B, D]."""
        x, first = block.data[block.positions], int(block.positions[0])
        with seeded(self.asked.seed, _STREAM_START, first, device=x.device):
            draws = draw(self.guide.select(block.positions), x, _START_DRAWS)
        values = {site.name: draws.raw_values[site.name] for site in self.target.sites}
        event = {name: value.shape[value.dim() - draws.sites[name].fn.event_dim :] for name, value in values.items()}
        lead = [value.shape[: value.dim() - len(event[name])] for name, value in values.items()]
        shape = torch.broadcast_shapes(*lead, (1, len(x)))
        full = {name: value.expand(*shape, *event[name]) for name, value in values.items()}
        u = self.target.unconstrained({name: v.reshape(-1, len(x), *event[name]) for name, v in full.items()})
        u = torch.cat([u, u.mean(0, keepdim=True), self.target.mean.expand(1, len(x), -1)])[:, block.rows]
        return best_of(self.target, u, block.x)


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian over all latents in unconstrained space, as a guide: loc [B, D] and scale_tril [B, D, D]."""

    family: FullCovariance
    phi: Phi

    def __call__(self, x: Tensor) -> None:
        self.family(x, self.phi)

    def select(self, index: Tensor) -> Gaussian:
        return Gaussian(self.family, select(self.phi, index))


@dataclass(frozen=True)
class Modes:
    """Where log p(x, u) of B datapoints is largest nearby, and how it curves there.

    Attributes:
        u: [B, D].
        log_joint: log p(x, u) [B].
        precision, axes: eigenvalues [B, D] and eigenvectors [B, D, D], in columns, of −H in units of the prior's
            standard deviations; where not usable the prior's precision, 1, where there is less. In float64.
        usable: [B] bool: a Newton step would gain nothing, and −H is positive definite.
    """

    u: Tensor
    log_joint: Tensor
    precision: Tensor
    axes: Tensor
    usable: Tensor

    def scale_tril(self, target: Target) -> Tensor:
        """L with L Lᵀ = (−H)⁻¹, [B, D, D]."""
        root = self.axes * self.precision.rsqrt().unsqueeze(-2)  # root rootᵀ: the covariance
        upper = torch.linalg.qr(root.mT).R  # which never squares a condition number
        tril = (upper * upper.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-1)).mT
        return (target.std.unsqueeze(-1) * tril).to(self.u)

    def log_integral(self, target: Target) -> Tensor:
        """log ∫ of the Gaussian that agrees at the mode: Laplace's log p(x), [B]."""
        log_det = self.precision.log().sum(-1) - 2 * target.std.double().log().sum()
        return self.log_joint.double() + 0.5 * (target.size * math.log(2 * math.pi) - log_det)


def best_of(target: Target, u: Tensor, x: Tensor) -> Tensor:
    """Of candidates u [S, B, D] for each datum that of the largest log p(x, u), the last where none is finite."""
    with torch.no_grad():
        density = target.log_joint(u, x)
    density = torch.where(density.isfinite() & u.isfinite().all(-1), density, -math.inf)
    best = torch.where(density.isfinite().any(0), density.argmax(0), len(u) - 1)
    return u.gather(0, best[None, :, None].expand(1, -1, u.shape[-1])).squeeze(0)


def modes(target: Target, start: Tensor, x: Tensor, rows: int) -> Modes:
    """Climb log p(x, u) from start [B, D] by Newton steps, each datum on its own.

    Where −H is not positive definite its eigenvalues are taken by their size, so that every step goes upwards; of a
    step the best of a few fractions is taken. One that gains nothing is the last.

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
        tried = torch.cat([u[active] + fractions * step, u[active][None]])
        moved = best_of(target, tried, x[active])
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
    """Differences between densities that rounding leaves something of."""
    return 1e-10 + 4 * torch.finfo(value.dtype).eps * (1 + value.abs())


def derivatives(target: Target, u: Tensor, x: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x, u) [B], its gradient [B, D] and its Hessian [B, D, D] at u [B, D].

    The density of a datum depends on its own u alone, so one pass backwards through the sum of gᵀv over data and over
    as many directions v as there are particles gives the rows vᵀH of each.
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
            found = torch.zeros_like(at)
            if density.requires_grad:
                (gradient,) = torch.autograd.grad(density.sum(), at, create_graph=True, materialize_grads=True)
                slope = gradient[0].detach()
                if gradient.requires_grad:
                    along = (gradient * directions.unsqueeze(1)).sum()
                    (found,) = torch.autograd.grad(along, at, materialize_grads=True)
        hessian.append(found)
    return value, slope, torch.cat(hessian).transpose(0, 1)
