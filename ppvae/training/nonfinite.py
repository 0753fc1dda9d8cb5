"""Where the first non-finite numbers of a step are."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def nonfinite_names(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    return [name for name, value in named if not bool(value.isfinite().all())]
