"""Importance sampling from Laplace's approximation."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ppvae import require
from ppvae.blocks import Block
from ppvae.catalogue import METHODS
from ppvae.errors import PpvaeError
from ppvae.evidence.newton import best_of, modes
from ppvae.evidence.problem import Problem
from ppvae.evidence.proposal import Proposal
from ppvae.evidence.widening import Widened, tails_of
from ppvae.pair.families.full_covariance import FullCovariance
from ppvae.pair.faults import explained
from ppvae.pair.local import Phi, select
from ppvae.pair.model import Model
from ppvae.pair.posterior import Guide
from ppvae.pair.precision import converted_phi
from ppvae.pair.sites import draw
from ppvae.randomness import seeded, stream

#: the stream of random numbers of these draws
_STREAM_START = stream("evidence/laplace/start")
#: draws of q from which the start is chosen
_START_DRAWS = 8


@METHODS.register("laplace", order=5, applies=("continuous", "mixed"))
def laplace(problem: Problem, *, widen: float = 1.1, tails: float | None = None) -> Laplace:
    """Importance sampling from Laplace's approximation: the posterior's mode and curvature of each datum.

    r(u) = Normal(û, widen² (−H)⁻¹) in unconstrained space, û a mode of log p(x, u) and H the Hessian there. Newton's
    method searches the mode from the best of a few draws of q (Tierney & Kadane 1986; as a proposal, Geweke 1989).
    Where it finds none or −H is not positive definite, `converged` is False, and directions with less curvature than
    the prior get the prior's: the estimate stays unbiased in p. It keeps one D × D matrix for each datum.

    Args:
        widen: multiplies the standard deviations.
        tails: degrees of freedom of a Student t in place of the Gaussian.

    Raises:
        PpvaeError: an option is out of range, or the pair has no continuous latents, draws discrete ones, or has an
            angle among its latents.
    """
    require.positive("widen", widen)
    if tails is not None:
        require.positive("tails", tails)
    angle = next((site.name for site in problem.target.sites if site.periodic), None)
    if angle is not None:
        raise PpvaeError(
            f"latent {angle!r} is an angle, and a Gaussian is not periodic: use method 'refined', 'ais' or 'prior'"
        )
    return Laplace(problem, widen, tails)


class Laplace(Proposal):
    """The Gaussian of each datum, computed when its block is first used.

    Attributes:
        converged: [N], whether a mode was reached and its curvature is usable.
        gaussian: of every datum, not widened; the prior's mean and scale where none was computed.
    """

    converged: Tensor

    def __init__(self, problem: Problem, widen: float, tails: float | None) -> None:
        none = torch.zeros(len(problem.x), dtype=torch.bool, device=problem.x.device)
        super().__init__(problem.model, problem.posterior, none, problem.joint)
        self.problem, self.target, self.widen, self.tails = problem, problem.target, widen, tails
        self._done = none.clone()
        phi: Phi = {
            "loc": self.target.mean.to(problem.x).repeat(len(none), 1),
            "scale_tril": self.target.std.to(problem.x).diag().repeat(len(none), 1, 1),
        }
        self.gaussian = Gaussian(FullCovariance(self.target.sites), phi)

    @property
    def start_guide(self) -> Gaussian:
        """The Gaussian itself."""
        return self.gaussian

    def with_student_tails(self, x: Tensor) -> Laplace:
        heavier = copy.copy(self)  # with the modes so far
        heavier.widen, heavier.tails = 1.0, tails_of(self.target.size)
        return heavier

    def proposal(self, block: Block) -> Guide:
        new = block.rows[~self._done[block.wanted]]
        if len(new):
            wanted = replace(block, rows=new)
            with explained(type(self.model).__name__):
                at = modes(self.target, self._start(wanted), wanted.x, self.problem.chunk_size)
            self.converged[wanted.wanted] = at.usable
            self.gaussian.phi["loc"][wanted.wanted] = at.u
            self.gaussian.phi["scale_tril"][wanted.wanted] = at.scale_tril(self.target)
            self._done[wanted.wanted] = True
        return Widened(self.gaussian.select(block.positions), self.widen, self.tails)

    def _start(self, block: Block) -> Tensor:
        """The best of a few draws of q, their mean and the prior's, [B, D]."""
        x, first = block.data[block.positions], int(block.positions[0])
        with seeded(self.problem.seed, _STREAM_START, first, device=x.device):
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

    def converted(self, model: Model, dtype: torch.dtype) -> Gaussian:
        """The same Gaussian in another precision."""
        return Gaussian(self.family, converted_phi(self.phi, dtype))
