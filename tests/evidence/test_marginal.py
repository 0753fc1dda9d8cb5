"""log_marginal: exactly the samples asked for, cut up anyhow, from a seed; and what it reports besides."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal, cast

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

import ppvae
from ppvae import PpvaeError
from ppvae.evidence.estimates import estimate
from ppvae.evidence.method import prepared
from ppvae.evidence.problem import Problem
from ppvae.models import DLGM, GMM, PPCA, VAE
from ppvae.randomness import block_seed

N = 130  # more than one block of 100 data
NUMBERS = ("log_marginal", "log_marginal_se", "elbo", "elbo_se", "ess", "khat", "running")


def bits(count: int = N) -> Tensor:
    return torch.bernoulli(torch.full((count, 6), 0.4), generator=torch.Generator().manual_seed(109))


def fitted(model: ppvae.Model, inference: str = "amortized", **options: Any) -> ppvae.Fit:
    x = bits() if not isinstance(model, (PPCA, GMM)) else bits() + 0.3 * torch.randn(N, 6)
    kind = ("bernoulli", "binary") if not isinstance(model, (PPCA, GMM)) else ("gaussian", "real")
    data = ppvae.Data("bits", x, x[:4], x[:4], *kind)
    return ppvae.fit(model, data, inference, lr=0.01, epochs=2, batch_size=20, inference_options=options)


@pytest.fixture(scope="module")
def fit() -> ppvae.Fit:
    torch.manual_seed(113)
    return fitted(VAE(6, 2, hidden=(8,)))


@pytest.fixture(scope="module")
def chain() -> ppvae.Fit:
    """Its guide owns weights and draws a second layer at the first."""
    torch.manual_seed(127)
    return fitted(DLGM(6, (2, 2), hidden=8))


def assert_same(one: xr.Dataset, other: xr.Dataset) -> None:
    """Equal but for the rounding of float32 sums in another order; k̂ has that of the tail's few smallest gaps."""
    assert set(one) == set(other)
    for name in NUMBERS:
        # k̂ divides roundings of 5e-7 by gaps of the tail that are 1e-2 at most
        atol = 1e-4 if name == "khat" else 1e-5
        np.testing.assert_allclose(one[name].values, other[name].values, rtol=1e-4, atol=atol, err_msg=name)
    assert (one.ok.values == other.ok.values).all()


@pytest.mark.parametrize("num_samples", [1, 7, 50, 83])
@pytest.mark.parametrize("chunk_size", [1, 700, 10**6])
def test_each_datum_gets_exactly_the_samples_asked_for(fit: ppvae.Fit, num_samples: int, chunk_size: int) -> None:
    """The sampler shows S latents of each datum to the decoder, no more and no fewer."""
    seen = 0
    problem = Problem(fit, bits(), None, 0, num_samples, chunk_size)
    sampler = prepared(problem, "importance")

    def count(module: Any, args: tuple[Tensor, ...], output: Any) -> None:
        nonlocal seen
        seen += args[0][..., 0].numel()

    handle = fit.model.get_submodule("decoder").register_forward_hook(count)
    columns = estimate(problem, sampler)
    handle.remove()
    assert seen == num_samples * N
    estimates = ppvae.log_marginal(fit, bits(), num_samples=num_samples, chunk_size=chunk_size)
    np.testing.assert_array_equal(columns["log_marginal"].numpy(), estimates.log_marginal.values)
    assert estimates.attrs["num_samples"] == num_samples
    assert estimates.sizes["datum"] == N


def test_one_sample_is_a_bound_without_an_error(fit: ppvae.Fit) -> None:
    """With S = 1 the estimate is the single-draw ELBO, its error unknown and its verdict no."""
    estimates = ppvae.log_marginal(fit, bits(), num_samples=1)
    np.testing.assert_allclose(estimates.log_marginal, estimates.elbo, rtol=1e-12)
    assert np.isnan(estimates.log_marginal_se).all()
    assert np.isnan(estimates.elbo_se).all()
    assert not estimates.ok.any()


@pytest.mark.parametrize("which", ["fit", "chain"])
@pytest.mark.parametrize("num_samples", [83, 150])
def test_chunks_change_nothing(which: str, num_samples: int, request: pytest.FixtureRequest) -> None:
    pair = request.getfixturevalue(which)
    reference = ppvae.log_marginal(pair, bits(), num_samples=num_samples)
    for chunk_size in (1, 150, 999, 10**6):
        other = ppvae.log_marginal(pair, bits(), num_samples=num_samples, chunk_size=chunk_size)
        assert_same(other, reference)


@pytest.mark.parametrize("which", ["fit", "chain"])
@pytest.mark.parametrize("count", [1, 37, 100, 101])
def test_data_that_follow_change_nothing(which: str, count: int, request: pytest.FixtureRequest) -> None:
    """The estimates of x[:n] are the first n of those of x."""
    pair = request.getfixturevalue(which)
    whole = ppvae.log_marginal(pair, bits(), num_samples=40)
    assert_same(ppvae.log_marginal(pair, bits()[:count], num_samples=40), whole.isel(datum=slice(count)))


