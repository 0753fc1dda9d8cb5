"""Importance sampling from a q that was optimised for each datum."""

from __future__ import annotations

from ppvae import require
from ppvae.catalogue import METHODS
from ppvae.evidence.problem import Problem
from ppvae.evidence.proposal import Proposal
from ppvae.evidence.widening import widened
from ppvae.randomness import block_seed, stream
from ppvae.variational.refinement import refine

#: the stream of random numbers of the optimisation
_STREAM_REFINE = stream("evidence/refined")


@METHODS.register("refined", order=4, applies=("continuous", "mixed", "enumerated", "summed", "drawn"))
def refined(
    problem: Problem,
    *,
    widen: float | None = None,
    lr: float = 0.05,
    max_steps: int = 300,
    tolerance: float = 0.05,
    particles: int = 4,
) -> Proposal:
    """Importance sampling from q with φ of each datum refined by gradient steps on its ELBO, slightly widened.

    It starts at φ of the pair; θ and the weights that the guide owns do not change. The ELBO prefers a q that is too
    narrow, whose weights have heavy tails; a slightly wider q removes them. `converged` says for each datum whether
    its bound had stopped rising; the estimate is unbiased in p in both cases.

    Args:
        widen: multiplies the standard deviations of q; where None, 1 + 0.45/√D for D continuous latents if q is
            Gaussian, a transform of Gaussians or a mixture of them, else 1.
        lr, max_steps, tolerance, particles: of the refinement, as `ppvae.variational.refinement.refine` has them.

    Raises:
        PpvaeError: an option is out of range, or q is to be widened and cannot be.
    """
    if widen is not None:
        require.positive("widen", widen)
    problem.require_density("refined")
    posterior = refine(
        problem.posterior,
        problem.x,
        lr=lr,
        max_steps=max_steps,
        tolerance=tolerance,
        particles=particles,
        seed=block_seed(problem.seed, _STREAM_REFINE),
        positions=problem.positions,
    )
    return Proposal(problem.model, widened(posterior, problem.x, widen), posterior.converged, problem.joint)
