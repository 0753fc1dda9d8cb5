"""The component of a mixture that each datum belongs to."""

from __future__ import annotations

from collections.abc import Callable

import torch
import xarray as xr
from torch import Tensor

from ppvae.entry import entry
from ppvae.errors import PpvaeError
from ppvae.pair.model import Model
from ppvae.pair.pair import Pair, require_pair


def has_components(model: Model) -> bool:
    """Whether a model gives p(k | x), by a method responsibilities(x)."""
    return isinstance(getattr(model, "responsibilities", None), Callable)


@entry
def cluster(pair: Pair, x: Tensor) -> xr.Dataset:
    """p(k | x) of each datum under a mixture, and its most probable component.

    Args:
        pair: a trained pair, whose model has responsibilities(x) → p(k | x) [B, K].
        x: data [N, *event].

    Returns:
        Dataset: responsibility [datum, component], component_of [datum], x [datum, feature].

    Raises:
        PpvaeError: the model has no responsibilities, or x is invalid.
    """
    require_pair(pair)
    if not has_components(pair.model):
        raise PpvaeError(f"{type(pair.model).__name__} has no responsibilities(x): only a mixture has clusters")
    x = pair.as_input(x)
    with torch.no_grad():
        weights = pair.model.responsibilities(x).detach().cpu()  # pyright: ignore[reportCallIssue]
    return xr.Dataset(
        {
            "responsibility": (("datum", "component"), weights.double().numpy()),
            "component_of": ("datum", weights.argmax(-1).numpy()),
            "x": (("datum", "feature"), x.flatten(1).cpu().double().numpy()),
        }
    )
