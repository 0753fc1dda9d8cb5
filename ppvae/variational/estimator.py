"""How the gradient of an objective is estimated.

An `Estimator` is an objective and a gradient estimator together. It gives one tensor per datum whose value is the
objective's, and whose gradient is the estimator's: whoever has it need not know which of them was chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from ppvae import require
from ppvae.errors import PpvaeError
from ppvae.pair.densities import Densities, score
from ppvae.pair.model import Model
from ppvae.pair.posterior import Posterior
from ppvae.pair.sites import Draws, Grad, draw
from ppvae.variational.objective import (
    KL,
    OBJECTIVES,
    ObjectiveName,
    elbo,
    iwae,
    log_mean_of_others,
    normalised_weights,
)

Gradient = Literal["reparam", "stl", "dreg", "score", "loo", "vimco", "wake"]
GRADIENTS: tuple[Gradient, ...] = get_args(Gradient)
#: objective → the gradient estimators that go with it, the default first
TOGETHER: dict[ObjectiveName, tuple[Gradient, ...]] = {
    "elbo": ("reparam", "stl", "score", "loo"),
    "iwae": ("reparam", "stl", "dreg", "score", "vimco"),
    "rws": ("wake",),
}
#: those whose expectation is the gradient of the objective
UNBIASED: dict[ObjectiveName, tuple[Gradient, ...]] = {
    "elbo": ("reparam", "stl", "score", "loo"),
    "iwae": ("reparam", "dreg", "score", "vimco"),
    "rws": (),
}
#: in words and the paper of each
MEANING: dict[Gradient, str] = {
    "reparam": "through the draws, z = g(ε, φ) (Kingma & Welling 2014)",
    "stl": "through the draws alone, without the score of log q: sticking the landing (Roeder et al. 2017)",
    "dreg": "doubly reparameterised, by a copy of φ for each particle (Tucker et al. 2019)",
    "score": "score function, REINFORCE (Williams 1992)",
    "loo": "score function with the mean of the other particles as baseline (Kool et al. 2019)",
    "vimco": "score function with a baseline for each particle from the others (Mnih & Rezende 2016)",
    "wake": "reweighted wake-sleep: θ by the importance-weighted bound, φ by the weighted log q (Bornschein & Bengio "
    "2015)",
}
_GRAD: dict[Gradient, Grad] = {
    "reparam": "full", "stl": "path", "dreg": "path", "score": "score", "loo": "score", "vimco": "score",
    "wake": "score",
}  # fmt: skip


def table() -> str:
    """Which gradient estimator goes with which objective, in Markdown: ✓ unbiased, b biased, – refused."""
    objectives = [f"`{name}`" for name in OBJECTIVES]
    lines = [f"| gradient | {' | '.join(objectives)} | what it is |", "|---" * (len(OBJECTIVES) + 2) + "|"]
    for gradient in GRADIENTS:
        cells = [
            "✓" if gradient in UNBIASED[name] else "b" if gradient in TOGETHER[name] else "–" for name in OBJECTIVES
        ]
        lines.append(f"| `{gradient}` | {' | '.join(cells)} | {MEANING[gradient]} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Estimator:
    """An objective and the estimator of its gradient.

    Args:
        objective: "elbo", "iwae" (of num_particles draws) or "rws" (reweighted wake-sleep: the value is IWAE's).
        gradient: see `MEANING`; where None, the objective's default.
        kl: of the ELBO, "analytic" where that is exact or "mc"; where None, analytic if the gradient allows it.
        beta, free_bits: as `elbo` has them.

    Raises:
        PpvaeError: a name unknown, or a combination that makes no sense.
    """

    objective: ObjectiveName = "elbo"
    gradient: Gradient | None = None
    kl: KL | None = None
    beta: float = 1.0
    free_bits: float = 0.0

    def __post_init__(self) -> None:
        require.one_of("objective", self.objective, OBJECTIVES)
        allowed = TOGETHER[self.objective]
        if self.gradient is None:
            object.__setattr__(self, "gradient", allowed[0])
        require.one_of("gradient", self.gradient, GRADIENTS)
        if self.gradient not in allowed:
            raise PpvaeError(
                f"gradient {self.gradient!r} does not go with objective {self.objective!r}, which takes "
                f"{', '.join(allowed)}"
            )
        if self.kl is not None:
            require.one_of("kl", self.kl, get_args(KL))
        integrable = self.objective == "elbo" and self.gradient == "reparam"
        if self.kl == "analytic" and not integrable:
            raise PpvaeError(
                "kl='analytic' goes with the ELBO's reparameterised gradient alone, "
                f"not {self.objective} by {self.gradient}: leave kl out"
            )
        if self.kl is None:
            object.__setattr__(self, "kl", "analytic" if integrable else "mc")
        require.positive("beta", self.beta, zero=True)
        require.positive("free_bits", self.free_bits, zero=True)
        if self.objective != "elbo" and (self.beta != 1 or self.free_bits):
            raise PpvaeError(
                f"beta and free_bits weigh the ELBO's KL terms, and {self.objective} has none: leave them out"
            )

    @property
    def by_score(self) -> bool:
        """Whether draws are constants to the gradient."""
        assert self.gradient is not None
        return _GRAD[self.gradient] == "score"

    def plain(self) -> Estimator:
        """The same objective with the plain gradient where draws carry it: φ of one datum needs no other."""
        return self if self.by_score else replace(self, gradient="reparam")

    def suits(self, model: Model, num_particles: int) -> None:
        """Refuse a model, or a number of particles, that the gradient estimator does not work for."""
        if self.gradient == "dreg" and model.guide_modules:
            raise PpvaeError(
                f"{type(model).__name__}'s guide owns weights ({', '.join(model.guide_modules)}), which have no copy "
                "for each particle: dreg needs a guide of φ alone; use stl or reparam"
            )
        # elsewhere θ's part in log q needs no care: stl leaves it in, its mean is 0; score functions weigh it as φ's
        if self.gradient in ("dreg", "wake") and model.guide_family is not None and model.guide_family.uses_model:
            others = {"dreg": "stl or reparam", "wake": "objective='iwae' with vimco or reparam"}[self.gradient]
            raise PpvaeError(
                f"θ takes part in the q of this family, and {self.gradient} is for a q of φ alone: use {others}"
            )
        if self.gradient in ("loo", "vimco") and num_particles < 2:
            raise PpvaeError(f"{self.gradient} compares particles: num_particles must be ≥ 2, got {num_particles}")

    def estimate(
        self,
        model: Model,
        posterior: Posterior,
        x: Tensor,
        num_particles: int,
        draws: Draws | None = None,
    ) -> tuple[Tensor, Densities]:
        """(objective [B] with the estimator's gradient, the densities behind it).

        `draws` that were made before, of the plain or the score-function gradient, stand in for fresh ones.
        """
        assert self.gradient is not None
        if not torch.is_grad_enabled():
            densities = score(model, x, draws or draw(posterior, x, num_particles))
            return self.value(densities), densities
        if self.gradient == "dreg":
            return self._doubly(model, posterior, x, num_particles)
        densities = score(model, x, draws or draw(posterior, x, num_particles, None, _GRAD[self.gradient]))
        if _GRAD[self.gradient] != "score":
            if not densities.reparameterized:
                raise PpvaeError(
                    "the guide draws a discrete latent, through which no reparameterised gradient flows: mark the "
                    f'site infer={{"enumerate": "parallel"}}, or choose gradient={" or ".join(self._without())}'
                )
            return self.value(densities), densities
        return self._with_gradient(self._surrogate(densities), densities), densities

    def value(self, densities: Densities) -> Tensor:
        """The objective [B]."""
        if self.objective == "elbo":
            assert self.kl is not None
            return elbo(densities, self.kl, self.beta, self.free_bits)
        return iwae(densities)

    def _without(self) -> list[str]:
        """Estimators of this objective that need no reparameterisation."""
        return [repr(name) for name in TOGETHER[self.objective] if _GRAD[name] == "score"] or ["'score'"]

    def _with_gradient(self, surrogate: Tensor, densities: Densities) -> Tensor:
        return self.value(densities).detach() + (surrogate - surrogate.detach())

    def _surrogate(self, densities: Densities) -> Tensor:
        """A function whose gradient is the score-function estimate; z is a constant in it, [B]."""
        log_q, log_w = densities.log_q, densities.log_ratio
        if self.objective == "rws":
            weights = normalised_weights(densities)
            return (weights * (densities.log_joint + log_q)).sum(0)
        if densities.enumerated and densities.sampled:
            raise PpvaeError(
                f"the guide has enumerated sites beside drawn ones, which {self.gradient} cannot tell apart: use "
                "reparam"
            )
        if densities.enumerated:  # nothing was drawn: the sum itself carries the whole gradient
            return self.value(densities)
        if self.objective == "elbo":
            kl = self.beta * densities.kl(analytic=False)
            signal = (densities.log_likelihood - kl).detach()
            if self.gradient == "loo":
                signal = signal - (signal.sum(0) - signal) / (len(signal) - 1)
            # E[∂ log q / ∂φ] = 0: that term is left out
            return (signal * log_q + densities.log_likelihood + self.beta * densities.log_prior).mean(0)
        bound = iwae(densities)
        signal = bound.detach()
        if self.gradient == "vimco":
            signal = signal - log_mean_of_others(log_w.detach())
        return (signal * log_q).sum(0) + bound

    def _doubly(
        self,
        model: Model,
        posterior: Posterior,
        x: Tensor,
        num_particles: int,
    ) -> tuple[Tensor, Densities]:
        """θ gets Σ w̄ ∂log w, φ gets Σ w̄² ∂log w through its draws: each particle has a copy of φ, whose gradient is
        multiplied by w̄ on its way back.
        """
        weights: list[Tensor] = []

        def weighed(gradient: Tensor) -> Tensor:
            return gradient * weights[0].reshape(*weights[0].shape, *[1] * (gradient.dim() - 2))

        copies = {}
        for name, value in posterior.phi.items():
            copy = value.unsqueeze(0).expand(num_particles, *value.shape).clone()
            if copy.requires_grad:
                copy.register_hook(weighed)
            copies[name] = copy
        densities = score(model, x, draw(Posterior(model, copies), x, num_particles, None, "path"))
        if not densities.reparameterized or densities.enumerated:
            raise PpvaeError("dreg differentiates through every draw, and the guide has a discrete latent: use vimco")
        weights.append(normalised_weights(densities))
        return self._with_gradient((weights[0] * densities.log_ratio).sum(0), densities), densities
