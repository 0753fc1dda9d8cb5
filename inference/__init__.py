"""Where does φ come from? One file per strategy."""

from __future__ import annotations

from typing import Any

from ppvae.catalogue import STRATEGIES


def __getattr__(name: str) -> Any:
    """`from ppvae.inference import Amortized`: the class of a registered strategy by its own name."""
    if not name.startswith("_"):
        for known in STRATEGIES:
            if STRATEGIES[known].__name__ == name:
                return STRATEGIES[known]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [STRATEGIES[name].__name__ for name in STRATEGIES]
