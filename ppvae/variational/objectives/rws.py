"""Reweighted wake-sleep."""

from __future__ import annotations

from torch import Tensor

from ppvae.catalogue import register
from ppvae.pair.densities import Densities
from ppvae.variational.objective import Objective
from ppvae.variational.objectives.iwae import iwae


@register("rws", order=3)
class ReweightedWakeSleep(Objective):
    """Reweighted wake-sleep, whose value is the importance-weighted bound (Bornschein & Bengio 2015)."""

    def value(self, densities: Densities) -> Tensor:
        return iwae(densities)
