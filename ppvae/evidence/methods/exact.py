"""log p(x) without draws: in closed form, by a sum over values, or by quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppvae import require
from ppvae.blocks import DATA_BLOCK
from ppvae.catalogue import METHODS
from ppvae.errors import PpvaeError
from ppvae.evidence.method import Known
from ppvae.evidence.newton import modes
from ppvae.evidence.problem import Problem
from ppvae.evidence.quadrature import quadrature
from ppvae.pair.densities import score
from ppvae.pair.faults import explained
from ppvae.pair.model import Model, overrides
from ppvae.pair.prior import PriorGuide
from ppvae.pair.sites import Draws, is_subsample
from ppvae.pair.target import Target
from ppvae.randomness import seeded, stream

#: the most combinations of values that are summed over
_MOST_VALUES = 100_000
#: the most dimensions of quadrature
_MOST_DIMS = 2
#: number of data on which it is first tested whether log p(x, u) is quadratic
_FEW = 4
#: distances between the test points, in prior standard deviations, and the number of directions
_FAR, _DIRECTIONS = (1.0, 10.0, 100.0), 8
#: the stream of random numbers of these directions
_STREAM_CHECK = stream("evidence/exact/check")


@METHODS.register("exact", order=7, applies=("continuous", "mixed", "enumerated", "summed", "drawn"))
def exact(problem: Problem, *, tolerance: float = 1e-8) -> Known:
    """No draws: a closed form, a sum over all values, or quadrature in one or two dimensions.

    In this order: the model's own log_prob(x); where all latents are discrete and take finitely many values, the sum
    over these; where log p(x, u) is quadratic in the continuous latents, the Gaussian integral; for at most two
    unconstrained dimensions, adaptive Gauss-Legendre quadrature around all modes that are reached from a grid.
    `log_marginal_se` is the estimated numerical error; it misses a peak far narrower than the grid to which no
    slope leads.

    Args:
        tolerance: error in nats at which quadrature stops, unless rounding or a limit on cells stops it earlier: in
            single precision an error of about 1e-5 remains, and about as much from the kinks of a ReLU network in two
            dimensions.

    Raises:
        PpvaeError: none of these methods applies.
    """
    require.positive("tolerance", tolerance)
    model = problem.model
    if overrides(model, "log_prob"):
        with torch.no_grad():
            value = model.log_prob(problem.x)
        return Known(value, torch.zeros_like(value))
    with torch.no_grad(), pyro.validation_enabled(False):
        latents = PriorGuide(model, problem.x).latents
        if all(site["fn"].support.is_discrete for site in latents.values()):
            return _enumerated(problem, latents)
        try:
            target = problem.target
        except PpvaeError as error:
            raise PpvaeError(f'{_without(model)}, and {error}, such as method="importance"') from None
        _validate(target, problem.x)
        with explained(type(model).__name__):
            known = _gaussian(problem, target)
            if known is None and target.size <= _MOST_DIMS:
                known = quadrature(problem, target, tolerance)
    if known is None:
        raise PpvaeError(
            f"{_without(model)}, is not linear Gaussian, and quadrature takes at most {_MOST_DIMS} continuous latent "
            f'dimensions, and it has {target.size}: use method="importance", or another that draws'
        )
    return known


def _without(model: Model) -> str:
    return f"{type(model).__name__} has no exact log_prob(x)"


def _validate(target: Target, x: Tensor) -> None:
    """Check that x lies in the support of its likelihood."""
    with pyro.validation_enabled(True), explained(type(target.model).__name__):
        for part in x.split(DATA_BLOCK):
            target.log_joint(target.mean.expand(1, len(part), -1), part)


# sums


def _enumerated(problem: Problem, latents: dict[str, Any]) -> Known:
    count = 1
    for name, site in latents.items():
        fn = site["fn"]
        if not fn.has_enumerate_support or fn.event_shape:
            raise PpvaeError(
                f"{_without(problem.model)}, and its latent {name!r} ({type(fn).__name__}) has no list of values to "
                'sum over: use method="importance"'
            )
        count *= len(fn.enumerate_support(expand=False))
    if count > _MOST_VALUES:
        raise PpvaeError(
            f'{_without(problem.model)}, and its latents take {count} values together: use method="importance"'
        )
    value = problem.x.new_full((len(problem.x),), math.nan)
    with explained(type(problem.model).__name__), pyro.validation_enabled(True):
        for at in problem.parts(problem.chunk_size // count):
            nothing = Draws({}, len(at), 1, next_dim=-3, reparameterized=True, analytic=False)
            value[at] = score(_marking(problem.model), problem.x[at], nothing).log_joint[0]
    return Known(value, torch.zeros_like(value))


def _marking(model: Model) -> Callable[[Tensor], None]:
    """The model's program with every latent marked for enumeration."""

    def marking(x: Tensor) -> None:
        with _Marks():
            model.model(x)

    return marking


class _Marks(Messenger):
    def _pyro_sample(self, msg: Any) -> None:
        if not (msg["is_observed"] or is_subsample(msg)):
            msg["infer"] = {**msg["infer"], "enumerate": "parallel"}


# Gaussian integrals


def _gaussian(problem: Problem, target: Target) -> Known | None:
    """None where log p(x, u) is not quadratic in u for every datum."""
    device = problem.x.device
    value = torch.full((len(problem.x),), math.nan, dtype=torch.float64, device=device)
    error = torch.zeros_like(value)
    for at in [problem.parts(_FEW)[0], *problem.parts(DATA_BLOCK)]:
        x = problem.x[at]
        with seeded(problem.seed, _STREAM_CHECK, device=device):
            noise = torch.randn(_DIRECTIONS, 1, target.size, dtype=target.mean.dtype, device=device)
        if not _quadratic(target, noise, x, problem.chunk_size):
            return None
        result = modes(target, target.mean.expand(len(at), -1), x, problem.chunk_size)
        if not result.usable.all():
            return None
        value[at] = result.log_integral(target)
        # every draw of the Gaussian posterior has the weight p(x), up to rounding
        u = result.u + (result.scale_tril(target) @ noise.unsqueeze(-1)).squeeze(-1)
        quadratic = result.log_joint.double() - 0.5 * noise.double().square().sum(-1)
        error[at] = (_log_joint(target, u, x, problem.chunk_size).double() - quadratic).abs().amax(0)
    return Known(value, error)


def _quadratic(target: Target, noise: Tensor, x: Tensor, rows: int) -> bool:
    """Whether third differences of log p(x, u) vanish along some lines, near the prior and far from it."""
    tolerance = 0.1 * math.sqrt(torch.finfo(noise.dtype).eps)
    for far in _FAR:
        start = target.mean + far * target.std * noise.flip(0)
        line = [start + k * far * target.std * noise for k in range(4)]
        points = torch.cat(line).expand(-1, len(x), -1)
        a, b, c, d = _log_joint(target, points, x, rows).chunk(4)
        scale = torch.stack([a, b, c, d]).abs().amax(0)
        if not bool(((d - a - 3 * (c - b)).abs() <= tolerance * scale).all()):  # False for NaN, too
            return False
    return True


def _log_joint(target: Target, u: Tensor, x: Tensor, rows: int) -> Tensor:
    """log p(x, u) [S, B] at u [S, B, D], at most `rows` latents × datapoints at a time."""
    return torch.cat([target.log_joint(part, x) for part in u.split(max(1, rows // len(x)))])
