"""A fit as plain Pyro programs: under Pyro's own ELBOs, `SVI.step` and `Predictive`.

Statistical claims are z statistics of fixed seeds. "Better" asks for z > 5 of paired differences per datum (false
alarm rate 3e-7 each); "the same" for |z| < 4.5 (7e-6 each). There are fewer than 40 of both together.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any, cast

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceEnum_ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn

import ppvae
from ppvae.models import PPCA
from ppvae.pair.guide_family import set_family

BATCH, STEPS = 40, 150
PAIRS = [
    *((model, inference) for model in ("vae", "dlgm", "ppca", "gmm") for inference in ("amortized", "per-datapoint")),
    ("ppca", "exact"),
]
pairs = pytest.mark.parametrize(("model", "inference"), PAIRS)
OPTIONS: dict[str, dict[str, Any]] = {
    "vae": {"latent_dim": 3, "hidden": [40]},
    "dlgm": {"latent_dims": [3, 2], "hidden": 10},
    "ppca": {},
    "gmm": {},
}


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    """Pyro's global store is empty around each test, and the global random state is the test's own."""
    pyro.clear_param_store()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    pyro.clear_param_store()


@cache
def _fit(model: str, inference: str) -> ppvae.Fit:
    data = ppvae.load_data("iris" if model in ("gmm", "ppca") else "digits", num_train=100)
    data = replace(data, valid=data.valid[:5], labels=None)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = ppvae.create(model, x_dim=data.event_shape.numel(), **OPTIONS[model])
    return ppvae.fit(made, data, inference, epochs=1, lr=0.01, progress=False)


def fit_of(model: str, inference: str) -> ppvae.Fit:
    """A fit of a few steps that the test may train further."""
    return copy.deepcopy(_fit(model, inference))


def data_of(model: str) -> Tensor:
    return ppvae.load_data("iris" if model in ("gmm", "ppca") else "digits").train[:BATCH]


def loss_of(model: str) -> Any:
    return TraceEnum_ELBO(max_plate_nesting=1) if model == "gmm" else Trace_ELBO()


def bound(fit: ppvae.Fit, x: Tensor, particles: int = 50) -> Tensor:
    """Single-draw bounds of the library on fixed noise, [S, B]; one exact row where the guide is enumerated."""
    index = torch.arange(len(x)) if fit.strategy.has_rows else None
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        densities = ppvae.log_densities(fit.model, fit.posterior(x, index), x, particles)
        return densities.mean(densities.log_ratio)[None] if densities.enumerated else densities.log_ratio


def z_of_gain(after: Tensor, before: Tensor) -> float:
    """Of the bound's rise, paired over data."""
    gain = (after.mean(0) - before.mean(0)).double()
    return (gain.mean() / gain.std() * math.sqrt(len(gain))).item()


def moved(fit: ppvae.Fit, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in numbers(fit).items() if not torch.equal(value, before[name])}


def numbers(fit: ppvae.Fit) -> dict[str, Tensor]:
    """A copy of everything that trains: θ, guide weights and λ or rows."""
    named = [*fit.model.named_parameters(prefix="θ"), *fit.strategy.named_parameters(prefix="λ")]
    return {name: p.detach().clone() for name, p in named}


# as_pyro


@pairs
def test_it_trains_under_pyros_elbo(model: str, inference: str) -> None:
    """`Trace_ELBO()(model, guide)` with a torch optimiser moves every parameter of the fit and raises its bound."""
    fit, x = fit_of(model, inference), data_of(model)
    before, start = bound(fit, x), numbers(fit)
    loss = loss_of(model)(*ppvae.as_pyro(fit))
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.03)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(x).backward()
        optimizer.step()
    assert moved(fit, start) == start.keys()
    assert z_of_gain(bound(fit, x), before) > 5


@pytest.mark.parametrize("local", [False, True])
@pairs
def test_it_trains_under_svi(model: str, inference: str, local: bool) -> None:
    """`SVI.step` moves the fit's own parameters, whatever the setting of `module_local_params`."""
    fit, x = fit_of(model, inference), data_of(model)
    before, start = bound(fit, x), numbers(fit)
    with pyro.settings.context(module_local_params=local):
        svi = SVI(*ppvae.as_pyro(fit), PyroOptim(torch.optim.Adam, {"lr": 0.03}), loss_of(model))
        for _ in range(STEPS):
            svi.step(x)
    assert moved(fit, start) == start.keys()
    assert z_of_gain(bound(fit, x), before) > 5


@pairs
def test_pyros_bound_is_ours(model: str, inference: str) -> None:
    """Pyro's sum over data divided by B is our mean bound: within 4.5 standard errors of 300 and 2000 draws."""
    fit, x = fit_of(model, inference), data_of(model)
    pair, loss = ppvae.as_pyro(fit), loss_of(model)
    ours = bound(fit, x, particles=2000).mean(1).double()
    theirs = torch.tensor([-loss.loss(*pair, x) / len(x) for _ in range(1 if model == "gmm" else 300)]).double()
    if model == "gmm":  # summed out by both: no noise
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
        return
    error = (ours.var() / len(ours) + theirs.var() / len(theirs)).sqrt()
    # under the exact posterior every draw gives log p(x): then only rounding is left
    assert abs(ours.mean() - theirs.mean()) < 4.5 * error + 1e-4


