"""Sites of large magnitude: what single precision rounds is scored in double precision, and said."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import ppvae

N = 12


class Large(ppvae.Model):
    """log z ~ Normal(log n, 0.5); x is a count of rate z, or normal around z with deviation 1e-7 n."""

    def __init__(self, n: float, kind: str) -> None:
        super().__init__()
        self.n, self.kind = n, kind
        self.unused = nn.Parameter(torch.zeros(()))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z: Any = pyro.sample("z", dist.LogNormal(x.new_tensor(math.log(self.n)), 0.5))
            pyro.sample("x", self.of_x(z.unsqueeze(-1)).to_event(1), obs=x)

    def of_x(self, z: Tensor) -> Any:
        if self.kind == "poisson":
            return dist.Poisson(z)
        if self.kind == "negative-binomial":
            return dist.GammaPoisson(z.new_full((), self.n), self.n / z)
        if self.kind == "gamma":
            return dist.Gamma(z.new_full((), self.n), self.n / z)
        return dist.Normal(z, 1e-3 * self.n)

    def draw(self) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(11)
            z: Any = dist.LogNormal(math.log(self.n), 0.5)
            return self.of_x(z.sample(torch.Size([N, 1]))).sample()

    def truth(self, x: Tensor) -> np.ndarray:
        """The trapezoidal rule over u = log z in double precision, around the peak; exact to 1e-9."""
        grid = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
        out = []
        for value in x.double().flatten():
            # the width of the likelihood in u, which the prior only narrows
            width = min(0.5, 1e-3 if self.kind == "normal" else 1.5 / math.sqrt(self.n))
            mid = value.clamp_min(1).log()
            u = mid + width * grid
            log_p = dist.Normal(math.log(self.n), 0.5).log_prob(u) + self.of_x(u.exp()).log_prob(value)
            out.append(float(log_p.logsumexp(0) + math.log(width * (grid[1] - grid[0]))))
        return np.array(out)


@pytest.mark.parametrize("kind", ["poisson", "negative-binomial", "gamma", "normal"])
@pytest.mark.parametrize("n", [1e2, 1e6, 1e7])
def test_values_that_pass_are_right_at_any_magnitude(kind: str, n: float) -> None:
    """Within 4.5 standard errors and 0.01 nats; the exact value within 1e-3. 12 data × 3 methods × 12 cases."""
    model = Large(n, kind)
    x = model.draw()
    data = ppvae.Data("large", x, x[:2], x[:2], "gaussian", "real")
    fit = ppvae.fit(model, data, "per-datapoint", epochs=3)
    truth = model.truth(x)
    passed = 0
    for method in ("laplace", "refined", "exact"):
        result = ppvae.log_marginal(fit, x, method=method, options={"max_steps": 500} if method == "refined" else None)
        ok = result.ok.values
        passed += int(ok.sum())
        off = np.abs(result.log_marginal.values - truth)
        limit = 1e-3 if method == "exact" else 4.5 * result.log_marginal_se.values + 0.01
        assert (off <= limit)[ok].all()
        if n >= 1e6 and kind in ("poisson", "negative-binomial", "gamma"):
            assert "estimated in double precision" in result.attrs["notes"]
    assert passed >= 1.5 * N


def test_what_single_precision_scores_well_stays_there() -> None:
    """No note, and the numbers of single precision."""
    data = ppvae.load_data("digits", num_train=100)
    fit = ppvae.fit(ppvae.create("vae", x_dim=64, hidden=[20], latent_dim=3), data, epochs=1)
    result = ppvae.log_marginal(fit, data.test[:20])
    assert "notes" not in result.attrs


class InSinglePrecision(Large):
    """A program that runs in single precision alone."""

    def of_x(self, z: Tensor) -> Any:
        return dist.Poisson((z.reshape(-1, 1) @ torch.ones(1, 1, dtype=torch.float32)).reshape(z.shape))


def test_rounding_that_cannot_be_measured_is_said() -> None:
    """Nothing passes then, and the reason stands in the notes."""
    model = InSinglePrecision(1e2, "poisson")
    x = Large(1e2, "poisson").draw()
    data = ppvae.Data("large", x, x[:2], x[:2], "gaussian", "real")
    result = ppvae.log_marginal(ppvae.fit(model, data, "per-datapoint", epochs=3), x)
    assert not result.ok.any()
    assert "does not run in double precision" in result.attrs["notes"]
