"""Weights that modules share: copies that keep what is shared, and each weight counted once."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, TypeVar

from torch import Tensor, nn

AModule = TypeVar("AModule", bound=nn.Module)
AWeight = TypeVar("AWeight", bound=Tensor)
_Lazy: Any = nn.UninitializedBuffer


def copied(module: AModule, *others: nn.Module, beside: nn.Module | None = None) -> tuple[AModule, list[Any]]:
    """Copies of a module and of others: they share what these share, and with `beside` what these share with it."""
    memo: dict[int, Any] = {}
    if beside is not None:
        memo = {id(part): part for part in (*beside.modules(), *beside.parameters(), *beside.buffers())}
    for buffer in (buffer for each in (module, *others) for buffer in each.buffers()):
        if isinstance(buffer, nn.UninitializedBuffer):  # of a lazy module; torch cannot copy it
            memo.setdefault(id(buffer), _Lazy(device=buffer.device, dtype=buffer.dtype))
    copies: list[Any] = copy.deepcopy([module, *others], memo)
    return copies[0], copies[1:]


def distinct(weights: Iterable[AWeight], but: Iterable[Tensor] = ()) -> list[AWeight]:
    """Each weight once, in the order of the first, without those in `but`."""
    left_out = {id(weight) for weight in but}
    once = {id(weight): weight for weight in weights}
    return [weight for key, weight in once.items() if key not in left_out]


def shared_names(module: nn.Module, model: nn.Module) -> list[str]:
    """Names, in the state of a module, of the weights and buffers that it shares with the model."""
    theirs = {id(part) for part in model.state_dict(keep_vars=True).values()}
    return [name for name, part in module.state_dict(keep_vars=True).items() if id(part) in theirs]
