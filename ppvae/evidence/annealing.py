"""Annealed importance sampling: from an initial density to the posterior by Hamiltonian Monte Carlo."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import pyro
import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, pad

from ppvae.blocks import Block
from ppvae.evidence.method import CHECKED, Sampler, Weighted
from ppvae.evidence.problem import Problem
from ppvae.pair.faults import explained
from ppvae.pair.posterior import Guide
from ppvae.pair.prior import PriorGuide
from ppvae.pair.sites import Draws, draw
from ppvae.pair.target import Target
from ppvae.randomness import seeded, stream

Schedule = Literal["sigmoid", "linear", "geometric"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)


#: the stream of random numbers of tuning runs
_STREAM_TUNE = stream("evidence/annealing/tuning")
#: draws of q that its standard deviation is read from
_SPREAD_DRAWS = 100
#: a tuning run corrects each step size at least this many times, also where there are few temperatures
LEAST_UPDATES = 60
#: change of the log step size by an acceptance that is off by 1
_GAIN = 0.5
#: step sizes are averaged over this number of temperatures
_SMOOTH = 5
#: each trajectory's step size is up to this fraction longer or shorter, so that none is periodic (Neal 2011)
_JITTER = 0.2


def temperatures(number: int, schedule: Schedule) -> tuple[float, ...]:
    """β₀ = 0 < β₁ < … < β_T = 1."""
    grid = torch.linspace(0, 1, number + 1, dtype=torch.float64)
    if schedule == "sigmoid":  # of slope 4, as Wu et al. (2017)
        grid = torch.sigmoid(4 * (2 * grid - 1))
        grid = (grid - grid[0]) / (grid[-1] - grid[0])
    elif schedule == "geometric":
        grid = torch.cat([grid[:1], torch.logspace(-4, 0, number, dtype=torch.float64)])
    return (0.0, *grid[1:-1].tolist(), 1.0)


def covers(target: Target, posterior: Guide, x: Tensor) -> bool:
    """Whether the guide draws the target's latents and no others."""
    few = torch.arange(min(len(x), 2), device=x.device)
    with torch.no_grad(), seeded(0, device=x.device), pyro.validation_enabled(False):
        sites = draw(posterior.select(few), x[few]).sites
    return sites.keys() == {site.name for site in target.sites} and all(s.weight is None for s in sites.values())


@dataclass
class Chains:
    """The state of s chains of B datapoints: their positions, and the two terms of log f_β there with gradients.

    Attributes:
        u: [s, B, D].
        first, second: log p(u) and log p(x | u), or log q(u) and log p(x, u), [s, B].
        grad_first, grad_second: [s, B, D].
    """

    u: Tensor
    first: Tensor
    second: Tensor
    grad_first: Tensor
    grad_second: Tensor


