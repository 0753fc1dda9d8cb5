"""The precision of a fit: settings say which it is, and a file gives it back in any session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from checks import refusal
from conftest import bounds, identical, weights
from stops import stopped_before

import ppvae
from ppvae.pair.precision import default_precision

SINGLE, DOUBLE = torch.float32, torch.float64
MADE = pytest.mark.parametrize("made_in", [SINGLE, DOUBLE], ids=str)
READ = pytest.mark.parametrize("read_in", [SINGLE, DOUBLE], ids=str)

SOURCE = '''
import pyro
import pyro.distributions as dist
import torch

import ppvae


class Grid(ppvae.Model):
    """x ~ Normal(loc + grid z, exp(raw)), with a grid that no state_dict holds."""

    def __init__(self, loc=None, raw=None):
        super().__init__()
        self.loc = torch.nn.Parameter(torch.zeros(3, dtype=loc and getattr(torch, loc)))
        self.raw = torch.nn.Parameter(torch.zeros(3, dtype=raw and getattr(torch, raw)))
        self.grid = torch.linspace(0.1, 0.7, 3)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.loc + self.grid * z, self.raw.exp()).to_event(1), obs=x)
'''


@pytest.fixture
def grid(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(SOURCE)
    return f"{tmp_path / 'own.py'}:Grid"


def data() -> ppvae.Data:
    x = torch.rand(30, 3, generator=torch.Generator().manual_seed(0), dtype=SINGLE) + 1
    return ppvae.Data("a few", x[:20], x[20:25], x[25:], "gaussian", "real")


def fit(model: Any, inference: str = "amortized", **options: Any) -> ppvae.Fit:
    more: dict[str, Any] = {"epochs": 2, "batch_size": 10, "eval_every": 1, "lr": 0.01, "progress": False}
    return ppvae.fit(model, data(), inference, **more | options)


def dtypes(result: ppvae.Fit) -> dict[str, torch.dtype]:
    return {name: tensor.dtype for name, tensor in result.weights().items()}


def numbers(result: ppvae.Fit) -> list[float]:
    return ppvae.log_marginal(result, data().test, num_samples=20)["log_marginal"].values.tolist()


@MADE
@READ
@pytest.mark.parametrize("precision", ["32-true", "64-true"])
@pytest.mark.parametrize("inference", ["amortized", "per-datapoint"])
def test_a_file_gives_its_numbers_in_any_session(
    inference: str, precision: str, read_in: torch.dtype, made_in: torch.dtype, grid: str, tmp_path: Path
) -> None:
    """To the last bit, with tensors that the file does not hold."""
    with default_precision(made_in):
        result = fit(ppvae.create(grid), inference, precision=precision)
        result.save(tmp_path / "fit")
    with default_precision(read_in):
        again = ppvae.load(tmp_path / "fit")
        assert numbers(again) == numbers(result)
    double = made_in == DOUBLE or precision == "64-true"
    assert result.settings.precision == ("64-true" if double else "32-true")
    assert again.settings == result.settings
    assert dtypes(again) == dtypes(result)
    assert set(dtypes(again).values()) == {DOUBLE if double else SINGLE}
    assert getattr(again.model, "grid").dtype == made_in  # noqa: B009 - a model of a file has no type here
    again.save(tmp_path / "again")
    for name in ("config.yaml", "fit.yaml", "weights.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "fit" / name).read_bytes()


@MADE
@READ
@pytest.mark.parametrize(("loc", "raw"), [("float32", "float64"), ("float64", "float32")])
def test_mixed_weights_stay_mixed(
    loc: str, raw: str, read_in: torch.dtype, made_in: torch.dtype, grid: str, tmp_path: Path
) -> None:
    """Trained as they are, and read as they were."""
    with default_precision(made_in):
        result = fit(ppvae.create(grid, loc=loc, raw=raw))
        result.save(tmp_path / "fit")
    with default_precision(read_in):
        again = ppvae.load(tmp_path / "fit")
        assert numbers(again) == numbers(result)
    assert result.settings.precision == again.settings.precision == "32-true"
    assert dtypes(again) == dtypes(result)
    assert [dtypes(again)[f"model.{name}"] for name in ("loc", "raw")] == [getattr(torch, loc), getattr(torch, raw)]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_model_in_double_precision_is_trained_so(precision: str, grid: str) -> None:
    """Whatever was asked for, which settings then say; going on from it, too."""
    result = fit(ppvae.create(grid).double(), precision=precision)
    assert result.settings.precision == "64-true"
    assert set(dtypes(result).values()) == {DOUBLE}
    assert bounds(result) == bounds(fit(ppvae.create(grid).double(), precision="64-true"))
    assert fit(result, precision=precision).settings.precision == "64-true"


@pytest.mark.parametrize("inference", ["amortized", "per-datapoint"])
def test_a_model_given_to_load_takes_the_precision_of_the_file(inference: str, grid: str, tmp_path: Path) -> None:
    for made_in, other in ((SINGLE, DOUBLE), (DOUBLE, SINGLE)):
        place = tmp_path / str(made_in)
        result = fit(ppvae.create(grid).to(made_in), inference)
        result.save(place)
        again = ppvae.load(place, model=ppvae.create(grid).to(other))
        assert dtypes(again) == dtypes(result)
        assert identical(weights(again), weights(result))
        assert numbers(again) == numbers(result)


@READ
def test_a_run_of_an_earlier_version_in_double_precision(read_in: torch.dtype, grid: str, tmp_path: Path) -> None:
    """It said 32-true, and not in what session its model was made."""
    with default_precision(DOUBLE):
        result = fit(ppvae.create(grid))
        result.save(tmp_path / "fit")
    for name, change in (("config.yaml", {"precision": "32-true"}), ("fit.yaml", {"made_in": None})):
        content = yaml.safe_load((tmp_path / "fit" / name).read_text()) | change
        (tmp_path / "fit" / name).write_text(yaml.safe_dump({k: v for k, v in content.items() if k != "made_in"}))
    with default_precision(read_in):
        again = ppvae.load(tmp_path / "fit")
        assert numbers(again) == numbers(result)
    assert again.settings == result.settings


def test_a_stopped_run_continues_in_its_precision(grid: str, tmp_path: Path) -> None:
    """In a session like its own; another one is refused, as it would make another model."""
    with default_precision(DOUBLE):
        alone = fit(ppvae.create(grid))
        with stopped_before(3):
            fit(ppvae.create(grid), run_dir=tmp_path / "run", checkpoint_seconds=0.0)
    text = refusal(lambda: fit(ppvae.create(grid), run_dir=tmp_path / "run", resume=True))
    assert "holds a run with precision '64-true', not '32-true'" in text
    with default_precision(DOUBLE):
        resumed = fit(ppvae.create(grid), run_dir=tmp_path / "run", resume=True)
    assert identical(weights(resumed), weights(alone))
    assert identical(weights(ppvae.load(tmp_path / "run")), weights(alone))


def test_weights_of_another_precision_are_not_rounded(grid: str, tmp_path: Path) -> None:
    """Where a class of Python, whose options are the same, now makes others."""
    with stopped_before(3):
        fit(ppvae.create(grid, raw="float64"), run_dir=tmp_path / "run", checkpoint_seconds=0.0)
    model = ppvae.create(grid, raw="float64")
    model.get_parameter("raw").data = torch.zeros(3)
    text = refusal(lambda: fit(model, run_dir=tmp_path / "run", resume=True))
    assert "model.raw is torch.float64, not torch.float32" in text


def test_a_session_that_never_was_is_refused(grid: str, tmp_path: Path) -> None:
    fit(ppvae.create(grid)).save(tmp_path / "fit")
    path = tmp_path / "fit" / "fit.yaml"
    for wrong in ("float46", 64, ["float64"]):
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"made_in": wrong}))
        assert "made_in" in refusal(lambda: ppvae.load(tmp_path / "fit"))
