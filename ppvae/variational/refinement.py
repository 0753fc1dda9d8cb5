"""φ of each datum optimised by itself; θ and the weights that the guide owns do not change.

Rows of new data, the refined proposal and the inference gaps use it. Draws are made for whole blocks of data: those of
a datum depend on its position and the seed, not on which other data are optimised or have converged.
"""

from __future__ import annotations

from dataclasses import replace

import pyro
import torch
from torch import Tensor

from ppvae import require
from ppvae.blocks import ROW_BLOCK, row_blocks
from ppvae.errors import PpvaeError
from ppvae.pair.faults import explained
from ppvae.pair.local import Layout
from ppvae.pair.posterior import Posterior
from ppvae.pair.rows_of_guide import rows_of_guide
from ppvae.pair.sites import draw
from ppvae.randomness import block_seed, seeded
from ppvae.variational.bound import Bound
from ppvae.variational.estimator import Estimator
from ppvae.variational.rows import RowFit, fit_rows


def optimise_rows(
    rows: Tensor,
    bound: Bound,
    layout: Layout,
    *,
    lr: float,
    max_steps: int,
    tolerance: float,
    seed: int,
    positions: Tensor | None = None,
) -> RowFit:
    """Optimise the rows of data x, block by block, each until its own bound stops rising.

    Args:
        rows: where to start, [N, width].
        bound: the objective at x [N, *event].
        layout: reads rows as φ.
        lr, max_steps, tolerance: as `fit_rows` has them.
        seed: of all draws; the caller's random state is restored.
        positions: [A] of the rows to optimise; the others do not change, their bound is NaN and they count as not
            converged.
    """
    result = RowFit(
        rows.detach().clone(),
        rows.new_full((len(rows),), torch.nan),
        torch.zeros(len(rows), dtype=torch.bool, device=rows.device),
        0,
    )
    wanted = torch.ones_like(result.converged) if positions is None else torch.zeros_like(result.converged)
    wanted[slice(None) if positions is None else positions] = True
    for number, at in row_blocks(len(rows), rows.device):
        within = wanted[at].nonzero().flatten()
        if not len(within):
            continue
        block = replace(bound, x=bound.x[at], block=ROW_BLOCK)

        def objective(rows: Tensor, which: Tensor, block: Bound = block, within: Tensor = within) -> Tensor:
            return block(layout.unpack(rows), within[which])

        part = fit_rows(
            rows[at[within]],
            objective,
            lr=lr,
            max_steps=max_steps,
            tolerance=tolerance,
            seed=block_seed(seed, number),
        )
        result.rows[at[within]], result.bound[at[within]] = part.rows, part.bound
        result.converged[at[within]] = part.converged
        result.steps = max(result.steps, part.steps)
    return result


def refine(
    posterior: Posterior,
    x: Tensor,
    *,
    lr: float = 0.05,
    max_steps: int = 400,
    tolerance: float = 0.02,
    particles: int = 4,
    seed: int = 0,
    positions: Tensor | None = None,
) -> Posterior:
    """Raise the ELBO of each datum, starting from its present φ; the objective of training does not matter.

    Args:
        posterior: q of x; θ and all else in its model do not change.
            Where the guide has no φ, since it computes its distributions from x, these become rows of φ.
        x: data [N, *event].
        lr: Adam's step, in unconstrained units.
        max_steps: the most steps; φ of a datum that needs more counts as not converged.
        tolerance: nats; φ has converged when its bound, on common random numbers, rises by less than this over 25
            steps at each of three falling learning rates.
        particles: draws for each datum and step.
        seed: of all draws; the caller's random state is restored.
        positions: [A] of the data to optimise; φ of the others does not change, and counts as not converged.

    Returns:
        q with `converged` [N].

    Raises:
        PpvaeError: arguments out of range.
    """
    require.positive("lr", lr)
    require.count("max_steps", max_steps)
    require.positive("tolerance", tolerance)
    require.count("particles", particles)
    if positions is not None and len(positions) and not 0 <= int(positions.min()) <= int(positions.max()) < len(x):
        raise PpvaeError(f"positions must lie in 0 … {len(x) - 1}, the positions of the data")
    layout = posterior.model.layout()
    if not layout.width:
        rows_of = rows_of_guide(posterior, x)
        if rows_of is None:
            drawn = bool(draw(posterior.select(torch.arange(1, device=x.device)), x[:1]).sites)
            converged = torch.full((len(x),), not drawn, device=x.device)  # without latents there is nothing to refine
            return Posterior(posterior.model, posterior.phi, converged)
        posterior, layout = rows_of, rows_of.model.layout()
    rows = layout.pack(posterior.phi, len(x)).to(x).detach()
    with pyro.validation_enabled(False), explained(type(posterior.model).__name__):
        estimator = _estimator(posterior, x)
        if estimator.by_score:
            particles = max(particles, 2)
        result = optimise_rows(
            rows,
            Bound(posterior.model, x, estimator, particles),
            layout,
            lr=lr,
            max_steps=max_steps,
            tolerance=tolerance,
            seed=seed,
            positions=positions,
        )
    return Posterior(posterior.model, layout.unpack(result.rows), result.converged)


def _estimator(posterior: Posterior, x: Tensor) -> Estimator:
    """The ELBO with the plain gradient, or where the guide draws a discrete latent, by the score function."""
    with torch.no_grad(), seeded(0, device=x.device):
        reparameterized = draw(
            posterior.select(torch.zeros(1, dtype=torch.long, device=x.device)), x[:1]
        ).reparameterized
    return Estimator("elbo", "reparam" if reparameterized else "loo")
