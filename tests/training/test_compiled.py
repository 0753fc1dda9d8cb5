"""A compiled fit is the fit as written, but for rounding; what cannot be recorded is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
import yaml
from checks import compiler
from pairs import Branching
from stops import stopped_before
from torch import Tensor, nn

import ppvae
from ppvae.cli.main import main
from ppvae.errors import NonFiniteError
from ppvae.runs.folder import CONFIG
from ppvae.training.compiled import CompiledEstimate

BATCH, WHOLE = 40, 2  # 110 data: two whole batches and a part of one


@pytest.fixture
def compiled_steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the batches that went through a compiled step."""
    shapes, call = [], CompiledEstimate.__call__

    def counted(self: CompiledEstimate, x: Tensor, phi: dict[str, Tensor]) -> Tensor:
        shapes.append(tuple(x.shape))
        return call(self, x, phi)

    monkeypatch.setattr(CompiledEstimate, "__call__", counted)
    return shapes


def digits(treatment: str = "static") -> ppvae.Data:
    return ppvae.load_data("digits", treatment=treatment, num_train=110)


def vae(**options: Any) -> ppvae.Model:
    return ppvae.create("vae", **{"x_dim": 64, "latent_dim": 3, "hidden": (20,), **options})


def dlgm() -> ppvae.Model:
    return ppvae.create("dlgm", x_dim=64, latent_dims=(3, 2), hidden=8)


class Waiting(ppvae.Model):
    """Counts of exponential waiting times: a positive latent, its transform, and a likelihood of discrete x."""

    def __init__(self) -> None:
        super().__init__()
        self.log_weight = nn.Parameter(0.1 * torch.randn(2, 64))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(x.new_full((2,), 2.0), 1.0).to_event(1))
            pyro.sample("x", dist.Poisson(z @ self.log_weight.exp()).to_event(1), obs=x)


def fit(make: Callable[[], ppvae.Model], compile: bool, **options: Any) -> ppvae.Fit:
    """Of a model that is the same at every call."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = make()
    settings = {
        "precision": "64-true", "epochs": 3, "batch_size": BATCH, "patience": None, "seed": 3, "progress": False,
    }  # fmt: skip
    data = options.pop("data", None) or digits(options.pop("treatment", "static"))
    return ppvae.fit(model, data, compile=compile, **{**settings, **options})


CASES: dict[str, tuple[Callable[[], ppvae.Model], dict[str, Any]]] = {
    "encoder": (vae, {}),
    "rows": (vae, {"inference": "per-datapoint"}),
    "inner steps": (vae, {"inference": "per-datapoint", "inference_options": {"inner_steps": 2}}),
    "refined": (vae, {"inference": "semi-amortized", "inference_options": {"refine_steps": 2}}),
    "dynamic": (vae, {"treatment": "dynamic"}),
    "Gaussian": (lambda: vae(likelihood="gaussian"), {"treatment": "standardised"}),
    "chain, sticking the landing": (dlgm, {}),
    "score function": (vae, {"gradient": "score"}),
    "vimco": (vae, {"objective": "iwae", "gradient": "vimco", "num_particles": 3}),
    "wake-sleep": (vae, {"objective": "rws", "num_particles": 3}),
    "warm-up": (vae, {"warmup": 3}),
    "flow": (vae, {"family": "iaf"}),
    "positive latent": (Waiting, {}),
    "mixture, summed out": (
        lambda: ppvae.create("gmm", x_dim=64, num_components=3), {"inference": "exact", "treatment": "standardised"},
    ),
}  # fmt: skip


@compiler
@pytest.mark.parametrize("case", CASES)
def test_weights_are_those_of_the_fit_as_written(case: str, compiled_steps: list[tuple[int, ...]]) -> None:
    make, options = CASES[case]
    plain, fast = (fit(make, compile, **options) for compile in (False, True))
    # three epochs of whole batches; β is 1 in the third step of warm-up
    assert compiled_steps == [(BATCH, 64)] * (3 * WHOLE - 2 if case == "warm-up" else 3 * WHOLE)
    one, other = ({**side.model.state_dict(), **side.strategy.state_dict()} for side in (plain, fast))
    assert one.keys() == other.keys()
    for name, value in one.items():
        # rounding of nine steps of Adam, which divides by gradients' sizes: 10⁷ units in the last place of float64
        assert float((other[name].double() - value.double()).abs().max()) < 1e-9, name
    assert plain.history[-1]["valid_bound"] == pytest.approx(fast.history[-1]["valid_bound"], rel=1e-9)


class Nonlinear(ppvae.Model):
    """A model of two real numbers whose mean is written below."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.ones(()))

    def mean(self, z: Tensor) -> Tensor:
        raise NotImplementedError

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            mean = self.mean(z).unsqueeze(-1) * torch.ones_like(x)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


class NoGradient(Nonlinear):
    """Holds a part of its mean constant, in a way that leaves no trace among the operations."""

    def mean(self, z: Tensor) -> Tensor:
        with torch.no_grad():
            doubled = 2 * self.loc
        return z + self.loc + doubled


