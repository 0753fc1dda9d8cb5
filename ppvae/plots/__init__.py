"""How does a result look? Functions that take results and an Axes, and return it."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "calibration": ("coverage", "rank_histogram"),
    "colours": ("colour",),
    "evidence": ("bounds", "comparison", "convergence", "per_datum"),
    "gap_bars": ("bars", "figure_of_gaps"),
    "gradients": ("gradient_variance",),
    "images": ("image_grid", "is_image", "reconstructions", "unit_images"),
    "latents": ("usage",),
    "mixtures": ("responsibilities",),
    "predictive": ("predictive_check",),
    "surfaces": ("density",),
    "training": ("bound_against_seconds",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [name for names in _HOMES.values() for name in names]
