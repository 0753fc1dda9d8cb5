"""The data sets that are part of scikit-learn."""

from __future__ import annotations

from pathlib import Path

import torch

from ppvae.catalogue import SOURCES
from ppvae.data.source import Raw


@SOURCES.register("digits", treatment="static")
def digits(root: Path, seed: int) -> Raw:
    """1,797 images of 8×8, grey levels / 16, flattened. Labels are the digits."""
    return _bundled("load_digits", 16)


@SOURCES.register("iris", treatment="real")
def iris(root: Path, seed: int) -> Raw:
    """Fisher's 150 irises of three kinds, four lengths in cm. Labels are the kinds."""
    return _bundled("load_iris", 1)


def _bundled(load: str, scale: float) -> Raw:
    from sklearn import datasets  # takes a second, which only these sources need

    x, y = getattr(datasets, load)(return_X_y=True)
    return Raw(
        {"all": torch.tensor(x / scale, dtype=torch.float32)},
        {"all": torch.tensor(y, dtype=torch.int64)},
    )
