"""Which models are there? The zoo, one file per model, each readable alone from top to bottom."""

from __future__ import annotations

from typing import Any

from ppvae.catalogue import MODELS


def __getattr__(name: str) -> Any:
    """`from ppvae.models import VAE`: the class of a registered model by its own name."""
    if not name.startswith("_"):
        for known in MODELS:
            if MODELS[known].__name__ == name:
                return MODELS[known]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [MODELS[name].__name__ for name in MODELS]