@dataclass(frozen=True)
class Path:
    """log f_β = (1 − fade β) first + β second: fade is 0 from the prior, 1 from q.

    Attributes:
        x: data [B, *event].
        posterior: q of these data, or None.
        scale: standard deviation of u under f_0, [B, D]: the metric of the trajectories.
    """

    target: Target
    x: Tensor
    posterior: Guide | None
    scale: Tensor
    num_leapfrog: int

    @property
    def fade(self) -> float:
        return 0.0 if self.posterior is None else 1.0

    def terms(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The two terms [s, B] at u [s, B, D]."""
        if self.posterior is None:
            return self.target.log_densities(u, self.x)
        return self.target.log_q(u, self.x, self.posterior), self.target.log_joint(u, self.x)

    def at(self, u: Tensor) -> Chains:
        """Chains at u [s, B, D], from one forward pass and a backward pass for each term."""
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            first, second = self.terms(u)
            gradients = [_gradient(first, u, keep=True), _gradient(second, u)]
        return Chains(u.detach(), first.detach(), second.detach(), *gradients)

    def log_density(self, chains: Chains, beta: float) -> Tensor:
        """log f_β [s, B]."""
        return (1 - self.fade * beta) * chains.first + beta * chains.second

    def force(self, chains: Chains, beta: float) -> Tensor:
        """∇ log f_β [s, B, D]."""
        first = chains.grad_first if self.fade == 0 else (1 - beta) * chains.grad_first
        return torch.add(first, chains.grad_second, alpha=beta)

    def gradient(self, u: Tensor, beta: float) -> Tensor:
        """∇ log f_β at u, [s, B, D]."""
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            first, second = self.terms(u)
            return _gradient((1 - self.fade * beta) * first + beta * second, u)

    def slope(self, chains: Chains) -> Tensor:
        """d log f_β / dβ [s, B], which does not depend on β."""
        return chains.second - self.fade * chains.first

    def move(
        self, chains: Chains, beta: float, step: Tensor, momentum: Tensor, uniform: Tensor
    ) -> tuple[Chains, Tensor]:
        """One HMC transition, reversible with respect to f_β, and the probability with which each chain moved [s, B].

        It costs one gradient per leapfrog step: the gradient at the start is available, also after a change of β.

        Args:
            step: [B].
            momentum: standard Normal, in units of 1/scale, [s, B, D].
            uniform: [s, B, 2], for acceptance and the length of the step.
        """
        step = step * (1 + _JITTER * (2 * uniform[..., 1] - 1))
        stride = step.unsqueeze(-1) * self.scale
        p = torch.addcmul(momentum, stride, self.force(chains, beta), value=0.5)
        u = chains.u
        for _ in range(self.num_leapfrog - 1):
            u = torch.addcmul(u, stride, p)
            p.addcmul_(stride, self.gradient(u, beta))
        proposed = self.at(torch.addcmul(u, stride, p))
        p.addcmul_(stride, self.force(proposed, beta), value=0.5)
        density = self.log_density(proposed, beta)
        gain = density - self.log_density(chains, beta) + 0.5 * (momentum.square() - p.square()).sum(-1)
        # a diverged trajectory ends in NaN or at an infinite density: it is rejected
        gain = torch.where(density.isfinite() & ~gain.isnan(), gain, -math.inf)
        moved = uniform[..., 0].log() < gain
        wide = moved.unsqueeze(-1)
        chains = Chains(
            torch.where(wide, proposed.u, chains.u),
            torch.where(moved, proposed.first, chains.first),
            torch.where(moved, proposed.second, chains.second),
            torch.where(wide, proposed.grad_first, chains.grad_first),
            torch.where(wide, proposed.grad_second, chains.grad_second),
        )
        return chains, gain.clamp_max(0).exp()


def _gradient(value: Tensor, u: Tensor, keep: bool = False) -> Tensor:
    """The gradient of each chain: its density depends on its own u alone."""
    if not value.requires_grad:  # a constant density
        return torch.zeros_like(u)
    return torch.autograd.grad(value.sum(), u, retain_graph=keep, materialize_grads=True)[0]


class Annealing(Sampler):
    """Annealed chains for each datum; the step sizes of a datum are tuned when it is first used.

    Args:
        problem: the data and the pair.
        posterior: q, where the chains start from it; None where they start from the prior.
        betas: β₀ … β_T.

    Attributes:
        acceptance: mean probability of acceptance in the latest run of each datum, [N].
    """

    def __init__(
        self,
        problem: Problem,
        posterior: Guide | None,
        betas: tuple[float, ...],
        num_leapfrog: int,
        num_tuning: int,
        target_acceptance: float,
    ) -> None:
        self.target, self.posterior, self.betas, self.num_leapfrog = problem.target, posterior, betas, num_leapfrog
        self.num_tuning, self.target_acceptance, self.seed = num_tuning, target_acceptance, problem.seed
        self.first: Guide = PriorGuide(problem.model, problem.x) if posterior is None else posterior
        number, like = len(problem.x), problem.x
        self.acceptance = like.new_full((number,), math.nan)
        self._is_tuned = torch.zeros(number, dtype=torch.bool, device=like.device)
        self._steps = like.new_zeros(number, len(betas) - 2)
        self._scale = self.target.std.to(like).repeat(number, 1)

    def weights(self, block: Block, particles: int, size: int) -> Iterator[Weighted]:
        """All chains at once, since their positions take little memory; gradients are computed for `size` at a time."""
        log_weight = self.run(block, self._start(block, particles), size)
        yield Weighted(log_weight, log_weight, draws=Draws.given(self.target.values(self._ends)[0]))

    def run(self, block: Block, u: Tensor, size: int, reverse: bool = False) -> Tensor:
        """Log weights [s, B] of chains from u [s, B, D], in float64.

        With `reverse` the chains start at β = 1 and pass the same transitions in reverse order: from u ~ p(u | x),
        E exp(log weight) = 1/p(x).
        """
        path, steps = self.tuned(block, size)
        betas, u = self.betas, u.to(block.data)  # the prior may draw in a precision other than that of the data
        if reverse:
            betas, steps = betas[::-1], steps.flip(0)
        log_weight = u.new_zeros(u.shape[:2], dtype=torch.float64)
        accepted = u.new_zeros(u.shape[1:2])
        with explained(type(self.target.model).__name__):
            chains = [path.at(part) for part in u.split(size)]
            for before, beta, step in zip(betas, betas[1:], [*steps, None], strict=False):
                log_weight += (beta - before) * torch.cat([path.slope(part) for part in chains]).double()
                if step is not None:
                    chains, accept = _move(path, chains, beta, step, block)
                    accepted += accept.mean(0)
        self.acceptance[block.wanted] = accepted / len(steps)
        self._ends = torch.cat([part.u for part in chains])[:CHECKED]
        return log_weight

    def tuned(self, block: Block, size: int) -> tuple[Path, Tensor]:
        """The path of the block's wanted rows, and the step sizes at β₁ … β_{T−1}, [T − 1, B]."""
        new = block.rows[~self._is_tuned[block.wanted]]
        if len(new):
            with seeded(self.seed, _STREAM_TUNE, int(block.positions[0]), device=block.data.device):
                self._tune(replace(block, rows=new), size)
        return self._path(block), self._steps[block.wanted].T

    def _path(self, block: Block) -> Path:
        at = block.wanted
        posterior = None if self.posterior is None else self.posterior.select(at)
        return Path(self.target, block.x, posterior, self._scale[at], self.num_leapfrog)

    def _tune(self, block: Block, size: int) -> None:
        """Tune step sizes on separate chains: they grow where too many proposals are accepted, and shrink elsewhere."""
        at, inner = block.wanted, self.betas[1:-1]
        if self.posterior is not None:
            spread = self._start(block, _SPREAD_DRAWS).std(0)
            self._scale[at] = torch.maximum(spread, 1e-6 * self._scale[at])
        u, path = self._start(block, self.num_tuning), self._path(block)
        log_step = u.new_full((len(at),), -0.25 * math.log(self.target.size))
        repeats = math.ceil(LEAST_UPDATES / max(1, len(inner)))
        record = []
        with explained(type(self.target.model).__name__):
            with pyro.validation_enabled(True):  # check once that x lies in the support of its likelihood
                path.terms(u[:1])
            chains = [path.at(part) for part in u.split(size)]
            for beta in inner:
                mean = torch.zeros_like(log_step)
                for _ in range(repeats):
                    chains, accept = _move(path, chains, beta, log_step.exp(), block)
                    log_step = log_step + _GAIN * (accept.mean(0) - self.target_acceptance)
                    mean += log_step / repeats
                record.append(mean)
        if record:
            half = _SMOOTH // 2
            edged = pad(torch.stack(record, -1).unsqueeze(0), (half, half), mode="replicate")
            self._steps[at] = avg_pool1d(edged, _SMOOTH, 1).squeeze(0).exp()
        self._is_tuned[at] = True

    def _start(self, block: Block, particles: int) -> Tensor:
        """Draws of f_0 for the wanted rows, [particles, B, D], made for the full block."""
        draws = draw(self.first.select(block.positions), block.data[block.positions], particles)
        return self.target.unconstrained(draws.raw_values)[:, block.rows].to(block.data)


def _move(path: Path, chains: Sequence[Chains], beta: float, step: Tensor, block: Block) -> tuple[list[Chains], Tensor]:
    """One transition of all chains, and their probabilities of acceptance [S, B]; all noise is drawn first."""
    sizes = [len(part.u) for part in chains]
    momentum = block.normal(sum(sizes), path.target.size).split(sizes)
    uniform = block.uniform(sum(sizes), 2).split(sizes)
    moved = [
        path.move(part, beta, step, normal, accept)
        for part, normal, accept in zip(chains, momentum, uniform, strict=True)
    ]
    return [part for part, _ in moved], torch.cat([accept for _, accept in moved])
