"""Simulation-based calibration: the exact posterior passes, and each way of being wrong is caught by what should."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from checks import refused
from fits import linear, mixture, to_the_prior, trained
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pictures import drawn, labels
from torch import Tensor

import ppvae
from ppvae import plots
from ppvae.diagnostics.calibration import rank_counts, sbc, uniformity
from ppvae.diagnostics.predictive import posterior_predictive_check
from ppvae.models import GMM, VAE
from ppvae.pair.local import Phi

QUANTITIES = ["z[0]", "z[1]", "log p(z)", "log p(x|z)"]


def scaled(factor: float) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return lambda loc, tril: (loc, factor * tril)


@pytest.fixture(scope="module")
def exact() -> xr.Dataset:
    return sbc(linear(), num_data=3000, seed=2)


def test_the_exact_posterior_passes(exact: xr.Dataset) -> None:
    """p-values over 0.01/4, mean and spread of ranks and 4 × 4 coverages within z = 4.5: false alarms < 0.011."""
    assert exact["quantity"].values.tolist() == QUANTITIES
    assert exact["rank"].shape == (3000, 4)
    assert exact["rank"].values.min() >= 0
    assert exact["rank"].values.max() <= 199
    assert exact.attrs["warning"] == ""
    assert (exact["p_value"] > 0.01 / 4).all()
    for name in ("rank_mean", "rank_spread"):
        told = exact[name].attrs
        assert (np.abs(exact[name] - told["expected"]) < 4.5 * told["se"]).all()
    assert exact["nominal"].values == pytest.approx([0.5, 0.8, 0.9, 0.95])
    assert (np.abs(exact["coverage"] - exact["nominal"]) < 4.5 * exact["coverage_se"]).all()
    expected = np.sqrt(exact["nominal"] * (1 - exact["nominal"]) / 3000)
    np.testing.assert_allclose(exact["coverage_se"], expected)


def test_the_stated_false_alarm_rate_holds() -> None:
    """Of 100 calibrations of the exact posterior, the number with a warning is Poisson of mean ≤ 1: > 7 in 1e-5."""
    fit = linear()
    alarms = sum(bool(sbc(fit, num_data=100, num_draws=39, seed=seed).attrs["warning"]) for seed in range(100))
    assert alarms <= 7


def test_a_narrow_q_is_caught() -> None:
    """Standard deviations 0.6 times too small: both coordinates crowd at the ends and are covered too seldom.

    Coverage of z ~ Normal(m, s) by m ± 0.6 c s is 2Φ(0.6 c) − 1; z = 4.5 over 8, and 1/200 for intervals between draws.
    """
    found = sbc(linear(scaled(0.6)), num_data=2000)
    z = found.sel(quantity=["z[0]", "z[1]"])
    assert (z["p_value"] < 1e-6).all()
    assert (z["rank_spread"] > 1.1).all()
    assert "z[0], z[1]" in found.attrs["warning"]
    normal = torch.distributions.Normal(0.0, 1.0)
    edges = normal.icdf(torch.tensor(0.5 + found["nominal"].values / 2))
    expected = (2 * normal.cdf(0.6 * edges) - 1).numpy()
    se = np.sqrt(expected * (1 - expected) / 2000)
    assert (np.abs(z["coverage"].values - expected) < 4.5 * se + 1 / 200).all()


def test_a_wide_q_is_caught() -> None:
    z = sbc(linear(scaled(1.6)), num_data=1000).sel(quantity=["z[0]", "z[1]"])
    assert (z["p_value"] < 1e-6).all()
    assert (z["rank_spread"] < 0.8).all()
    assert (z["coverage"].sel(level=0.5) > 0.6).all()


def test_a_shifted_q_is_caught() -> None:
    """Half a standard deviation too high in z₁ alone: the truth ranks low there."""

    def shift(loc: Tensor, tril: Tensor) -> tuple[Tensor, Tensor]:
        return loc + 0.5 * tril[..., :, 0], tril

    found = sbc(linear(shift), num_data=1000)
    assert found["p_value"].sel(quantity="z[0]") < 1e-6
    # Φ(−½/√2) = 0.36 is the mean place of z among draws around z + ½
    assert abs(found["rank_mean"].sel(quantity="z[0]") - 0.362) < 4.5 * found["rank_mean"].attrs["se"]


def test_the_prior_is_caught_by_the_likelihood_alone() -> None:
    """q = p(z) has uniform ranks of z and log p(z) (p > 0.01/4: false alarms < 0.01) and none of log p(x|z)."""
    found = sbc(linear(to_the_prior), num_data=1000)
    blind = found.sel(quantity=["z[0]", "z[1]", "log p(z)"])
    assert (blind["p_value"] > 0.01 / 4).all()
    assert found["p_value"].sel(quantity="log p(x|z)") < 1e-6
    assert found["rank_mean"].sel(quantity="log p(x|z)") > 0.9  # the true z explains x better than the prior's
    assert found.attrs["warning"].endswith("not calibrated in log p(x|z)")


def test_discrete_latents_are_ranked_with_ties_at_random() -> None:
    """Exact responsibilities pass in k, whose three values tie 199 draws; equal ones for all fail by log p(x|z).

    p > 0.01/3 and 3 × 4 coverages within z = 4.5: false alarms < 0.011.
    """
    fit = mixture()
    found = sbc(fit, num_data=2000)
    assert found["quantity"].values.tolist() == ["k", "log p(z)", "log p(x|z)"]
    assert found.attrs["warning"] == ""
    assert len(np.unique(found["rank"].sel(quantity="k"))) == 200
    assert (np.abs(found["coverage"] - found["nominal"]) < 4.5 * found["coverage_se"]).all()
    weights = cast(GMM, fit.model).logits
    fit.model.exact_phi = lambda x: {"logits": weights.expand(len(x), -1)}
    prior = sbc(fit, num_data=2000)
    assert (prior["p_value"].sel(quantity=["k", "log p(z)"]) > 0.01 / 3).all()
    assert prior["p_value"].sel(quantity="log p(x|z)") < 1e-6


class Pair(ppvae.Model):
    """k ~ Bernoulli(0.3), summed out; z ~ Normal(k, 1); x ~ Normal(z, 1): p(z | x) is a mixture of two Normals."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(()))
        self.phi = {"logit": ppvae.Local(torch.zeros(())), "x": ppvae.Local(torch.zeros(()))}

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(x.new_full((), 0.3)), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(3 * k + self.shift, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            mean = phi["x"].unsqueeze(-1) / 2 + torch.tensor([0.0, 1.5], dtype=x.dtype)
            weight = torch.stack([torch.zeros_like(phi["logit"]), phi["logit"]], -1)
            q = dist.MixtureSameFamily(dist.Categorical(logits=weight), dist.Normal(mean, math.sqrt(0.5)))
            pyro.sample("z", q)

    def exact_phi(self, x: Tensor) -> Phi:
        odds = math.log(0.3 / 0.7) + (x[:, 0] ** 2 - (x[:, 0] - 3) ** 2) / 4
        return {"logit": odds, "x": x[:, 0]}


def test_latents_that_the_model_sums_out_are_summed_out() -> None:
    """The exact mixture posterior of z passes, with log p(z) and log p(x|z) those of z alone: false alarms < 0.01."""
    torch.manual_seed(11)
    fit = trained(Pair(), 1.5 * torch.randn(40, 1), gradient="score")
    with torch.no_grad():
        next(iter(fit.model.parameters())).zero_()
    found = sbc(fit, num_data=2000)
    assert found["quantity"].values.tolist() == ["z", "log p(z)", "log p(x|z)"]
    assert found.attrs["warning"] == ""


def test_p_values_are_those_of_the_chi_square_test() -> None:
    """Of uniform ranks they are uniform: mean ½ and 1% below 0.01, each within z = 4.5 over 4,000: < 2e-5."""
    from scipy.stats import chisquare

    generator = np.random.default_rng(3)
    rank = generator.integers(0, 100, size=(500, 4000))
    chi2, p = uniformity(*rank_counts(rank, 99, 20))
    for i in range(3):
        counts = np.histogram(rank[:, i], bins=np.arange(0, 101, 5))[0]
        statistic, expected = chisquare(counts)
        assert (chi2[i], p[i]) == pytest.approx((statistic, expected))
    assert abs(p.mean() - 0.5) < 4.5 / math.sqrt(12 * 4000)
    assert abs((p < 0.01).mean() - 0.01) < 4.5 * math.sqrt(0.01 * 0.99 / 4000)


@pytest.mark.parametrize("inference", ["amortized", "per-datapoint"])
def test_data_that_follow_change_nothing(inference: str) -> None:
    """Ranks of the first data of many are those of few; another seed has others."""
    torch.manual_seed(13)
    options = {"max_steps": 25} if inference == "per-datapoint" else {}
    x = torch.bernoulli(torch.full((30, 6), 0.4))
    fit = trained(VAE(6, 2, hidden=(8,)), x, inference, inference_options=options)
    few, many = (sbc(fit, num_data=size, num_draws=39)["rank"].values for size in (40, 130))
    assert (few == many[:40]).mean() > 0.99  # but for roundings of log p(x|z) that another batch has
    again = sbc(fit, num_data=40, num_draws=39)["rank"].values
    other = sbc(fit, num_data=40, num_draws=39, seed=1)["rank"].values
    assert (again == few).all()
    assert (other != few).mean() > 0.5


def test_intervals_of_other_numbers_of_draws_say_their_level() -> None:
    found = sbc(linear(), num_data=20, num_draws=49)
    assert found["nominal"].values == pytest.approx([0.52, 0.8, 0.92, 0.96])
    assert found.attrs["num_bins"] == 4


Untouched = Callable[..., AbstractContextManager[None]]


def test_the_world_is_left_alone(untouched: Untouched) -> None:
    fit, x = linear(), torch.randn(5, 4)
    with untouched(fit.model, fit.strategy):
        sbc(fit, num_data=20, num_draws=39)
        posterior_predictive_check(fit, x, num_draws=3)


REFUSED: dict[str, dict[str, Any]] = {
    "num_data": {"num_data": 19},
    "num_draws": {"num_draws": 38},
    "num_draws ": {"num_draws": 50.0},
    "seed": {"seed": -1},
    "pair must be": {"pair": 3},
    "the guide has no latent": {"pair": "summed"},
}


@pytest.mark.parametrize("named", REFUSED)
def test_bad_arguments_are_refused_in_one_line(named: str) -> None:
    arguments = {"pair": linear(), "num_data": 20, "num_draws": 39, **REFUSED[named]}
    if arguments["pair"] == "summed":
        arguments["pair"] = trained(GMM(2, 3, assignment="summed"), torch.randn(30, 2))
    refused(named, lambda: sbc(**arguments))


# Pictures


def test_a_rank_histogram_holds_every_datum(exact: xr.Dataset, ax: Axes) -> None:
    assert plots.rank_histogram(exact, ax, "z[0]") is ax
    heights = [cast(Any, bar).get_height() for bar in ax.patches]
    assert sum(heights) == 3000
    expected = np.histogram(exact["rank"].sel(quantity="z[0]"), bins=np.arange(0, 201, 10))[0]
    assert heights == expected.tolist()
    low, high = (f(cast(Any, ax.collections[0]).get_paths()[0].vertices[:, 1]) for f in (min, max))
    assert low < min(heights) <= max(heights) < high  # the exact posterior is inside its band: false alarms 0.01
    assert ax.get_title().startswith("z[0]: p = ")
    drawn(ax)


def test_coverage_names_what_leaves_the_band(exact: xr.Dataset, ax: Axes) -> None:
    plots.coverage(exact, ax)
    assert labels(ax) == ["99% of calibrated q"]
    lines = [np.asarray(line.get_ydata()) for line in ax.get_lines()[1:]]
    np.testing.assert_array_equal(np.stack(lines), exact["coverage"].values)
    drawn(ax)
    narrow = Figure().subplots()
    plots.coverage(sbc(linear(scaled(0.6)), num_data=1000), narrow)
    assert {"z[0]", "z[1]"} <= set(labels(narrow))


def test_pictures_of_something_else_are_refused(exact: xr.Dataset, ax: Axes) -> None:
    refused("unknown quantity 'z'", lambda: plots.rank_histogram(exact, ax, "z"))
    refused("what ppvae.sbc returns", lambda: plots.coverage(xr.Dataset(), ax))
    refused("posterior_predictive_check returns", lambda: plots.predictive_check(exact, ax))
    refused("what ppvae.latent_usage returns", lambda: plots.usage(cast(Any, None), ax))
