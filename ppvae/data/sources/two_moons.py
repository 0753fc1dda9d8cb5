"""Two interlocking half circles."""

from __future__ import annotations

from pathlib import Path

import torch

from ppvae.catalogue import SOURCES
from ppvae.data.source import GENERATED_SIZES, Raw, in_blocks, stream_seed


@SOURCES.register("two-moons", treatment="real")
def two_moons(root: Path, seed: int) -> Raw:
    """scikit-learn's two interlocking half circles, with noise. Labels are the moons."""
    from sklearn.datasets import make_moons

    x, y = make_moons(1000, noise=0.1, random_state=stream_seed(seed, "source"))  # shuffled
    return in_blocks(torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.int64), GENERATED_SIZES)
