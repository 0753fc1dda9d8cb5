"""Five bent arms in the plane."""

from __future__ import annotations

from pathlib import Path

import torch

from ppvae.catalogue import SOURCES
from ppvae.data.source import GENERATED_SIZES, Raw, generator, in_blocks


@SOURCES.register("pinwheel", treatment="real")
def pinwheel(root: Path, seed: int) -> Raw:
    """Five bent arms (Johnson et al. 2016, "Composing graphical models with neural networks for structured
    representations and fast inference"), with the parameters of the authors' code. Labels are the arms."""
    draws = generator(seed, "source")
    arm = torch.randint(5, (1000,), generator=draws)
    radial, tangential = torch.randn(2, 1000, generator=draws, dtype=torch.float64)
    radial, tangential = 1 + 0.3 * radial, 0.05 * tangential
    angle = 2 * torch.pi / 5 * arm + 0.25 * radial.exp()
    x = radial * angle.cos() + tangential * angle.sin()
    y = tangential * angle.cos() - radial * angle.sin()
    return in_blocks((10 * torch.stack([x, y], -1)).float(), arm, GENERATED_SIZES)
