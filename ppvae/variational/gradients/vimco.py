"""Variational inference for Monte Carlo objectives."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ppvae.catalogue import register
from ppvae.pair.densities import Densities
from ppvae.variational.gradients.score import ScoreFunction
from ppvae.variational.objective import Objective


@register("vimco", order=6, objectives={"iwae": "unbiased"}, particles=2)
class VIMCO(ScoreFunction):
    """Score function with a baseline for each particle from the others (Mnih & Rezende 2016)."""

    def signal(self, objective: Objective, densities: Densities, value: Tensor) -> Tensor:
        return objective.signal(densities, value) - log_mean_of_others(densities.log_ratio.detach())


def log_mean_of_others(log_w: Tensor) -> Tensor:
    """What log (1/S) Σ w would be if draw s weighed the geometric mean of the others: [S, B] → [S, B].

    The leave-one-out baseline of VIMCO (Mnih & Rezende 2016).
    """
    size = len(log_w)
    others = (log_w.sum(0, keepdim=True) - log_w) / (size - 1)
    swapped = log_w.unsqueeze(0).expand(size, *log_w.shape).clone()
    index = torch.arange(size, device=log_w.device)
    swapped[index, index] = others
    return swapped.logsumexp(1) - math.log(size)
