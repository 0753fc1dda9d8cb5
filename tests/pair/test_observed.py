"""A density is no probability: one rule for discrete data, in a fit as in a comparison."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from checks import refusal
from torch import Tensor

import ppvae
from ppvae.cli.main import main

SOURCE = '''
import pyro
import pyro.distributions as dist
import torch

import ppvae


class Own(dist.TorchDistribution):
    """Bernoulli, of a class that does not say its support."""

    arg_constraints = {}

    def __init__(self, logits):
        self.inside = dist.Bernoulli(logits=logits)
        super().__init__(logits.shape, validate_args=False)

    def sample(self, sample_shape=torch.Size()):
        return self.inside.sample(sample_shape)

    def log_prob(self, x):
        return self.inside.log_prob(x)

    def expand(self, batch_shape, _instance=None):
        return Own(self.inside.logits.expand(batch_shape))


class Bits(ppvae.Model):
    """z ~ Normal(0, 1); x of the kind that is asked for."""

    def __init__(self, x_dim=64, kind="bits"):
        super().__init__()
        self.weight, self.kind = torch.nn.Parameter(torch.zeros(2, x_dim)), kind

    def model(self, x):
        with pyro.plate("data", len(x)):
            logits = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1)) @ self.weight
            if self.kind == "deterministic":
                pyro.deterministic("logits", logits, event_dim=1)
            if self.kind == "factor":
                pyro.factor("x", dist.Bernoulli(logits=logits).to_event(1).log_prob(x))
            elif self.kind == "density":
                pyro.sample("x", dist.Normal(logits, 1.0).to_event(1), obs=x)
            elif self.kind == "masked":
                pyro.sample("x", dist.Normal(logits, 1.0).to_event(1).mask(x[:, 0] > 0), obs=x)
            elif self.kind == "own":
                for i in range(x.shape[1]):
                    pyro.sample(f"x{i}", Own(logits[..., i]), obs=x[:, i])
            else:
                pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)
'''


@cache
def digits(treatment: str = "static") -> ppvae.Data:
    data = ppvae.load_data("digits", treatment=treatment, num_train=60)
    return replace(data, valid=data.valid[:5], test=data.test[:3], labels=None)


def few() -> ppvae.Data:
    """The first three numbers of each digit."""
    data = digits()
    return replace(data, **{name: x[:, 27:30] for name, x in data.splits.items()}, source=None)


@pytest.fixture
def bits(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(SOURCE)
    return f"{tmp_path / 'own.py'}:Bits"


def fit(model: Any, data: ppvae.Data, inference: str = "amortized", **options: Any) -> ppvae.Fit:
    return ppvae.fit(model, data, inference, **{"epochs": 1, "progress": False} | options)


def compared(model: str, data: ppvae.Data, inference: str = "amortized", **options: Any) -> Any:
    return ppvae.compare(
        [model], inference, data, epochs=1, num_samples=5, num_gaps=0, method="importance", progress=False,
        model_options=options,
    )  # fmt: skip


WHY = "gives site 'x' a density over real numbers, and digits ({}) is discrete: use a likelihood for such values"


@pytest.mark.parametrize("treatment", ["static", "dynamic", "threshold"])
@pytest.mark.parametrize("name", ["gmm", "ppca"])
def test_a_density_of_binary_data_is_refused(name: str, treatment: str) -> None:
    """In the same words by a fit, a comparison and the command line, before training."""
    said = refusal(lambda: compared(name, digits(treatment)))
    assert said.startswith(f"{name} {WHY.format(treatment)}")
    assert 'treatment="real"' in said
    assert refusal(lambda: fit(name, digits(treatment))) == said
    assert refusal(lambda: fit(name, digits(treatment), "exact")) == said


def test_the_command_line_refuses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "ppca", "--data", "digits", "--epochs", "1"]) == 2
    assert f"ppca {WHY.format('static')}" in capsys.readouterr().err
    assert not list(tmp_path.rglob("config.yaml"))


@pytest.mark.parametrize("treatment", ["real", "standardised"])
def test_the_way_out(treatment: str) -> None:
    assert fit("ppca", digits(treatment), "exact").data.treatment == treatment


@pytest.mark.parametrize("kind", ["density", "masked"])
def test_a_users_own_density_is_refused(kind: str, bits: str) -> None:
    """By its file, by its class, under any inference, and going on from a fit of other data."""
    said = refusal(lambda: compared(bits, digits(), kind=kind))
    assert said.startswith(f"{bits} {WHY.format('static')}")
    model = ppvae.create(bits, kind=kind)
    for inference, options in (("amortized", {}), ("per-datapoint", {}), ("amortized", {"train_model": False})):
        said = refusal(lambda inference=inference, options=options: fit(model, digits(), inference, **options))
        assert said.startswith(f"Bits {WHY.format('static')}")
    begin = fit(model, digits("real"))
    assert "density over real numbers" in refusal(lambda: fit(begin, digits()))


@pytest.mark.parametrize("kind", ["bits", "deterministic", "factor", "own"])
def test_a_probability_is_not_refused(kind: str, bits: str) -> None:
    """Nor sites that are no distribution, nor a distribution that does not say what it is over."""
    data = few()
    result = fit(ppvae.create(bits, kind=kind, x_dim=3), data)
    plain = fit(ppvae.create(bits, x_dim=3), data)
    assert result.history[-1]["valid_bound"] == pytest.approx(plain.history[-1]["valid_bound"], rel=1e-5)
    assert all(row.log_marginal < 0 for row in compared(bits, data, kind=kind, x_dim=3).rows)


def test_an_earlier_fit_loads_and_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose data were binary, which no version refused then; also where its gaps need fits of other families."""
    x = few()
    as_real = ppvae.Data(x.name, x.train, x.valid, x.test, "gaussian", "real")
    result = fit(ppvae.create("ppca", x_dim=3), as_real, "exact")
    result.save(tmp_path / "fit")
    path = tmp_path / "fit" / "fit.yaml"
    content = yaml.safe_load(path.read_text())
    content.pop("preparation", None)
    path.write_text(yaml.safe_dump(content | {"treatment": "static"}))
    again = ppvae.load(tmp_path / "fit")
    assert again.data.treatment == "static"
    row, _ = ppvae.evaluate(again, x, num_samples=20, num_gaps=0)
    assert row.log_marginal == pytest.approx(as_log_marginal(result, x.test), rel=1e-5)
    assert "density" in refusal(lambda: fit(again, x, "exact"))
    monkeypatch.setattr("ppvae.diagnostics.best_q.FLOW_STEPS", 10)
    found = ppvae.gaps(again, x.test, families=["iaf"], num_samples=50, max_steps=25)
    assert bool(found["approximation_gap"].notnull().all())


def as_log_marginal(result: ppvae.Fit, x: Tensor) -> float:
    with torch.no_grad():
        return result.model.log_prob(x).mean().item()
