"""What is maximised: functions of the densities, [R, B] → [B], in nats/datum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from ppvae.densities import Densities
from ppvae.errors import PpvaeError

Objective = Callable[[Densities], Tensor]
KL = Literal["analytic", "mc"]


def elbo(densities: Densities, kl: KL = "mc") -> Tensor:
    """The evidence lower bound L[q] = E_q[log p(x, z) − log q(z)] ≤ log p(x) per datum [B].

    `kl="analytic"` replaces log q − log p by KL(q ‖ p) site by site wherever that is exact and registered
    (Kingma & Welling 2014, appendix B); `"mc"` keeps the draws, whose noise vanishes as q nears the truth
    (Roeder et al. 2017).
    """
    if kl == "mc":
        return densities.mean(densities.log_ratio)
    if kl == "analytic":
        return densities.mean(densities.log_likelihood - densities.kl())
    raise PpvaeError(f"kl must be 'analytic' or 'mc', got {kl!r}")
