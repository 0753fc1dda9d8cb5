"""What several test files share: proof that a call left the world as it found it."""

import math
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.utils import check_random_state
from torch import Tensor, nn

import ppvae

Untouched = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def untouched() -> Untouched:
    """`with untouched(*modules): …` fails if the block changes something it should not.

    That is: the random state of torch, NumPy and Python; Pyro's settings and its param store; torch's default dtype
    and gradient mode; any parameter, gradient, buffer or training flag of the modules.
    """
    return _untouched


@contextmanager
def _untouched(*modules: nn.Module) -> Iterator[None]:
    before = _world(modules)
    yield
    after = _world(modules)
    assert before.keys() == after.keys()
    changed = [what for what in before if not _same(before[what], after[what])]
    assert not changed


def _world(modules: tuple[nn.Module, ...]) -> dict[str, Any]:
    name, keys, *position = check_random_state(None).get_state()  # NumPy's global one
    world: dict[str, Any] = {
        "torch's random state": torch.get_rng_state(),
        "NumPy's random state": torch.as_tensor(np.asarray(keys).astype(np.int64)),
        "NumPy's position": (name, *position),
        "Python's random state": random.getstate(),
        "Pyro's settings": pyro.settings.get(),
        "Pyro's param store": sorted(pyro.get_param_store().keys()),
        "torch's modes": (torch.get_default_dtype(), torch.is_grad_enabled()),
    }
    for i, module in enumerate(modules):
        for name, parameter in module.named_parameters():
            world[f"{i}: parameter {name}"] = parameter.detach().clone()
            world[f"{i}: gradient {name}"] = None if parameter.grad is None else parameter.grad.clone()
            world[f"{i}: requires_grad {name}"] = parameter.requires_grad
        for name, buffer in module.named_buffers():
            world[f"{i}: buffer {name}"] = buffer.clone()
        for name, child in module.named_modules():
            world[f"{i}: training {name}"] = child.training
    return world


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and a == b


@pytest.fixture
def ax() -> Axes:
    return Figure(layout="constrained").subplots()


@pytest.fixture(scope="session")
def bad_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of bad input; no test may change it."""
    from bad_places import furnish

    place = tmp_path_factory.mktemp("place")
    furnish(place)
    return place


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


def z_statistic(difference: Tensor) -> float:
    """Of paired differences per datum: their mean over its standard error."""
    difference = difference.double()
    return (difference.mean() / difference.std() * math.sqrt(len(difference))).item()


def weights(fit: ppvae.Fit) -> dict[str, Tensor]:
    return {**{f"model.{n}": t for n, t in fit.model.state_dict().items()}, **fit.strategy.state_dict()}


def identical(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def bounds(fit: ppvae.Fit) -> list[tuple[float, float]]:
    return [(entry["train_bound"], entry["valid_bound"]) for entry in fit.history]


@pytest.fixture
def limited() -> Iterator[Callable[[int], None]]:
    """limited(size): no file may be longer, in bytes; the system itself cuts it there."""
    resource = pytest.importorskip("resource", reason="this system does not limit the size of files")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
