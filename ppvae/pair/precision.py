"""A pair in another floating precision."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.pair.local import Phi
from ppvae.pair.model import Model


def precision_of(model: Model) -> torch.dtype:
    """The precision of a model: that of its first parameter, else torch's default."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())


def is_double(model: nn.Module) -> bool:
    """Whether all weights of a model are in double precision; one without weights or buffers has torch's default."""
    kinds = (floating_dtypes(part) for part in (model.parameters(), model.buffers()))
    return next((dtypes for dtypes in kinds if dtypes), {torch.get_default_dtype()}) == {torch.float64}


def floating_dtypes(tensors: Iterable[Tensor]) -> set[torch.dtype]:
    """The precisions of those of the tensors that hold real numbers."""
    return {tensor.dtype for tensor in tensors if tensor.is_floating_point()}


def converted(model: Model, dtype: torch.dtype) -> Model:
    """A copy of the model with all floating tensors that its modules hold in another precision."""
    model = copy.deepcopy(model).to(dtype)
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                vars(module)[name] = _to(value, dtype)
    return model


def converted_phi(phi: Phi, dtype: torch.dtype) -> Phi:
    return {name: _to(value, dtype) for name, value in phi.items()}


def _to(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


@contextmanager
def default_precision(dtype: torch.dtype) -> Iterator[None]:
    """Programs make tensors of plain numbers in this precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
