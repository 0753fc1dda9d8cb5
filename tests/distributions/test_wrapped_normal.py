"""The wrapped Gaussian: a density on the circle, and draws of it."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from ppvae.distributions.wrapped_normal import MOST, WrappedNormal


def of(loc: float, scale: float) -> WrappedNormal:
    return WrappedNormal(torch.tensor(loc, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64))


@pytest.mark.parametrize("scale", [0.01, 0.5, 2.0, MOST])
@pytest.mark.parametrize("loc", [0.0, 3.0, -17.0])
def test_its_density_integrates_to_one_and_is_periodic(loc: float, scale: float) -> None:
    """The trapezoidal rule is exact to rounding for a smooth periodic function; six deviations hold all but 2e-9."""
    z = torch.linspace(-math.pi, math.pi, 100_001, dtype=torch.float64)[:-1]
    density = of(loc, scale).log_prob(z).exp()
    assert abs(float(density.mean()) * 2 * math.pi - 1) < 1e-8
    torch.testing.assert_close(of(loc + 2 * math.pi, scale).log_prob(z).exp(), density, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [0.3, 1.5, 5.0])
def test_its_draws_have_that_density(scale: float) -> None:
    """One Kolmogorov-Smirnov test of 4,000 draws each, at p > 1e-4."""
    torch.manual_seed(5)
    fn = of(2.5, scale)
    z = fn.rsample(torch.Size([4000]))
    assert bool(((z >= -math.pi) & (z < math.pi)).all())
    grid = torch.linspace(-math.pi, math.pi, 20_001, dtype=torch.float64)
    density = fn.log_prob(grid).exp().numpy()
    cdf = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(grid.numpy()))])
    assert stats.kstest(z.numpy(), lambda at: np.interp(at, grid.numpy(), cdf)).pvalue > 1e-4


def test_its_draws_carry_gradients() -> None:
    """d E cos z / d loc = −sin(loc) exp(−scale²/2), within 4 standard errors of 20,000 draws."""
    torch.manual_seed(7)
    loc = torch.full((20_000,), 0.8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(WrappedNormal(loc, 1.2).rsample().cos().sum(), loc)
    error = gradient.std() / math.sqrt(len(gradient))
    assert abs(float(gradient.mean()) + math.sin(0.8) * math.exp(-0.72)) < 4 * float(error)
    assert WrappedNormal(loc[:3], 1.2).expand(torch.Size([5, 3])).sample().shape == (5, 3)
