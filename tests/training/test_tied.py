"""Weights that an encoder or a guide shares with the model: stepped once, counted once, shared in every copy."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from checks import refusal
from conftest import Untouched, bounds, identical, weights
from pairs import Linear
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import PyroOptim
from safetensors.torch import load_file, save_file
from stops import stopped_before
from torch import Tensor, nn

import ppvae
from ppvae.pair.local import Phi

#: the length of a first step of Adam is the learning rate, for every weight with a gradient
LR, LR_ENCODER, SLACK = 0.01, 0.002, 1e-5


class Transposed(nn.Module):
    """x [B, 4] → x W [B, 2], with the W of a linear layer from 2 to 4 numbers, and a scale of its own."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (x @ self.layer.weight)


class Tied(Linear):
    """The same, with an encoder of the decoder's weights."""

    def encoder(self) -> nn.Module:
        return Transposed(self.decoder)


class SharedGuide(Linear):
    """The guide's module is a part of the decoder, and it has one of its own, which is named twice."""

    guide_modules = ("link", "shift", "shift.0")

    def __init__(self) -> None:
        super().__init__()
        self.link, self.shift = self.decoder, nn.Sequential(nn.Linear(2, 2))
        self.phi = {"loc": ppvae.Local(torch.zeros(2))}

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            loc = self.shift(phi["loc"]) + 0.1 * self.link(phi["loc"])[..., :2]
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


def made(kind: type[Linear] = Linear) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind()


def pair(how: str = "given") -> tuple[Any, dict[str, Any]]:
    """A model and its inference_options: the tied encoder is given, or it is the model's own."""
    if how == "own":
        return made(Tied), {}
    model = made()
    return model, {"encoder": Transposed(model.decoder)}


def data() -> ppvae.Data:
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)) + 1
    return ppvae.Data("a few", x[:20], x[20:25], x[25:], "gaussian", "real")


def fit(model: Any, inference: str = "amortized", **options: Any) -> ppvae.Fit:
    more: dict[str, Any] = {"epochs": 2, "batch_size": 10, "eval_every": 1, "lr": LR, "progress": False}
    return ppvae.fit(model, data(), inference, **more | options)


def one_step(model: Any, options: dict[str, Any], inference: str = "amortized", **more: Any) -> dict[str, float]:
    """How far each parameter of model and strategy moved in the first step, by name."""
    still, moved = (
        fit(model, inference, inference_options=options, steps=1, batch_size=20, **more | rates)
        for rates in ({"lr": 1e-30, "lr_encoder": 1e-30}, {})
    )
    start = dict(named(still))
    return {name: (p - start[name]).abs().max().item() for name, p in named(moved)}


def named(result: ppvae.Fit) -> Iterator[tuple[str, Tensor]]:
    for module in (result.model, result.strategy):
        yield from ((name, p.detach()) for name, p in module.named_parameters(remove_duplicate=False))


def encoder_of(result: ppvae.Fit) -> Any:
    return result.strategy.get_submodule("encoder")


def is_tied(result: ppvae.Fit) -> bool:
    return encoder_of(result).layer is result.model.get_submodule("decoder")


TIES = pytest.mark.parametrize("how", ["given", "own"])


# Steps


@TIES
@pytest.mark.parametrize("two_rates", [False, True])
@pytest.mark.parametrize("inference", ["amortized", "semi-amortized"])
def test_a_shared_weight_steps_once_at_the_rate_of_theta(inference: str, two_rates: bool, how: str) -> None:
    """The encoder's own scale and head step at lr_encoder, where that differs."""
    model, options = pair(how)
    lr_encoder = LR_ENCODER if two_rates else LR
    moved = one_step(model, options, inference, lr_encoder=lr_encoder)
    assert moved.pop("encoder.layer.weight") == moved["decoder.weight"]
    assert moved.pop("encoder.layer.bias") == moved["decoder.bias"]
    assert moved.pop("encoder.scale") <= SLACK  # the head starts at zero, and passes no gradient on
    rates = {"decoder.weight": LR, "decoder.bias": LR, "head.weight": lr_encoder, "head.bias": lr_encoder}
    assert moved == pytest.approx(rates, abs=SLACK)


