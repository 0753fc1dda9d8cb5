"""Bijections from ℝⁿ onto supports that keep away from the border, where a density or its gradient may be infinite."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints, transforms
from torch.nn.functional import softplus


class _Exp(transforms.ExpTransform):
    """eˣ, never 0 nor infinite: a gamma density may be infinite at 0."""

    def _call(self, x: Tensor) -> Tensor:
        limits = torch.finfo(x.dtype)
        return x.clamp(math.log(limits.tiny), math.log(limits.max) - 1).exp()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        # it falls where eˣ stops rising, so that densities of x stay integrable
        return x - 2 * (x - math.log(torch.finfo(x.dtype).max) + 1).relu()


class _StickBreaking(transforms.StickBreakingTransform):
    """Onto the simplex, through the logs of the shares: none is 0, and gradients of log shares are exact."""

    def _call(self, x: Tensor) -> Tensor:
        log_left, log_share = self._logs(x)
        logs = torch.cat([log_share, log_left.sum(-1, keepdim=True)], -1)
        return logs.clamp_min(math.log(torch.finfo(x.dtype).tiny)).softmax(-1)  # the sum is 1 but for rounding

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        log_left, log_share = self._logs(x)
        return (log_left + log_share).sum(-1)

    def _logs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log(1 − z) of each break z, and the logs of all shares but the last."""
        offset = x.shape[-1] + 1 - torch.ones_like(x).cumsum(-1)
        x = x - offset.log()
        log_left = -softplus(x)
        return log_left, -softplus(-x) + log_left.cumsum(-1) - log_left


def bijection_onto(support: constraints.Constraint) -> Any:
    """The bijection of `torch.distributions.biject_to`, away from the border."""
    return _guarded(biject_to(support))


def _guarded(transform: Any) -> Any:
    if type(transform) is transforms.ExpTransform:
        return _Exp()
    if type(transform) is transforms.StickBreakingTransform:
        return _StickBreaking()
    if type(transform) is transforms.ComposeTransform:
        return transforms.ComposeTransform([_guarded(part) for part in transform.parts])
    if type(transform) is transforms.IndependentTransform:
        return transforms.IndependentTransform(_guarded(transform.base_transform), transform.reinterpreted_batch_ndims)
    return transform