def test_rows_of_the_table_do_not_depend_on_the_data_that_follow() -> None:
    """Also for the rows that training left, by index."""
    torch.manual_seed(131)
    table = fitted(VAE(6, 2, hidden=(8,)), "per-datapoint")
    index = torch.arange(N)
    whole = ppvae.log_marginal(table, bits(), index, num_samples=40)
    assert_same(ppvae.log_marginal(table, bits()[:37], index[:37], num_samples=40), whole.isel(datum=slice(37)))


def test_fresh_rows_do_not_depend_on_the_data_that_follow() -> None:
    """Rows optimised for new data: a datum's own depends on its position and the seed alone."""
    torch.manual_seed(137)
    table = fitted(VAE(6, 2, hidden=(8,)), "per-datapoint", max_steps=50)
    whole = ppvae.log_marginal(table, bits(), num_samples=40)
    assert_same(ppvae.log_marginal(table, bits()[:37], num_samples=40), whole.isel(datum=slice(37)))


def test_running_estimates_come_with_their_number_of_draws(fit: ppvae.Fit) -> None:
    """From one draw, the single-draw bound, to all of them, log_marginal; over data the bound rises."""
    estimates = ppvae.log_marginal(fit, bits(), num_samples=33)
    assert estimates.running.dims == ("datum", "num_draws")
    assert estimates.num_draws.values.tolist() == [1, 2, 4, 8, 16, 32, 33]
    assert estimates.running.attrs["units"] == "nats/datum"
    np.testing.assert_array_equal(estimates.running.sel(num_draws=33), estimates.log_marginal)
    assert (np.diff(estimates.running.mean("datum")) > -0.5).all()  # the bound rises with K, but for noise


def test_an_exact_estimate_has_no_draws_to_run_over() -> None:
    """Neither the model's own log p nor an enumerated one."""
    torch.manual_seed(167)
    pair = fitted(GMM(6, 3))
    for method in ("importance", "exact"):
        estimates = ppvae.log_marginal(pair, bits(3), num_samples=3, method=method)
        assert "running" not in estimates
        assert estimates.sizes == {"datum": 3}


def test_seeds_decide_the_draws(fit: ppvae.Fit) -> None:
    """One seed gives one result; two seeds give independent draws for every datum and every block."""
    one, again, other = (ppvae.log_marginal(fit, bits(), num_samples=25, seed=seed) for seed in (4, 4, 5))
    xr.testing.assert_identical(one, again)
    assert (one.log_marginal != other.log_marginal).all()
    same_x = ppvae.log_marginal(fit, bits()[:1].expand(N, -1), num_samples=25)
    assert len(np.unique(same_x.log_marginal)) == N


def test_streams_of_random_numbers_do_not_meet() -> None:
    """Keys of different lengths are different keys, also where the longer one ends in zeros."""
    keys = [(5,), (5, 0), (5, 2), (5, 2, 0), (5, 2, 0, 0), (5, 2, 0, 0, 0), (5, 0, 2), (2, 5)]
    assert len({block_seed(*key) for key in keys}) == len(keys)


def test_the_world_is_left_alone(
    fit: ppvae.Fit, chain: ppvae.Fit, untouched: Callable[..., AbstractContextManager[None]]
) -> None:
    """No global random state moves, and no weight, gradient or mode of the pair changes."""
    for pair in (fit, chain):
        with untouched(pair.model, pair.strategy):
            ppvae.log_marginal(pair, bits(), num_samples=25)


EXACT: dict[str, Callable[[], ppvae.Model]] = {
    "ppca": lambda: PPCA(6, 2),
    "gmm": lambda: GMM(6, 3),
    "summed gmm": lambda: GMM(6, 3, assignment="summed"),
}


@pytest.mark.parametrize("name", EXACT)
def test_exact_inference_has_no_error(name: str) -> None:
    """q = p(z | x): the estimate and the bound are log p(x) by any number of samples, and they pass."""
    torch.manual_seed(139)
    pair = fitted(EXACT[name](), "exact")
    x = bits() + 0.1
    exact = ppvae.log_marginal(pair, x, method="exact")
    for num_samples in (2, 30):
        estimates = ppvae.log_marginal(pair, x, num_samples=num_samples)
        np.testing.assert_allclose(estimates.log_marginal, exact.log_marginal, rtol=1e-5)
        np.testing.assert_allclose(estimates.elbo, exact.log_marginal, rtol=1e-5)
        assert (estimates.log_marginal_se < 1e-5).all()
        assert estimates.ok.all()
        assert np.isnan(estimates.khat).all()


