"""log p(x) without draws."""

from __future__ import annotations

import torch

from ppvae.errors import PpvaeError
from ppvae.evidence.method import Certain, Question, method
from ppvae.model import overrides


@method("exact", applies=("continuous", "mixed", "enumerated", "summed"))
def exact(asked: Question) -> Certain:
    """The model's own log_prob(x)."""
    model = asked.model
    if not overrides(model, "log_prob"):
        raise PpvaeError(f'{type(model).__name__} has no exact log_prob(x): use method="importance"')
    with torch.no_grad():
        value = model.log_prob(asked.x)
    return Certain(value, torch.zeros_like(value))