@pytest.mark.parametrize("model", OPTIONS)
def test_rows_are_those_of_the_index(model: str) -> None:
    """guide(x, index) reads the table's rows `index`, and trains no other."""
    fit, x = fit_of(model, "per-datapoint"), data_of(model)
    index = torch.tensor([9, 3, 70])
    loss = loss_of(model)(*ppvae.as_pyro(fit))
    start = numbers(fit)["λ.table"]
    loss(x[:3], index).backward()
    (table,) = fit.strategy.parameters()
    assert table.grad is not None
    assert table.grad.any(-1).nonzero().flatten().tolist() == [3, 9, 70]
    assert torch.equal(table, start)


def test_two_fits_live_side_by_side() -> None:
    """Their parameters have names of their own in Pyro's store: a step on one leaves the other where it is."""
    one, other, x = fit_of("vae", "amortized"), fit_of("vae", "amortized"), data_of("vae")
    start = numbers(other)
    ppvae.as_pyro(other)[0](x)
    SVI(*ppvae.as_pyro(one), PyroOptim(torch.optim.Adam, {"lr": 0.1}), Trace_ELBO()).step(x)
    assert moved(other, start) == set()
    assert moved(one, start)


def test_the_pair_of_a_model_without_a_guide() -> None:
    """The default family is handed out like a written one."""
    fit, x = ppvae.fit(Scale(), scale_data(), progress=False, epochs=3), scale_data().train
    before = bound(fit, x)
    svi = SVI(*ppvae.as_pyro(fit), PyroOptim(torch.optim.Adam, {"lr": 0.02}), Trace_ELBO())
    for _ in range(60):
        svi.step(x)
    assert z_of_gain(bound(fit, x), before) > 5


# Predictive

LATENT = {"vae": "z", "dlgm": "h1", "ppca": "z", "gmm": "k"}


@pairs
def test_prior_predictive(model: str, inference: str) -> None:
    """The model without its observation draws data: [S, B, x_dim], in {0, 1} under a Bernoulli."""
    fit, x = fit_of(model, inference), data_of(model)
    generative, _ = ppvae.as_pyro(fit)
    draws = Predictive(poutine.uncondition(generative), num_samples=6)(x)
    assert draws["x"].shape == (6, *x.shape)
    assert draws[LATENT[model]].shape[:2] == (6, BATCH)
    assert len(draws["x"].unique()) == (2 if model in ("vae", "dlgm") else draws["x"].numel())


def test_prior_predictive_moments() -> None:
    """Of pPCA: the mean of the draws is the bias, within 4.5 standard errors in each of 4 coordinates."""
    fit, x = fit_of("ppca", "amortized"), data_of("ppca")
    generative, _ = ppvae.as_pyro(fit)
    draws = Predictive(poutine.uncondition(generative), num_samples=200)(x)["x"].flatten(0, 1)
    z = (draws.mean(0) - cast(PPCA, fit.model).mean()) / draws.std(0) * math.sqrt(len(draws))
    assert z.abs().max() < 4.5


@pairs
def test_the_guides_latents(model: str, inference: str) -> None:
    """Each draw has log q as our densities score it; the mean over 400 draws is log q's own, within 4.5 errors."""
    fit, x = fit_of(model, inference), data_of(model)
    _, guide = ppvae.as_pyro(fit)
    index = torch.arange(BATCH) if fit.strategy.has_rows else None
    draws = Predictive(guide, num_samples=400)(x)
    values = {name: draw.detach() for name, draw in draws.items() if draw.dim() > 1}
    with torch.no_grad():
        posterior = fit.posterior(x, index)
        theirs = ppvae.log_densities(fit.model, posterior, x, values=values).log_q.mean(1).double()
        own = ppvae.log_densities(fit.model, posterior, x, 400)
        ours = (own.mean(own.log_q)[None] if own.enumerated else own.log_q).mean(1).double()
    error = (theirs.var() / len(theirs) + (0 if len(ours) == 1 else ours.var() / len(ours))).sqrt()
    assert values.keys() == own.values.keys()
    assert abs(ours.mean() - theirs.mean()) < 4.5 * error


@pairs
def test_posterior_predictive(model: str, inference: str) -> None:
    """`Predictive(model, guide=guide)` draws x at the guide's latents: [S, B, x_dim], one row of them a datum."""
    fit, x = fit_of(model, inference), data_of(model)
    generative, guide = ppvae.as_pyro(fit)
    draws = Predictive(poutine.uncondition(generative), guide=guide, num_samples=6)(x)["x"]
    assert draws.shape == (6, *x.shape)
    assert draws.isfinite().all()


