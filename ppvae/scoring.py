"""log p of a distribution, in fewer passes over memory than its own method takes where there is a shorter way."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import softplus


def log_prob(fn: Any, value: Tensor) -> Tensor:
    """fn.log_prob(value); the shorter way is taken where no gradient is wanted and nothing is to be validated."""
    if not torch.is_grad_enabled() and type(fn) is dist.Independent and not fn._validate_args:
        base = fn.base_dist
        if type(base) is dist.Bernoulli and not base._validate_args and "probs" not in vars(base):
            return _bernoulli(base.logits, value, fn.reinterpreted_batch_ndims)
    return fn.log_prob(value)


def _bernoulli(logits: Tensor, value: Tensor, event_dim: int) -> Tensor:
    """x·l − log(1 + eˡ) summed over the event: one temporary rather than five."""
    terms = softplus(logits, threshold=40)  # beyond 20, torch's default, float64 would see the difference
    terms.addcmul_(value, logits, value=-1)
    return -terms.sum(tuple(range(-event_dim, 0)))
