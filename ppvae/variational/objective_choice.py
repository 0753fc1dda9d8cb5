"""Which gradient estimator, and which form of the KL terms, go with an objective.

These facts are part of the registrations. That of a gradient has `objectives`, which maps the name of each objective
that it goes with to "unbiased" or "biased"; `analytic_kl`, where it takes KL terms in closed form; `drops_score`, where
it removes the score of log q, whose mean is 0; `particles`, where it needs several draws. That of an objective has
`kl_terms`, where it has any, and may have `gradients`, the same mapping for gradients whose files do not name it.
"""

from __future__ import annotations

from typing import Literal, get_args

from ppvae import catalogue, require
from ppvae.errors import PpvaeError

KL = Literal["analytic", "mc"]


def choose_gradient(
    objective: str,
    gradient: str | None = None,
    kl: str | None = None,
    *,
    beta: float = 1.0,
    warmup: int = 0,
    free_bits: float = 0.0,
    num_particles: int | None = None,
) -> tuple[str, str]:
    """The names of the gradient estimator and of the form of the KL terms, the defaults where they are None.

    Raises:
        PpvaeError: an unknown name, or names that do not go together.
    """
    gradients = catalogue.GRADIENTS
    allowed = gradients_of(objective)
    if not allowed:
        raise PpvaeError(
            f'no gradient goes with objective {objective!r}: register it with gradients={{"reparam": "unbiased"}}'
        )
    chosen = require.one_of("gradient", next(iter(allowed)) if gradient is None else gradient, gradients)
    if chosen not in allowed:
        raise PpvaeError(
            f"gradient {chosen!r} does not go with objective {objective!r}, which takes {', '.join(allowed)}"
        )
    if kl is not None:
        require.one_of("kl", kl, get_args(KL))
    has_kl = has_kl_terms(objective)
    integrable = has_kl and bool(gradients.facts(chosen).get("analytic_kl"))
    if kl == "analytic" and not integrable:
        others = [name for name in gradients if gradients.facts(name).get("analytic_kl")]
        raise PpvaeError(
            f"kl='analytic' goes with gradient {' or '.join(others)} of an objective with KL terms, not with "
            f"{objective} by {chosen}: remove kl"
        )
    if not has_kl:
        if beta != 1 or free_bits:
            raise PpvaeError(
                f"beta and free_bits weigh the ELBO's KL terms, and {objective} has none: remove beta and free_bits"
            )
        if warmup:
            raise PpvaeError(f"warmup raises the weight of the ELBO's KL terms, and {objective} has none: remove it")
    if num_particles is not None:
        require_particles(chosen, num_particles)
    return chosen, kl or ("analytic" if integrable else "mc")


def gradients_of(objective: str) -> dict[str, str]:
    """The gradient estimators that go with an objective → "unbiased" or "biased", its default first."""
    own = catalogue.OBJECTIVES.facts(objective).get("gradients", {})
    gradients = catalogue.GRADIENTS
    given = {name: gradients.facts(name).get("objectives", {}).get(objective, own.get(name)) for name in gradients}
    return {name: bias for name, bias in given.items() if bias is not None}


def has_kl_terms(objective: str) -> bool:
    """Whether the objective is a likelihood minus KL terms, to which kl, beta, warmup and free_bits apply."""
    return bool(catalogue.OBJECTIVES.facts(objective).get("kl_terms"))


def without_score(objective: str) -> str | None:
    """The first gradient of an objective that removes the score of log q, or None."""
    facts = catalogue.GRADIENTS.facts
    return next((name for name in gradients_of(objective) if facts(name).get("drops_score")), None)


def require_particles(gradient: str, num_particles: int) -> None:
    """Refuse fewer draws than a gradient needs."""
    least = catalogue.GRADIENTS.facts(gradient).get("particles", 1)
    if num_particles < least:
        raise PpvaeError(f"{gradient} compares particles: num_particles must be ≥ {least}, got {num_particles}")


def table() -> str:
    """Which gradient estimator goes with which objective, in Markdown: ✓ unbiased, b biased, – refused."""
    together = {objective: gradients_of(objective) for objective in catalogue.OBJECTIVES}
    marks = {"unbiased": "✓", "biased": "b", None: "–"}
    return catalogue.GRADIENTS.markdown(
        {f"`{name}`": lambda gradient, of=of: marks[of.get(gradient)] for name, of in together.items()}
    )
