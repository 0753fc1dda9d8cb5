"""log p(a x + b) + D log a is one number, for every model with a density, under every strategy."""

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ppvae
from ppvae.catalogue import LIKELIHOODS, MODELS, STRATEGIES
from ppvae.data.treatment import values_of
from ppvae.nn.networks import default_encoder
from ppvae.options import option_names
from ppvae.pair.zoo import model_class

N, DIM = 90, 3
#: the likelihoods of data that have units
REAL = [name for name in LIKELIHOODS if values_of(name) == "real"]
#: options that make a model small
SMALL: dict[str, Any] = {
    "latent_dim": 2, "latent_dims": [2, 2], "hidden": 5, "num_components": 2, "num_starts": 2,
}  # fmt: skip
STRATEGY_OPTIONS: dict[str, dict[str, Any]] = {"semi-amortized": {"refine_steps": 2}}


def models() -> list[tuple[str, dict[str, Any]]]:
    """Models of the zoo with a density, with the options that change what has units."""
    out: list[tuple[str, dict[str, Any]]] = []
    for name in MODELS:
        names = option_names(model_class(name))
        small = {key: value for key, value in SMALL.items() if key in names}
        if name == "vae":
            small["hidden"] = [5]
        variants: list[dict[str, Any]] = [{"likelihood": kind} for kind in REAL] if "likelihood" in names else [{}]
        out += [(name, small | variant) for variant in variants]
        for key, values in (("noise", ["diagonal"]), ("covariance", ["full"]), ("family", ["factorised"])):
            out += [(name, {**out[-1][1], key: value}) for value in values if key in names]
    return out


PAIRS = [
    (name, options, inference)
    for name, options in models()
    for inference in STRATEGIES
    if inference != "exact" or name in ("gmm", "ppca")
]


def rows() -> Tensor:
    """Correlated columns of deviations of about 1, 3 and 0.2, in double precision."""
    draws = np.random.default_rng(0)
    x = draws.normal(size=(N, DIM)) @ np.array([[1.0, 0.5, 0.0], [0.0, 3.0, 0.1], [0.3, 0.0, 0.2]])
    return torch.from_numpy(x + draws.integers(0, 2, size=(N, 1)) * [3.0, 0.0, 0.5])


@cache
def log_p(name: str, options: tuple[tuple[str, Any], ...], inference: str, a: float, b: float) -> Tensor:
    """Estimates of log p(a x + b) + D log a of a short fit to a x + b [N], in double precision from 5 draws."""
    x = a * rows() + b
    data = ppvae.Data("rows", x[:60], x[60:63], x[63:], "gaussian", "real")
    given = {key: list(value) if isinstance(value, tuple) else value for key, value in options}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ppvae.create(name, x_dim=DIM, **given)
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 20, "precision": "64-true"}
    fit = ppvae.fit(model, data, inference, inference_options=STRATEGY_OPTIONS.get(inference, {}), **settings)
    result = ppvae.log_marginal(fit, x[:4], num_samples=5)
    return torch.from_numpy(result.log_marginal.values + DIM * math.log(a))


@pytest.mark.parametrize(("name", "options", "inference"), PAIRS, ids=str)
@pytest.mark.parametrize(("a", "b"), [(1e-6, 0), (1e6, 0), (1e-3, 50.0)])
def test_units_do_not_matter(name: str, options: dict[str, Any], inference: str, a: float, b: float) -> None:
    """Training makes the same steps: what differs is rounding, which 6 steps multiply.

    Of a number 5e4 deviations from 0, double precision keeps 11 digits.
    """
    key = tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in options.items())
    base = log_p(name, key, inference, 1.0, 0.0)
    assert base.isfinite().all()
    torch.testing.assert_close(log_p(name, key, inference, a, b), base, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "options"), models(), ids=str)
def test_single_precision_agrees(name: str, options: dict[str, Any]) -> None:
    """At a = 2^±20 nothing rounds otherwise, and each estimate is that of a = 1 to the last digits."""
    out = []
    for a in (1.0, 2.0**-20, 2.0**20):
        x = (a * rows()).float()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = ppvae.create(name, x_dim=DIM, **options)
        data = ppvae.Data("rows", x[:60], x[60:63], x[63:], "gaussian", "real")
        fit = ppvae.fit(model, data, epochs=4, batch_size=20)
        out.append(ppvae.log_marginal(fit, x[:4], num_samples=5).log_marginal.values + DIM * math.log(a))
    for other in out[1:]:
        np.testing.assert_allclose(other, out[0], rtol=1e-4, atol=1e-4)


def test_the_default_encoder_sees_units_of_the_data() -> None:
    """The same features whatever x is measured in."""
    features = []
    for a in (1e-6, 1.0, 1e6):
        x = (a * rows()).float()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            encoder = default_encoder(x)
            features.append(encoder(x).detach())
    for other in features[1:]:
        torch.testing.assert_close(other, features[0], rtol=1e-3, atol=1e-3)
