"""Products of Bernoulli factors: the densities and gradients of torch's own, but for rounding."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from ppvae.distributions import fast


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
