"""Likelihoods: their densities, how they start, and one more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

import ppvae
from ppvae.catalogue import LIKELIHOODS, available, register
from ppvae.data.treatment import likelihood_for, treatments
from ppvae.nn.likelihood import Likelihood, make_likelihood
from ppvae.nn.networks import mlp, moments
from ppvae.pair.zoo import options_from_data

ROWS = 200


def values(name: str) -> Tensor:
    """Data [ROWS, 4] of the kind that the likelihood is of."""
    torch.manual_seed(0)
    real = torch.randn(ROWS, 4) * torch.tensor([1.0, 5.0, 0.2, 1.0]) + torch.tensor([0.0, 3.0, -1.0, 8.0])
    return {"binary": (real > 0).float(), "real": real}[LIKELIHOODS.facts(name)["values"]]


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_every_likelihood_starts_near_its_data_and_scores_them(name: str) -> None:
    x = values(name)
    torch.manual_seed(1)
    likelihood = make_likelihood(name, 3, 8, 4)
    features = torch.randn(ROWS, 3)
    before = likelihood(features).log_prob(x)
    likelihood.start(x)
    after = likelihood(features)
    assert after.batch_shape == (ROWS,)
    assert after.event_shape == (4,)
    assert after.log_prob(x).mean() > before.mean()
    torch.testing.assert_close(after.sample((500,)).mean((0, 1)), x.mean(0), atol=0.5 * float(x.std(0).max()), rtol=0)


def test_a_gaussian_is_in_the_units_of_the_data_with_a_floor() -> None:
    x = values("gaussian")
    likelihood = make_likelihood("gaussian", 3, 4, min_scale=0.5)
    likelihood.start(x)
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.fill_(-1e3)
    spread = likelihood(torch.ones(1, 3)).stddev
    torch.testing.assert_close(spread[0], 0.5 * x.std(0, correction=0))


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("bernoulli", {"logits.0.weight", "logits.0.bias"}),
        (
            "gaussian",
            {"loc.0.weight", "loc.0.bias", "variance.0.weight", "variance.0.bias", "shift", "scale"},
        ),
    ],
)
def test_weights_keep_the_names_that_saved_fits_have(name: str, keys: set[str]) -> None:
    assert set(make_likelihood(name, 3, 4).state_dict()) == keys


def test_a_likelihood_takes_the_options_that_it_has() -> None:
    assert not hasattr(make_likelihood("bernoulli", 3, 4, min_scale=0.5), "min_scale")
    with pytest.raises(ppvae.PpvaeError, match="min_scale must be a finite number > 0"):
        make_likelihood("gaussian", 3, 4, min_scale=-1.0)


@pytest.mark.parametrize("model", ["vae", "dlgm"])
def test_refusals(model: str) -> None:
    with pytest.raises(ppvae.PpvaeError, match="unknown likelihood 'gausian': did you mean 'gaussian'"):
        ppvae.create(model, x_dim=4, likelihood="gausian")
    with pytest.raises(ppvae.PpvaeError, match="min_scale must be a finite number > 0"):
        ppvae.create(model, x_dim=4, min_scale=0)


# One more


class Poisson(Likelihood):
    """Independent Poissons, log rates a network of the features."""

    def __init__(self, *sizes: int, activation: str = "relu", floor: float = 1e-3) -> None:
        super().__init__()
        self.rate, self.floor = mlp(*sizes, activation=activation), floor

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        return dist.Poisson(softplus(self.rate(features)) + self.floor).to_event(1)

    def start(self, x: Tensor) -> None:
        bias = self.rate[-1].bias
        assert isinstance(bias, Tensor)
        with torch.no_grad():
            bias.copy_(moments(x)[0].clamp_min(0.1).expm1().log())


@pytest.fixture
def poisson() -> Iterator[str]:
    register("poisson", order=3, values="counts")(Poisson)
    yield "poisson"
    LIKELIHOODS.forget("poisson")


@pytest.fixture
def counts(tmp_path: Path) -> Path:
    """A file of counts [120, 3] with one common cause."""
    random = np.random.default_rng(0)
    cause = random.normal(size=(120, 1))
    np.save(tmp_path / "counts.npy", random.poisson(np.exp(1 + cause * [0.8, -0.5, 0.3])).astype(np.float32))
    return tmp_path / "counts.npy"


@pytest.mark.parametrize("name", ["vae", "dlgm"])
def test_one_class_adds_a_likelihood(poisson: str, counts: Path, name: str) -> None:
    """Registered and nothing else edited, it has a treatment of data, and models take it by name."""
    assert available("likelihoods") == ["bernoulli", "gaussian", "poisson"]
    assert "counts" in treatments()
    assert likelihood_for("counts") == poisson
    data = ppvae.load_data(counts, treatment="counts")
    assert (data.likelihood, data.treatment, data.discrete) == ("poisson", "counts", True)
    model = ppvae.create(
        name, **options_from_data(type(ppvae.create(name, x_dim=3)), data, {"hidden": [8]} if name == "vae" else {})
    )
    fit = ppvae.fit(model, data, epochs=30, lr=0.01, eval_every=5)
    assert fit.history[-1]["valid_bound"] > fit.history[0]["valid_bound"]
    found = ppvae.log_marginal(fit, data.test, num_samples=500, method="importance")
    assert float(found.log_marginal.max()) < 0  # probabilities, not densities
    assert ppvae.sample(fit, 5, seed=0).x.frac().eq(0).all()


def test_its_values_are_checked(poisson: str, counts: Path) -> None:
    x = torch.tensor([[0.0], [2.0], [1.5]])
    with pytest.raises(ppvae.PpvaeError, match=r"'poisson' needs values that are whole numbers ≥ 0: use 'gaussian'"):
        ppvae.Data("halves", x, x, x, poisson, "counts")
    with pytest.raises(ppvae.PpvaeError, match="treatment 'counts' needs values that are whole numbers ≥ 0"):
        ppvae.load_data("iris", treatment="counts")
    with pytest.raises(ppvae.PpvaeError, match="'dynamic' goes with likelihood 'bernoulli' only"):
        ppvae.Data("counts", x, x, x, poisson, "dynamic")


def test_a_treatment_without_a_likelihood_is_unknown(counts: Path) -> None:
    with pytest.raises(ppvae.PpvaeError, match="unknown treatment 'counts'"):
        ppvae.load_data(counts, treatment="counts")


def test_a_likelihood_of_unknown_values_is_refused() -> None:
    cls = type("Strange", (Poisson,), {"__module__": __name__, "__doc__": "Of strange values."})
    register("strange", values="cuonts")(cls)
    try:
        with pytest.raises(
            ppvae.PpvaeError, match="unknown values of likelihood strange 'cuonts': did you mean 'counts'"
        ):
            treatments()
    finally:
        LIKELIHOODS.forget("strange")
