"""Random numbers that depend on a seed and a position, never on how the work was divided.

Pyro draws from torch's global generator. Evaluation therefore seeds that generator for each fixed block of
(data positions × particles) inside `fork_rng`, and restores the caller's random state.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

#: streams of random numbers with fixed numbers; the name of any other stream is hashed
_NUMBERED = {
    "training/inference": 1,
    "training/validation": 2,
    "evidence/reported": 3,
    "tasks/sampling": 4,
    "tasks/reconstruction": 5,
    "evidence/escalation/fresh": 6,
    "diagnostics/calibration": 21,
    "diagnostics/predictive": 22,
    "diagnostics/predictive/prior": 23,
    "diagnostics/usage": 24,
    "diagnostics/usage/prior": 25,
    "tasks/datatree": 26,
    "evidence/annealing/tuning": 31,
    "diagnostics/bidirectional/reverse": 32,
    "diagnostics/bidirectional/importance": 33,
    "diagnostics/bidirectional/others": 34,
    "evidence/laplace/start": 41,
    "evidence/refined": 42,
    "evidence/exact/check": 43,
    "diagnostics/gap/refinement": 51,
    "diagnostics/gap/choice": 52,
    "diagnostics/gap/reported": 53,
    "evidence/escalation/pilot": 60,
}


def stream(name: str) -> int:
    """The number of a stream of random numbers: different streams give different random numbers from one seed."""
    if name in _NUMBERED:
        return _NUMBERED[name]
    # far above the fixed numbers, and above those that are counted up from them
    return 2**32 + zlib.crc32(name.encode())


def block_seed(*key: int) -> int:
    """One 63-bit seed out of (seed, stream, block…)."""
    # SeedSequence treats (5,) and (5, 0) as the same key, so the length is part of it
    return int(np.random.SeedSequence((len(key), *key)).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def forked(device: torch.device) -> Iterator[None]:
    """Restore the global random state at the end."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def reseed(seed: int, device: torch.device) -> None:
    """Seed the global generators of draws on the device, at a tenth of the cost of `torch.manual_seed`."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


@contextmanager
def seeded(*key: int, device: torch.device) -> Iterator[None]:
    """Run with the global generator seeded from the key, then restore the caller's state."""
    with forked(device):
        reseed(block_seed(*key), device)
        yield
