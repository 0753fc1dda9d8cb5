"""Weights that modules share: copies that keep what is shared, and each weight counted once."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, TypeVar

from torch import Tensor, nn

AModule = TypeVar("AModule", bound=nn.Module)
AWeight = TypeVar("AWeight", bound=Tensor)


def copied_beside(module: AModule, model: nn.Module) -> AModule:
    """A copy of a module that shares with the model what the module itself shares with it."""
    parts = (*model.modules(), *model.parameters(), *model.buffers())
    memo: dict[int, Any] = {id(part): part for part in parts}
    return copy.deepcopy(module, memo)


def distinct(weights: Iterable[AWeight], but: Iterable[Tensor] = ()) -> list[AWeight]:
    """Each weight once, in the order of the first, without those in `but`."""
    left_out = {id(weight) for weight in but}
    once = {id(weight): weight for weight in weights}
    return [weight for key, weight in once.items() if key not in left_out]


def shared_names(module: nn.Module, model: nn.Module) -> list[str]:
    """Names, in the state of a module, of the weights and buffers that it shares with the model."""
    theirs = {id(part) for part in model.state_dict(keep_vars=True).values()}
    return [name for name, part in module.state_dict(keep_vars=True).items() if id(part) in theirs]
