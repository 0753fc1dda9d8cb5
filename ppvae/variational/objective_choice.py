"""Which gradient estimator, and which form of the KL terms, go with an objective.

The facts stand beside the code that makes them true. The registration of a gradient has `objectives`, the names that it
goes with; `analytic_kl`, where it takes KL terms in closed form; `particles`, where it needs several draws. That of an
objective has `kl_terms`, where it has any, and may have `gradients`, the names that go with it.
"""

from __future__ import annotations

from ppvae import catalogue, require
from ppvae.errors import PpvaeError


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
        PpvaeError: a name unknown, or a combination that makes no sense.
    """
    objectives, gradients = catalogue.OBJECTIVES, catalogue.GRADIENTS
    has_kl = bool(objectives.facts(objective).get("kl_terms"))
    allowed = gradients_of(objective)
    if not allowed:
        raise PpvaeError(f"no gradient goes with objective {objective!r}: register it with gradients=[…]")
    chosen = require.one_of("gradient", allowed[0] if gradient is None else gradient, gradients.names())
    if chosen not in allowed:
        raise PpvaeError(
            f"gradient {chosen!r} does not go with objective {objective!r}, which takes {', '.join(allowed)}"
        )
    integrable = has_kl and bool(gradients.facts(chosen).get("analytic_kl"))
    if kl == "analytic" and not integrable:
        raise PpvaeError(
            f"kl='analytic' goes with the ELBO's reparameterised gradient alone, not {objective} by {chosen}: remove kl"
        )
    if not has_kl:
        if beta != 1 or free_bits:
            raise PpvaeError(
                f"beta and free_bits weigh the ELBO's KL terms, and {objective} has none: remove beta and free_bits"
            )
        if warmup:
            raise PpvaeError(f"warmup raises the weight of the ELBO's KL terms, and {objective} has none: remove it")
    least = gradients.facts(chosen).get("particles", 1)
    if num_particles is not None and num_particles < least:
        raise PpvaeError(f"{chosen} compares particles: num_particles must be ≥ {least}, got {num_particles}")
    return chosen, kl or ("analytic" if integrable else "mc")


def gradients_of(objective: str) -> list[str]:
    """Names of the gradient estimators that go with an objective, its default first."""
    own = catalogue.OBJECTIVES.facts(objective).get("gradients", ())
    gradients = catalogue.GRADIENTS
    return [name for name in gradients.names() if name in own or objective in gradients.facts(name)["objectives"]]
