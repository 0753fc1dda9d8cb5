"""The variance and the cost of each gradient estimator on a pair."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import pyro
import torch
import xarray as xr
from torch import Tensor

from ppvae import require
from ppvae.entry import entry
from ppvae.errors import PpvaeError
from ppvae.pair.faults import explained
from ppvae.pair.pair import Pair, require_pair
from ppvae.pair.posterior import Posterior
from ppvae.randomness import block_seed, forked, reseed, stream
from ppvae.variational.estimator import Estimator
from ppvae.variational.objective_choice import gradients_of

_STREAM = stream("diagnostics/variance")


@entry
def gradient_variance(
    pair: Pair,
    x: Tensor,
    objective: str = "elbo",
    gradients: Sequence[str] | None = None,
    *,
    num_particles: int = 2,
    repeats: int = 100,
    seed: int = 0,
) -> xr.Dataset:
    """Variance and cost of gradient estimates of an objective, at a fit and its q of x.

    All estimators are taken at the same φ and θ; each estimate has draws of its own. The ratio of two of these
    numbers shows how much less variance reparameterisation has than the score function (Mohamed, Rosca, Figurnov &
    Mnih 2020, "Monte Carlo gradient estimation in machine learning").

    Args:
        pair: a trained pair, which does not change.
        x: data [B, *event].
        objective: the name of an objective, such as "elbo" or "iwae".
        gradients: names of estimators; where None, all that go with the objective and the pair.
        num_particles: S of each estimate.
        repeats: the number of estimates for each variance.
        seed: of all draws.

    Returns:
        Dataset over dim `gradient`: variance_phi, of the gradient of one datum's objective in unconstrained φ, summed
        over its coordinates and averaged over data; variance_theta, of the gradient of the mean objective in θ, summed
        (NaN where θ has no parameters); both in squared nats per squared unit; variance_phi_se, the standard error of
        variance_phi over data; seconds, the median time of an estimate; unbiased.

    Raises:
        PpvaeError: x or an argument is invalid, or an estimator does not go with the objective or the pair.
    """
    require_pair(pair)
    known = gradients_of(objective)
    require.count("num_particles", num_particles)
    require.count("repeats", repeats, least=2)
    require.count("seed", seed, least=0)
    x = pair.as_input(x)
    layout = pair.layout
    rows = layout.pack(pair.posterior(x, seed=seed).phi, len(x)).to(x).detach()
    theta: list[Tensor] = [p for p in pair.model.parameters() if p.requires_grad]
    measured: dict[str, tuple[float, float, float, float]] = {}
    for name in known if gradients is None else gradients:
        estimator = Estimator(objective, name)
        try:
            estimator.suits(pair.model, num_particles)
            with forked(x.device), pyro.validation_enabled(False), explained(type(pair.model).__name__):
                measured[name] = _measure(pair, estimator, x, rows, theta, num_particles, repeats, seed)
        except PpvaeError:
            if gradients is not None:  # given by name
                raise
    if not measured:
        raise PpvaeError(f"no gradient estimator of {objective} goes with {type(pair.model).__name__}")
    phi, phi_se, of_theta, seconds = zip(*measured.values(), strict=True)
    return xr.Dataset(
        {
            "variance_phi": ("gradient", list(phi), {"units": "nats²"}),
            "variance_phi_se": ("gradient", list(phi_se), {"units": "nats²"}),
            "variance_theta": ("gradient", list(of_theta), {"units": "nats²"}),
            "seconds": ("gradient", list(seconds), {"units": "s"}),
            "unbiased": ("gradient", [known[name] == "unbiased" for name in measured]),
        },
        coords={"gradient": list(measured)},
        attrs={"objective": objective, "num_particles": num_particles, "repeats": repeats, "seed": seed},
    )


def _measure(
    pair: Pair,
    estimator: Estimator,
    x: Tensor,
    rows: Tensor,
    theta: list[Tensor],
    particles: int,
    repeats: int,
    seed: int,
) -> tuple[float, float, float, float]:
    """(variance in φ, its standard error over data, variance in θ, seconds)."""
    of_rows, of_theta, seconds = [], [], []
    for repeat in range(repeats):
        reseed(block_seed(seed, _STREAM, repeat), x.device)
        start = time.perf_counter()
        with torch.enable_grad():
            leaf = rows.clone().requires_grad_()
            bound, _ = estimator.estimate(pair.model, Posterior(pair.model, pair.layout.unpack(leaf)), x, particles)
            first, *others = torch.autograd.grad(bound.mean(), [leaf, *theta], allow_unused=True)
        seconds.append(time.perf_counter() - start)
        of_rows.append(torch.zeros_like(rows) if first is None else first * len(x))
        of_theta.append(torch.cat([g.flatten() for g in others if g is not None]) if others else rows.new_zeros(0))
    each = torch.stack(of_rows).double().var(0).sum(-1)  # [B]
    error = (each.std() / len(each) ** 0.5).item() if len(each) > 1 else float("nan")
    whole = torch.stack(of_theta).double()
    variance = whole.var(0).sum().item() if whole.shape[-1] else float("nan")
    return each.mean().item(), error, variance, statistics.median(seconds)