@TIES
def test_a_shared_weight_is_frozen_with_theta(how: str) -> None:
    model, options = pair(how)
    result = fit(model, inference_options=options, train_model=False)
    assert torch.equal(result.model.get_parameter("decoder.weight"), model.decoder.weight)
    assert torch.equal(encoder_of(result).layer.weight, model.decoder.weight)
    assert not torch.equal(encoder_of(result).scale, torch.ones(2))
    assert all(p.requires_grad for _, p in result.strategy.named_parameters())


@pytest.mark.parametrize("options", [{}, {"gradient": "stl"}, {"optimizer": "adamw"}, {"compile": False}])
def test_a_weight_that_the_guide_shares_is_theta(options: dict[str, Any]) -> None:
    """What the guide alone has steps at lr_encoder, also where guide_modules name it twice."""
    moved = one_step(made(SharedGuide), {}, lr_encoder=LR_ENCODER, **options)
    moved = {name: value for name, value in moved.items() if not name.startswith(("encoder.", "head.weight"))}
    theta = dict.fromkeys(("decoder.weight", "decoder.bias", "link.weight", "link.bias"), LR)
    own = dict.fromkeys(("shift.0.weight", "shift.0.bias", "head.bias"), LR_ENCODER)
    del moved["shift.0.weight"], own["shift.0.weight"]  # φ starts at 0, and passes no gradient on
    # the decay of adamw is some 1e-4 of a weight
    assert moved == pytest.approx(theta | own, abs=1e-3 if "optimizer" in options else SLACK)


def test_a_frozen_guide_keeps_what_it_shares() -> None:
    model = made(SharedGuide)
    result = fit(model, train_model=False)
    assert torch.equal(result.model.get_parameter("link.weight"), model.decoder.weight)
    assert not torch.equal(result.model.get_parameter("shift.0.bias"), model.shift[0].bias)
    assert [tuple(p.shape) for p in result.model.guide_parameters()] == [(2, 2), (2,)]


def test_a_module_named_twice_in_the_model_steps_once() -> None:
    class Twice(Linear):
        def __init__(self) -> None:
            super().__init__()
            self.again = nn.ModuleList([self.decoder])

    moved = one_step(made(Twice), {})
    assert moved["decoder.weight"] == moved["again.0.weight"] == pytest.approx(LR, abs=SLACK)


@TIES
def test_pyros_own_svi_steps_a_shared_weight_once(how: str) -> None:
    model, options = pair(how)
    result = fit(model, inference_options=options)
    before = dict(named(copy.deepcopy(result)))
    pyro.clear_param_store()
    adam: Any = PyroOptim(torch.optim.Adam, {"lr": LR})
    SVI(*ppvae.as_pyro(result), adam, Trace_ELBO()).step(data().train)
    pyro.clear_param_store()
    moved = {name: (p - before[name]).abs().max().item() for name, p in named(result)}
    assert moved == pytest.approx(dict.fromkeys(moved, LR), abs=SLACK)
    assert is_tied(result)


# Copies


@TIES
def test_a_fit_copies_both_and_keeps_the_tie(how: str, untouched: Untouched) -> None:
    """What was given stays as it is, and shares nothing with the fit."""
    model, options = pair(how)
    with untouched(model, *options.values()):
        result = fit(model, inference_options=options)
    assert is_tied(result)
    assert result.model.get_submodule("decoder") is not model.decoder
    assert result.settings.inference_options == options
    assert result.num_parameters() == 4 * 2 + 4 + 2 + (2 * 4 + 4)


@TIES
@pytest.mark.parametrize("inference", ["amortized", "semi-amortized"])
def test_going_on_keeps_the_tie(inference: str, how: str) -> None:
    """With the encoder that the first fit was given, from where both are."""
    model, options = pair(how)
    begin = fit(model, inference_options=options)
    same = fit(begin, inference, inference_options=options, lr=1e-30)
    assert is_tied(same)
    assert identical(weights(same), weights(begin))
    assert encoder_of(same).layer is not encoder_of(begin).layer


