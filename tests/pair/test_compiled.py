"""log p(x, z) compiled gives the numbers that the model as written gives."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from checks import compiler
from pairs import Branching
from torch import Tensor

import ppvae
from ppvae.distributions import fast


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1,), (55,), (56,), (57,), (784,), (3, 40)])
def test_products_of_bernoulli_factors(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Against the distribution itself in float64; logits from far below to far above what a factor can hold."""
    torch.manual_seed(0)
    logits = (30 * torch.randn(7, *shape)).to(dtype)
    logits[0] = 1e4
    value = torch.bernoulli(torch.full(shape, 0.4, dtype=dtype))
    with torch.no_grad(), pyro.validation_enabled(False):
        exact = dist.Independent(dist.Bernoulli(logits=logits.double()), len(shape)).log_prob(value.double())
        fn = dist.Independent(dist.Bernoulli(logits=logits, validate_args=False), len(shape))
        with fast.fused():
            found = fast.log_prob(fn, value)
    # a term is off by an eps of its own size, and Σ by no more than all of them
    most = logits.abs().double().flatten(1).sum(-1) + math.prod(shape)
    assert bool(((found.double() - exact).abs() <= 4 * torch.finfo(dtype).eps * most).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1,), (55,), (56,), (57,), (784,), (3, 40)])
def test_gradient_of_products_of_bernoulli_factors(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """x − σ(l), also where a factor is 1 to the last place, and 0.5 at a logit of 0."""
    torch.manual_seed(0)
    logits = (30 * torch.randn(7, *shape)).to(dtype)
    logits[0], logits[1], logits[2] = 1e4, -1e4, 0.0
    value = torch.bernoulli(torch.full(shape, 0.4, dtype=dtype))
    logits.requires_grad_()
    with pyro.validation_enabled(False), fast.fused():
        fn = dist.Independent(dist.Bernoulli(logits=logits, validate_args=False), len(shape))
        weights = torch.arange(1.0, 8.0, dtype=dtype)
        (found,) = torch.autograd.grad((weights * fast.log_prob(fn, value)).sum(), [logits])
    exact = value.double() - torch.sigmoid(logits.detach().double())
    exact *= weights.double().view(-1, *[1] * len(shape))
    # a few roundings of numbers up to 1, times the weight
    assert bool(((found.double() - exact).abs() <= 4 * 7 * torch.finfo(dtype).eps).all())
