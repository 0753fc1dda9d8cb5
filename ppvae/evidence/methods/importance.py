"""Importance sampling from q."""

from __future__ import annotations

from ppvae import require
from ppvae.catalogue import METHODS
from ppvae.errors import PpvaeError
from ppvae.evidence.defended import Defended
from ppvae.evidence.problem import Problem
from ppvae.evidence.proposal import Proposal
from ppvae.evidence.widening import Widened
from ppvae.pair.posterior import Guide


@METHODS.register("importance", order=3, applies=("continuous", "mixed", "enumerated", "summed", "drawn"))
def importance(problem: Problem, *, widen: float = 1.0, tails: float | None = None, defence: float = 0.0) -> Proposal:
    """Importance sampling from q as it is (Burda, Grosse & Salakhutdinov 2016).

    log (1/S) Σ p(x, zₛ)/q(zₛ | x) is below log p(x) in expectation, by about half its squared standard error.

    Args:
        widen: multiplies the standard deviations of q, where it is Gaussian.
        tails: degrees of freedom of a Student t in place of each Gaussian (Geweke 1989).
        defence: the share of draws that come from the prior; weights are under the mixture, and bounded by
            p(x | z)/defence (Hesterberg 1995).

    Raises:
        PpvaeError: an option is out of range, q is to be widened and is not Gaussian, or q is to be defended and
            enumerates some latents and draws others.
    """
    require.positive("widen", widen)
    if tails is not None:
        require.positive("tails", tails)
    if require.positive("defence", defence, zero=True) >= 1:
        raise PpvaeError(f'defence must be a share below 1, got {defence}: all draws from the prior are method="prior"')
    if not defence or (problem.fault is not None and not problem.fault.bounded):
        problem.require_density("importance")
    guide: Guide = problem.posterior
    if widen != 1 or tails is not None:
        guide = Widened(guide, widen, tails)
    return (
        Defended(problem.model, guide, defence, problem.x)
        if defence
        else Proposal(problem.model, guide, joint=problem.joint)
    )
