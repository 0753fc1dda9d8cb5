"""Exact inference: φ is the true posterior under the current θ.

It exists where the model has `exact_phi(x)` (a finite sum, a linear Gaussian), or where φ is empty because the
model enumerates and sums out every latent. The bound is then log p(x), and a
fit is gradient EM: the E-step of Dempster, Laird & Rubin (1977), and one gradient step of the M-step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ppvae.catalogue import register
from ppvae.data.batch import Batch
from ppvae.errors import PpvaeError
from ppvae.pair.local import Phi
from ppvae.pair.model import Model, overrides
from ppvae.variational.bound import Bound
from ppvae.variational.strategy import Strategy


@register("exact", compare={})
class Exact(Strategy):
    """φ = model.exact_phi(x), without a gradient through it, as the bound is stationary in φ there."""

    def __init__(self, model: Model, x: Tensor) -> None:
        super().__init__(model, x)
        if self.layout.width and overrides(model, "guide") and model.guide_family is not None:
            raise PpvaeError("exact inference uses the model's own family: remove family")
        if self.layout.width and not overrides(model, "exact_phi"):
            raise PpvaeError(
                f"{type(model).__name__} has no exact posterior: write exact_phi(x) -> φ, mark its discrete latents "
                'infer={"enumerate": "parallel"} and remove the guide, or choose another strategy'
            )

    def forward(self, batch: Batch, bound: Bound) -> Phi:
        if not self.layout.width:
            return {}
        with torch.no_grad():
            return bound.model.exact_phi(batch.x)
