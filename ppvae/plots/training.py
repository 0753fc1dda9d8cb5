"""Pictures of training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from ppvae.errors import PpvaeError
from ppvae.plots.colours import colour

History = Sequence[Mapping[str, float]]


def bound_against_seconds(histories: Mapping[str, Sequence[History]], ax: Axes) -> Axes:
    """Validation bound against seconds of training, one line per seed.

    The y axis shows at least nine tenths of the evaluations of every line; first values far below these are cut off,
    and the axis says so.

    Args:
        histories: strategy → the `Fit.history` of each seed.

    Raises:
        PpvaeError: no history holds a finite bound.
    """
    low, high, lowest = math.inf, -math.inf, math.inf
    for inference, seeds in histories.items():
        for seed, history in enumerate(seeds):
            seconds = [entry["seconds"] for entry in history]
            bound = np.array([entry["valid_bound"] for entry in history], dtype=float)
            marker = "o" if len(bound) == 1 else None
            ax.plot(seconds, bound, color=colour(inference), linewidth=1, alpha=0.8, marker=marker, ms=4,
                    label=None if seed else inference)  # fmt: skip
            finite = bound[np.isfinite(bound)]
            if len(finite):
                low, lowest = min(low, float(np.quantile(finite, 0.1))), min(lowest, float(finite.min()))
                high = max(high, float(finite.max()))
    if not math.isfinite(low):
        raise PpvaeError("no history holds a validation bound to draw: train with an evaluation")
    cut = high - lowest > 2 * (high - low) > 0
    if cut:
        margin = 0.1 * (high - low)
        ax.set_ylim(low - margin, high + margin)
    ax.set_xlim(left=0)
    ax.set_xlabel("training (seconds)")
    ax.set_ylabel(f"validation bound (nats/datum{'; lower values cut off' if cut else ''})")
    ax.grid(alpha=0.3)
    ax.legend()
    return ax