class Detached(Nonlinear):
    """The same, held constant by an operation."""

    def mean(self, z: Tensor) -> Tensor:
        return z + self.loc + (2 * self.loc).detach()


class Clipped(Nonlinear):
    """A gradient of its own on the way back."""

    def mean(self, z: Tensor) -> Tensor:
        mean = z * self.loc
        if mean.requires_grad:
            mean.register_hook(lambda gradient: 0.5 * gradient)
        return mean


class Running(Nonlinear):
    """Keeps a running mean of z: a buffer that a step changes."""

    running: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running", torch.zeros(1))

    def mean(self, z: Tensor) -> Tensor:
        if self.training:
            self.running.lerp_(z.detach().mean(), 0.1)
        return z * self.loc


class Breaking(Nonlinear):
    """Its mean is no number once θ has passed 1.1."""

    def mean(self, z: Tensor) -> Tensor:
        return z * (1.1 - self.loc).sqrt()


def two(num_data: int = 30) -> ppvae.Data:
    x = torch.randn(num_data, 2, generator=torch.Generator().manual_seed(0))
    return ppvae.Data("two", x, x[:5], x[:5], "gaussian", "real")


@compiler
@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        (Branching, {}, r"Branching cannot be compiled, its operations depend on values .*remove compile"),
        (NoGradient, {}, r"NoGradient cannot be compiled: the gradient of loc changes.*remove compile"),
        (Clipped, {}, r"Clipped cannot be compiled: the gradient of \w+ changes.*remove compile"),
        (Detached, {"family": "mixture"}, "cannot be compiled: the gradient of .*remove compile"),
        (Detached, {"objective": "iwae", "gradient": "dreg", "num_particles": 2}, "remove compile or dreg"),
        (Detached, {"free_bits": 0.1}, "remove compile or free_bits"),
        (Detached, {"compile": "yes"}, "compile must be True or False, got 'yes'"),
    ],
)
def test_what_cannot_be_recorded_is_refused(
    model: type[ppvae.Model], options: dict[str, Any], says: str, untouched: Callable[..., Any]
) -> None:
    with untouched(), pytest.raises(ppvae.PpvaeError, match=says) as caught:
        fit(model, **{"compile": True, "data": two(), "batch_size": 10, **options})
    assert "\n" not in str(caught.value)


@compiler
@pytest.mark.parametrize("model", [Detached, Running])
def test_constants_and_buffers_are_those_of_the_fit_as_written(model: type[Nonlinear]) -> None:
    """The first step runs the pair more than once, which the buffer must not show."""
    plain, fast = (fit(model, compile, data=two(), batch_size=10) for compile in (False, True))
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(fast.model.state_dict()[name], value, rtol=1e-12, atol=1e-12)


@compiler
def test_a_nan_is_blamed_on_the_site_that_it_came_from() -> None:
    """In a compiled step after the first, whose densities nobody has seen."""
    said = []
    for compile in (False, True):
        with pytest.raises(NonFiniteError, match=r"loss became nan at step [1-9]\d*: .*site x\b") as caught:
            fit(Breaking, compile, data=two(), batch_size=10, lr=0.2, epochs=9)
        said.append(str(caught.value))
    assert said[0] == said[1]


@compiler
def test_a_resumed_fit_ends_as_one_left_alone(tmp_path: Path) -> None:
    """The compiled step is recorded again, by another batch; to the last bit, as the operations are the same."""
    options = {"checkpoint_seconds": 0.0, "epochs": 4}
    alone = fit(vae, True, run_dir=tmp_path / "alone", **options)
    with stopped_before(7):
        fit(vae, True, run_dir=tmp_path / "stopped", **options)
    again = fit(vae, True, run_dir=tmp_path / "stopped", resume=True, **options)
    for name, value in alone.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


@compiler
def test_runs_say_that_they_were_compiled(tmp_path: Path) -> None:
    place = tmp_path / "run"
    assert main(["fit", "ppca", "--data", "iris", "--epochs", "2", "--compile", "true", "--run_dir", str(place)]) == 0
    assert yaml.safe_load((place / CONFIG).read_text())["compile"] is True
    assert ppvae.load(place).settings.compile is True


def test_runs_of_earlier_versions_load_and_go_on(tmp_path: Path) -> None:
    """Their configuration does not say whether they were compiled."""
    place = tmp_path / "run"
    fit(vae, False, run_dir=place)
    config = yaml.safe_load((place / CONFIG).read_text())
    assert config.pop("compile") is False
    (place / CONFIG).write_text(yaml.safe_dump(config))
    assert ppvae.load(place).settings.compile is False
    assert fit(vae, False, run_dir=place, resume=True).settings.compile is False
    with pytest.raises(ppvae.PpvaeError, match="holds a run with compile False, not True"):
        fit(vae, True, run_dir=place, resume=True)