def test_enumerated_estimates_are_exact_whatever_q() -> None:
    """Every value of k is looked at: p̂ = p from an untrained q too, with no error, while the bound stays below."""
    torch.manual_seed(149)
    pair = fitted(GMM(6, 3))
    x = bits() + 0.1
    estimates = ppvae.log_marginal(pair, x, num_samples=3)
    exact = ppvae.log_marginal(pair, x, method="exact")
    np.testing.assert_allclose(estimates.log_marginal, exact.log_marginal, rtol=1e-5)
    assert (estimates.log_marginal_se == 0).all()
    assert estimates.ok.all()
    assert (estimates.elbo < exact.log_marginal - 1e-3).any()
    assert (estimates.elbo < exact.log_marginal + 1e-4).all()


def test_reported_errors_are_right_for_a_real_pair() -> None:
    """pPCA's encoder as it is, over 130 data: (p̂/p − 1)/se and (ELBO − log p + KL(q ‖ p(z | x)))/se.

    Each stays within z = 4.5, and has spread 1 with the error 1/√260: false alarms < 2e-3.
    """
    torch.manual_seed(151)
    pair = fitted(PPCA(6, 2))
    x = bits() + 0.1
    estimates = ppvae.log_marginal(pair, x, num_samples=2010, chunk_size=700)
    log_p = ppvae.log_marginal(pair, x, method="exact").log_marginal.values
    q, p = (
        MultivariateNormal(phi["loc"], scale_tril=phi["scale_tril"])
        for phi in (pair.posterior(x).phi, pair.model.exact_phi(x))
    )
    ratio = np.exp(estimates.log_marginal.values - log_p)
    bound = log_p - kl_divergence(q, p).detach().numpy()
    assert estimates.ok.all()
    for z in (
        (ratio - 1) / (ratio * estimates.log_marginal_se.values),
        (estimates.elbo.values - bound) / estimates.elbo_se.values,
    ):
        assert (np.abs(z) < 4.5).all()
        assert abs(np.sqrt((z**2).mean()) - 1) < 4.5 / math.sqrt(2 * N)


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
@pytest.mark.parametrize("name", ["vae", "gmm"])
def test_data_of_either_precision_give_one_result(name: str, precision: Literal["32-true", "64-true"]) -> None:
    """`precision` decides what a fit computes in, not the dtype that its data came in."""
    x = bits() if name == "vae" else bits() + 0.25  # exact in float32
    kind = ("bernoulli", "binary") if name == "vae" else ("gaussian", "real")
    torch.manual_seed(157)
    model = VAE(6, 2, hidden=(8,)) if name == "vae" else GMM(6, 3)
    results = []
    for rows in (x, x.double()):
        data = ppvae.Data("bits", rows, rows[:4], rows[:4], *kind)
        pair = ppvae.fit(model, data, epochs=1, precision=precision)
        assert next(pair.model.parameters()).dtype == (torch.float32 if precision == "32-true" else torch.float64)
        results.append(ppvae.log_marginal(pair, rows, num_samples=30))
    np.testing.assert_allclose(results[0].log_marginal, results[1].log_marginal, rtol=1e-3)


def test_summary_averages_over_data(fit: ppvae.Fit) -> None:
    """Mean, the error of the mean given the data (independent data), and the spread over data, by hand."""
    estimates = ppvae.log_marginal(fit, bits(), num_samples=25)
    summary = ppvae.summarise(estimates)
    values, se = estimates.log_marginal.values, estimates.log_marginal_se.values
    assert summary.mean == pytest.approx(values.mean())
    assert summary.mc_se == pytest.approx(math.sqrt((se**2).sum()) / N)
    assert summary.data_se == pytest.approx(values.std(ddof=1) / math.sqrt(N))


REFUSED: dict[str, dict[str, Any]] = {
    "num_samples": {"num_samples": 0},
    "num_samples ": {"num_samples": True},
    "num_samples  ": {"num_samples": 1.5},
    "chunk_size": {"chunk_size": 0},
    "seed": {"seed": -1},
    "method": {"method": "imporance"},
    "x must be a tensor [B, 6]": {"x": torch.zeros(3, 5)},
    "x must be a tensor [B, 6] ": {"x": torch.zeros(0, 6)},
    "NaN": {"x": torch.full((3, 6), math.nan)},
    "index must hold 3": {"x": torch.zeros(3, 6), "index": torch.arange(2)},
    "index must lie in 0": {"x": torch.zeros(3, 6), "index": torch.tensor([0, 1, N])},
}


@pytest.mark.parametrize("named", REFUSED)
def test_bad_arguments_are_refused_in_one_line(fit: ppvae.Fit, named: str) -> None:
    arguments = {"x": bits(3), **REFUSED[named]}
    with pytest.raises(PpvaeError) as caught:
        ppvae.log_marginal(fit, **cast(dict[str, Any], arguments))
    assert named.strip() in str(caught.value)
    assert "\n" not in str(caught.value)