def test_a_tie_to_a_fits_model_starts_at_theta() -> None:
    """The encoder of the first fit, of the same shape and untied, gives its own weights alone."""
    begin = fit(made(), inference_options={"encoder": Transposed(nn.Linear(2, 4))})
    decoder: Any = begin.model.get_submodule("decoder")
    on = fit(begin, inference_options={"encoder": Transposed(decoder)}, lr=1e-30)
    assert is_tied(on)
    assert torch.allclose(on.model.get_parameter("decoder.weight"), decoder.weight, rtol=0, atol=1e-20)
    assert torch.allclose(encoder_of(on).scale, encoder_of(begin).scale, rtol=0, atol=1e-20)


def test_an_empty_sequence_is_an_encoder() -> None:
    """The identity: a module without parts is not the same as none."""
    result = fit(made(Tied), inference_options={"encoder": nn.Sequential()})
    assert list(encoder_of(result).modules()) == [encoder_of(result)]


# On disk


FILES = ["config.yaml", "fit.yaml", "metrics.csv", "weights.safetensors"]


@TIES
def test_a_loaded_fit_is_tied(how: str, tmp_path: Path, untouched: Untouched) -> None:
    """Where model and encoder are given with their tie; it saves again to the same files."""
    model, options = pair(how)
    result = fit(model, inference_options=options)
    result.save(tmp_path / "fit")
    new, given = pair(how)
    again = ppvae.load(tmp_path / "fit", model=new, **given)
    assert again.model is new
    assert is_tied(again)
    assert identical(weights(again), weights(result))
    assert again.num_parameters() == result.num_parameters()
    again.save(tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "fit" / name).read_bytes()
    assert is_tied(fit(again, inference_options=given))


def test_a_tie_is_not_lost_in_silence(tmp_path: Path) -> None:
    model, options = pair()
    fit(model, inference_options=options).save(tmp_path / "fit")
    for encoder in (Transposed(nn.Linear(2, 4)), copy.deepcopy(options["encoder"])):
        text = refusal(lambda encoder=encoder: ppvae.load(tmp_path / "fit", model=made(), encoder=encoder))
        assert "an encoder that shares encoder.layer.weight, encoder.layer.bias with the model" in text


def test_an_encoder_that_was_not_tied_comes_back_untied(tmp_path: Path) -> None:
    """Also where the module given shares weights with the model given, as in runs of earlier versions."""
    result = fit(made(), inference_options={"encoder": Transposed(nn.Linear(2, 4))})
    result.save(tmp_path / "fit")
    model, options = pair()
    again = ppvae.load(tmp_path / "fit", model=model, **options)
    assert not is_tied(again)
    assert identical(weights(again), weights(result))


def test_two_values_of_one_weight_are_refused(tmp_path: Path) -> None:
    fit(made(Tied)).save(tmp_path / "fit")
    path = tmp_path / "fit" / "weights.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "strategy.encoder.layer.bias": tensors["strategy.encoder.layer.bias"] + 1}, path)
    text = refusal(lambda: ppvae.load(tmp_path / "fit", model=made(Tied)))
    assert "model.decoder.bias and strategy.encoder.layer.bias are one" in text


@TIES
def test_a_stopped_run_continues_tied(how: str, tmp_path: Path) -> None:
    """And a finished one is read: to the last bit, with its tie and its settings."""
    model, options = pair(how)

    def run(place: Path | None, **more: Any) -> ppvae.Fit:
        return fit(model, inference_options=options, lr_encoder=LR_ENCODER, epochs=4, run_dir=place, **more)

    alone = run(None)
    with stopped_before(5):
        run(tmp_path / "run", checkpoint_seconds=0.0)
    for _ in range(2):
        resumed = run(tmp_path / "run", resume=True)
        assert is_tied(resumed)
        assert identical(weights(resumed), weights(alone))
        assert bounds(resumed) == bounds(alone)
        assert resumed.settings == alone.settings
    own, untied = made(), {"encoder": Transposed(nn.Linear(2, 4))}
    if how == "given":
        text = refusal(
            lambda: fit(own, inference_options=untied, lr_encoder=LR_ENCODER, epochs=4, run_dir=tmp_path / "run",
                        resume=True)
        )  # fmt: skip
        assert "holds a run with own_encoder ['encoder.layer.weight', 'encoder.layer.bias'], not True" in text
