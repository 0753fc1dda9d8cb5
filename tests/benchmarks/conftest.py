"""Paired timing: two things in turn, so that a machine whose speed drifts slows both; ratios are what counts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    """How often to repeat: many with --benchmark-enable, else just enough to see that the benchmark runs."""
    return 5 if request.config.getoption("benchmark_enable") else 1


Timed = Callable[[], float]


@pytest.fixture
def paired(rounds: int, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, float]]:
    """paired(title, base=…, other=…): median seconds of each, printed with the ratio to the first, pair by pair.

    Each entry returns the seconds it took.
    """

    def measure(title: str, **timed: Timed) -> dict[str, float]:
        seconds: dict[str, list[float]] = {name: [] for name in timed}
        for entry in timed.values():
            entry()  # warm up
        for _ in range(rounds):
            for name, entry in timed.items():
                seconds[name].append(entry())
        base = next(iter(seconds))
        ratios = {}
        with capsys.disabled():
            print(f"\n{title}")
            for name, values in seconds.items():
                pairs = sorted(v / b for v, b in zip(values, seconds[base], strict=True))
                ratios[name] = statistics.median(pairs)
                print(
                    f"  {name:28s} {1e3 * statistics.median(values):9.3f} ms   ratio {ratios[name]:.3f}"
                    f"  [{pairs[0]:.3f}, {pairs[-1]:.3f}]"
                )
        return ratios

    return measure


@pytest.fixture
def clock() -> Callable[[Callable[[], object]], float]:
    """Seconds that a call takes."""

    def seconds(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return seconds