def test_posterior_predictive_is_near_its_datum() -> None:
    """Of a trained pPCA: draws from q(z | xᵢ) are nearer to xᵢ than draws from the prior, by 5 standard errors."""
    data = ppvae.load_data("iris", num_train=BATCH)
    fit = ppvae.fit(ppvae.create("ppca", x_dim=4), data, "exact", lr=0.05, epochs=150, progress=False)
    generative, guide = ppvae.as_pyro(fit)
    free, x = poutine.uncondition(generative), data.train
    distances = [
        (Predictive(free, guide=q, num_samples=100, return_sites=["x"])(x)["x"] - x).norm(dim=-1) for q in (guide, None)
    ]
    assert z_of_gain(-distances[0], -distances[1]) > 5


# A model without a fit


class Scale(ppvae.Model):
    """Positive scalars z ~ Gamma, x | z ~ Normal(0, w z) in three columns; no guide."""

    def __init__(self) -> None:
        super().__init__()
        self.log_w = nn.Parameter(torch.zeros(()))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(x.new_full((), 3.0), 1.0)).unsqueeze(-1)
            pyro.sample("x", dist.Normal(x.new_zeros(3), self.log_w.exp() * z).to_event(1), obs=x)


def scale_data() -> ppvae.Data:
    x = 9 * torch.randn(BATCH, 3, generator=torch.Generator().manual_seed(0))
    return ppvae.Data("wide", x, x[:4], x[:4], "gaussian", "real")


class BoundGuide(nn.Module):
    """A plain Pyro guide out of a model's own: rows of φ as a parameter."""

    def __init__(self, model: ppvae.Model, batch: int) -> None:
        super().__init__()
        self.layout, self.program = model.layout(), model.guide
        self.rows = nn.Parameter(self.layout.start.repeat(batch, 1))

    def forward(self, x: Tensor) -> None:
        self.program(x, self.layout.unpack(self.rows))


def bare(name: str) -> tuple[ppvae.Model, BoundGuide, Tensor]:
    if name == "scale":
        x = scale_data().train
        model = set_family(Scale(), x)
    else:
        x = data_of(name)
        model = ppvae.create(name, x_dim=x.shape[1], **OPTIONS[name])
    return model, BoundGuide(model, len(x)), x


@pytest.mark.parametrize("name", ["vae", "dlgm", "ppca", "scale"])
def test_a_bare_model_trains_under_trace_elbo(name: str) -> None:
    """A `ppvae.Model` is a Pyro program and a module as it stands, and so is its guide with φ bound."""
    model, guide, x = bare(name)
    loss = Trace_ELBO()(model, guide)
    start = [p.detach().clone() for p in loss.parameters()]
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.02)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        value = loss(x)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    first, last = torch.tensor(losses[:20]), torch.tensor(losses[-20:])
    assert (first.mean() - last.mean()) / ((first.var() + last.var()) / 20).sqrt() > 5
    assert not any(torch.equal(p, old) for p, old in zip(loss.parameters(), start, strict=True))


def test_a_bare_model_trains_under_svi_once_registered() -> None:
    """With `pyro.module` in two lines around model and guide."""
    model, guide, x = bare("vae")
    start = [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]

    def registered_model(x: Tensor) -> None:
        pyro.module("model", model)
        model(x)

    def registered_guide(x: Tensor) -> None:
        pyro.module("guide", guide)
        guide(x)

    svi = SVI(registered_model, registered_guide, PyroOptim(torch.optim.Adam, {"lr": 0.02}), Trace_ELBO())
    losses = torch.tensor([svi.step(x) for _ in range(100)])
    first, last = losses[:20], losses[-20:]
    assert (first.mean() - last.mean()) / ((first.var() + last.var()) / 20).sqrt() > 5
    assert not any(
        torch.equal(p, old) for p, old in zip((*model.parameters(), *guide.parameters()), start, strict=True)
    )


def test_a_posterior_is_a_plain_guide() -> None:
    """What `fit.posterior(x)` returns can be traced and replayed; its latents are the model's."""
    fit, x = fit_of("vae", "amortized"), data_of("vae")
    posterior = fit.posterior(x)
    guide = poutine.trace(posterior).get_trace(x)
    model = poutine.trace(poutine.replay(fit.model, trace=guide)).get_trace(x)
    drawn: list[Any] = [trace.nodes["z"].get("value") for trace in (guide, model)]
    assert torch.equal(*drawn)
    assert math.isfinite(Trace_ELBO().loss(fit.model, posterior, x))


def test_a_pair_that_is_not_a_fit_is_refused() -> None:
    model = ppvae.create("vae", x_dim=4)
    with pytest.raises(ppvae.PpvaeError, match="got Pair"):
        ppvae.as_pyro(ppvae.Pair(model, lambda x: {}, [4]))  # pyright: ignore[reportArgumentType]
