"""The importance-weighted bound."""

from __future__ import annotations

from torch import Tensor

from ppvae.catalogue import register
from ppvae.pair.densities import Densities
from ppvae.variational.objective import Objective


@register("iwae", order=2)
class IWAE(Objective):
    """The importance-weighted bound of num_particles draws (Burda, Grosse & Salakhutdinov 2016)."""

    def value(self, densities: Densities) -> Tensor:
        return iwae(densities)


def iwae(densities: Densities) -> Tensor:
    """The importance-weighted bound log (1/S) Σ p(x, zₛ)/q(zₛ | x) ≤ log p(x) in expectation, per datum [B].

    Tightens as S grows, and is the ELBO at S = 1 (Burda, Grosse & Salakhutdinov 2016). Rows of an enumerated site
    are weighed by q, so that the average over its values is exact.
    """
    return densities.weighed_ratio().logsumexp(0)
