"""Random numbers that depend on a seed and a position, never on how the work was cut up.

Pyro draws from torch's global generator. Evaluation therefore seeds that generator for each fixed block of
(data positions × particles) inside `fork_rng`, and the caller's random state is as it was afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def block_seed(*key: int) -> int:
    """One 63-bit seed out of (seed, stream, block…)."""
    # SeedSequence takes (5,) and (5, 0) for the same: the length keeps them apart
    return int(np.random.SeedSequence((len(key), *key)).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def forked(device: torch.device) -> Iterator[None]:
    """Leave the global random state as it was found."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def reseed(seed: int, device: torch.device) -> None:
    """Seed the global generators that draws on the device come from; a tenth of what `torch.manual_seed` costs."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


@contextmanager
def seeded(*key: int, device: torch.device) -> Iterator[None]:
    """Run with the global generator seeded from the key, then give the caller's state back."""
    with forked(device):
        reseed(block_seed(*key), device)
        yield
