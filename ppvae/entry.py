"""The state of the process that a public call needs: one call at a time, and gradients."""

from __future__ import annotations

import dataclasses
import functools
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
#: Pyro's handlers, torch's generator and its default precision belong to the process: other threads wait
_LOCK = threading.RLock()


def entry(function: F) -> F:
    """A public function that runs programs: threads call it one after the other, and gradients are computed in it.

    The caller's `torch.no_grad` and `torch.inference_mode` hold again afterwards, and results do not depend on them.
    """

    @functools.wraps(function)
    def with_gradients(*args: Any, **kwargs: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is None:
            return function(*args, **kwargs)
        with torch.inference_mode(False), torch.enable_grad():
            return function(*map(_thawed, args), **{name: _thawed(value) for name, value in kwargs.items()})

    return locked(with_gradients)  # type: ignore[return-value]


def locked(function: F) -> F:
    """As `entry`, but gradients are as the caller has them."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _LOCK:
            return function(*args, **kwargs)

    call.__ppvae_entry__ = True  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]


def _thawed(value: Any) -> Any:
    """The value, with copies of tensors that were made in inference mode, through which no gradient can pass."""
    if type(value).__module__ == "torch" and hasattr(value, "is_inference"):
        return value.clone() if value.is_inference() else value
    if type(value).__module__ == "ppvae.data.dataset" and dataclasses.is_dataclass(value):
        parts = {name: _thawed(part) for name, part in vars(value).items()}
        changed = {name: part for name, part in parts.items() if part is not getattr(value, name)}
        return dataclasses.replace(value, **changed) if changed else value  # type: ignore[type-var]
    return value
