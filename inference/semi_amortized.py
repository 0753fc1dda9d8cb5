"""Semi-amortized inference: the encoder proposes φᵢ, a few gradient steps on the bound refine it.

Kim, Wiseman, Miller, Sontag & Rush (2018), "Semi-Amortized Variational Autoencoders", differentiate the final bound
through the steps; Krishnan, Liang & Hoffman (2018), "On the challenges of learning with inference networks on
sparse, high-dimensional data", do not: θ learns at the refined φ, the encoder at the φ that
it proposed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from ppvae import require
from ppvae.blocks import ROW_BLOCK, row_blocks
from ppvae.catalogue import register
from ppvae.data.batch import Batch
from ppvae.errors import PpvaeError
from ppvae.inference.amortized import Amortized
from ppvae.pair.local import Phi
from ppvae.pair.model import Model
from ppvae.pair.posterior import Posterior
from ppvae.randomness import block_seed, forked, reseed
from ppvae.variational.bound import Bound


@register("semi-amortized")
class SemiAmortized(Amortized):
    """φ = T steps of gradient ascent on the bound, with momentum, from head(encoder(x)).

    Args:
        encoder, activation: as for amortized inference.
        refine_steps: T.
        lr: length of a step, in unconstrained units, on the bound of one datum in nats.
        momentum: the fraction of the last step that is added to the next.
        clip: the largest 2-norm of the gradient of one row; longer ones are scaled down.
        backprop: "full": the gradient of the final bound goes back through the steps, to the encoder and to θ;
            score-function gradients refuse it, as they hold the draws constant.
            "truncated": θ gets its gradient at the refined φ, the encoder at the φ that it proposed.
    """

    def __init__(
        self,
        model: Model,
        x: Tensor,
        *,
        encoder: nn.Module | None = None,
        activation: str | None = None,
        refine_steps: int = 5,
        lr: float = 0.05,
        momentum: float = 0.5,
        clip: float = 10.0,
        backprop: Literal["full", "truncated"] = "full",
    ) -> None:
        super().__init__(model, x, encoder=encoder, activation=activation)
        self.refine_steps = require.count("refine_steps", refine_steps, least=0)
        self.lr = require.positive("lr", lr)
        self.momentum = require.positive("momentum", momentum, zero=True)
        if self.momentum >= 1:
            raise PpvaeError(f"momentum must be below 1, got {momentum}: the steps would grow without limit")
        self.clip = require.positive("clip", clip)
        self.backprop = require.one_of("backprop", backprop, ("full", "truncated"))
        if backprop == "full" and model.guide_family is not None and model.guide_family.differentiable_once:
            raise PpvaeError(
                'draws of a mixture cannot be differentiated twice, as backprop="full" does: use backprop="truncated"'
            )

    def forward(self, batch: Batch, bound: Bound) -> Phi:
        if not self.layout.width:
            return {}
        proposed = self.propose(batch.x)
        if not (torch.is_grad_enabled() and self.training):
            return self.layout.unpack(self._refine(proposed, bound, keep=False))
        if self.backprop == "full" and self.refine_steps and bound.estimator.by_score:
            raise PpvaeError(
                f'gradient {bound.estimator.gradient!r} holds the draws constant, through which backprop="full" '
                'differentiates: use backprop="truncated"'
            )
        if self.backprop == "full" or not self.refine_steps:
            # the plain gradient, as it can be differentiated again; others hold parts of the bound constant
            plain = replace(bound, estimator=bound.estimator.plain())
            return self.layout.unpack(self._refine(proposed, plain, keep=True))
        refined = self._refine(proposed.detach(), bound, keep=False)
        return self.layout.unpack(refined + self._own_gradient(proposed, bound))

    def infer(self, x: Tensor, bound: Bound, *, seed: int = 0, start: Tensor | None = None) -> Posterior:
        rows = []
        with forked(x.device):
            for block, at in row_blocks(len(x), x.device):
                reseed(block_seed(seed, block), x.device)
                part = replace(bound, x=x[at], block=ROW_BLOCK)
                with torch.no_grad():
                    proposed = self.propose(x[at]) if self.layout.width else self.start.repeat(len(at), 1)
                rows.append(self._refine(proposed, part, keep=False) if self.layout.width else proposed)
        return Posterior(bound.model, self.layout.unpack(torch.cat(rows)))

    def _refine(self, rows: Tensor, bound: Bound, *, keep: bool) -> Tensor:
        """T steps from `rows` [B, width]; with `keep` the result is differentiable through all steps."""
        velocity = torch.zeros_like(rows)
        for _ in range(self.refine_steps):
            with torch.enable_grad():
                leaf = rows if keep else rows.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(bound(self.layout.unpack(leaf)).sum(), leaf, create_graph=keep)
            norm = gradient.norm(dim=-1, keepdim=True).clamp_min(1e-12)
            gradient = gradient * (self.clip / norm).clamp_max(1.0)
            velocity = self.momentum * velocity + gradient
            rows = rows + self.lr * velocity
        return rows if keep else rows.detach()

    def _own_gradient(self, proposed: Tensor, bound: Bound) -> Tensor:
        """Zero, whose gradient in the backward pass is replaced by that of the bound at the proposed φ."""
        leaf = proposed.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(bound(self.layout.unpack(leaf)).sum(), leaf)
        zero = proposed - proposed.detach()
        if zero.requires_grad:
            zero.register_hook(lambda back: -gradient / len(gradient))  # the loss is −bound, a mean over the batch
        return zero
