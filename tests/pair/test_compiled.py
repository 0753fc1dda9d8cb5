"""log p(x, z) compiled gives the numbers that the model as written gives."""

import pytest
import torch
from checks import compiler
from pairs import Branching
from torch import Tensor

import ppvae


def digits(model: ppvae.Model, treatment: str = "static") -> tuple[ppvae.Fit, Tensor]:
    data = ppvae.load_data("digits", treatment=treatment)
    return ppvae.fit(model, data, steps=2, progress=False), data.test


@compiler
def test_estimates_are_the_same_but_for_rounding(untouched) -> None:
    """130 data: a whole block and a part of one; 65 draws: a whole chunk and a part of one; two chunk sizes."""
    fit, x = digits(ppvae.create("vae", x_dim=64, latent_dim=3, hidden=(20,)))
    plain = ppvae.log_marginal(fit, x[:130], num_samples=65)
    for chunk_size in (5000, 700):
        with untouched(fit.model, fit.strategy):
            fast = ppvae.log_marginal(fit, x[:130], num_samples=65, chunk_size=chunk_size, compile=True)
        for name in ("log_marginal", "elbo", "running"):
            # float32: an error of some units in the last place of log p, which is about 40 nats here
            assert abs(plain[name] - fast[name]).max() < 64 * torch.finfo(torch.float32).eps * 64, name


@compiler
def test_the_support_of_the_likelihood_is_still_held_against_x() -> None:
    fit, x = digits(ppvae.create("vae", x_dim=64, latent_dim=3, hidden=(20,)))
    with pytest.raises(ppvae.PpvaeError, match="within the support"):
        ppvae.log_marginal(fit, x[:3] + 0.5, num_samples=5, compile=True)


def test_a_model_that_branches_on_values_is_refused() -> None:
    x = torch.randn(30, 2)
    fit = ppvae.fit(Branching(), ppvae.Data("two", x, x, x, "gaussian", "real"), steps=1, progress=False)
    with pytest.raises(ppvae.PpvaeError, match=r"Branching cannot be compiled.*remove compile"):
        ppvae.log_marginal(fit, x, num_samples=5, compile=True)
