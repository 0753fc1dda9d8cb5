"""Importance sampling from q as it is."""

from __future__ import annotations

from ppvae.evidence.method import Question, method
from ppvae.evidence.proposal import Proposal


@method("importance", applies=("continuous", "mixed", "enumerated", "summed", "drawn"))
def importance(asked: Question) -> Proposal:
    """Importance sampling from q as it is (Burda, Grosse & Salakhutdinov 2016).

    log (1/S) Σ p(x, zₛ)/q(zₛ | x) is below log p(x) in expectation, by half its squared standard error or so.
    """
    return Proposal(asked.model, asked.posterior)
