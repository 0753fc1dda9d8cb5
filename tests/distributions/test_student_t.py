"""The multivariate t: scipy's density, and draws of its distribution."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from ppvae.distributions.student_t import StudentT


@pytest.mark.parametrize("event", [(), (3,), (2, 2)])
def test_student_t_is_the_multivariate_one(event: tuple[int, ...]) -> None:
    """Densities are scipy's, and draws have the marginals; one Kolmogorov-Smirnov test of 4,000 draws at p > 1e-4."""
    torch.manual_seed(11)
    loc, scale = torch.randn(2, *event, dtype=torch.float64), 0.1 + torch.rand(2, *event, dtype=torch.float64)
    t = StudentT(5.0, loc, scale, len(event))
    assert (t.batch_shape, t.event_shape) == ((2,), event)
    z = t.sample(torch.Size([4000]))
    for i in range(2):
        mean, spread = loc[i].flatten().numpy(), scale[i].flatten().numpy()
        made: Any = stats.multivariate_t
        expected = made(mean, np.diag(spread**2), 5).logpdf(z[:9, i].reshape(9, -1).numpy())
        np.testing.assert_allclose(t.log_prob(z)[:9, i], expected, rtol=1e-9)
    first = ((z - loc) / scale).reshape(4000, 2, -1)[:, 0, 0]
    assert stats.kstest(first.numpy(), stats.t(5).cdf).pvalue > 1e-4
    assert t.expand(torch.Size([7, 2])).sample().shape == (7, 2, *event)


def test_one_chi_square_serves_the_whole_event() -> None:
    """|z|² / D of a multivariate t is F(D, df)."""
    torch.manual_seed(13)
    z = StudentT(5.0, torch.zeros(6), torch.ones(6), 1).sample(torch.Size([4000]))
    assert stats.kstest((z.square().sum(-1) / 6).numpy(), stats.f(6, 5).cdf).pvalue > 1e-4
