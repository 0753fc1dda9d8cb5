"""A batch of data."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Data x [B, *event] and their positions in the training set, index [B]."""

    x: Tensor
    index: Tensor
