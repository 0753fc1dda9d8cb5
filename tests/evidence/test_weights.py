"""Weights: streamed sums against NumPy, k̂ against ArviZ, and what the verdict says in every odd case."""

import math

import numpy as np
import pytest
import torch
from arviz_stats.base.array import array_stats
from torch import Tensor

import ppvae
from ppvae import PpvaeError
from ppvae.evidence.weights import MIN_ESS, Weights, checkpoints, khat_threshold
from ppvae.models import GMM, PPCA

B = 5


def draws(count: int, sigma: float = 1.5, seed: int = 89) -> tuple[Tensor, Tensor]:
    """Log weights far from 0, lognormal ones, and single-draw bounds that differ from them, [S, B]."""
    generator = torch.Generator().manual_seed(seed)
    log_w = sigma * torch.randn(count, B, generator=generator, dtype=torch.float64) - 800.0
    return log_w, log_w - torch.rand(count, B, generator=generator, dtype=torch.float64)


def streamed(log_w: Tensor, bound: Tensor | None = None, chunk: int | None = None, *, smooth: bool = False) -> Weights:
    weights = Weights.empty(len(log_w), log_w[0], smooth=smooth)
    size = chunk or len(log_w)
    for part, single in zip(log_w.split(size), (log_w if bound is None else bound).split(size), strict=True):
        weights.add(part, single)
    return weights


def equal(actual: Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-9, equal_nan=True)


@pytest.mark.parametrize("chunk", [None, 1, 7, 100])
def test_streamed_sums_are_the_formulae(chunk: int | None) -> None:
    """Means, ESS and standard errors of 137 draws in chunks of any size, by NumPy on all at once."""
    log_w, bound = draws(137)
    weights = streamed(log_w, bound, chunk)
    w = np.exp(log_w.numpy() + 800.0)
    assert weights.count == 137
    equal(weights.log_mean(), np.log(w.mean(0)) - 800.0)
    equal(weights.mean_log(), bound.numpy().mean(0))
    equal(weights.ess(), w.sum(0) ** 2 / (w**2).sum(0))
    equal(weights.standard_error(), w.std(0, ddof=1) / w.mean(0) / math.sqrt(137))
    equal(weights.mean_log_se(), bound.numpy().std(0, ddof=1) / math.sqrt(137))


@pytest.mark.parametrize("chunk", [None, 1, 7, 333])
@pytest.mark.parametrize("count", [1, 2, 5, 64, 400, 401, 1000, 1024])
def test_running_estimates_are_those_of_the_first_draws(count: int, chunk: int | None) -> None:
    """After 1, 2, 4, … and all draws, in chunks and folds of any size, by NumPy on the first K at once."""
    log_w, _ = draws(count)
    weights = streamed(log_w, chunk=chunk)
    assert tuple(weights.running) == checkpoints(count)
    for k, value in weights.running.items():
        equal(value, np.log(np.exp(log_w[:k].numpy() + 800.0).mean(0)) - 800.0)
    assert torch.equal(weights.running[count], weights.log_mean())


def test_checkpoints_are_the_powers_of_two_and_the_end() -> None:
    assert [checkpoints(count) for count in (1, 2, 3, 4, 9)] == [(1,), (1, 2), (1, 2, 3), (1, 2, 4), (1, 2, 4, 8, 9)]


@pytest.mark.parametrize("chunk", [None, 1, 13])
@pytest.mark.parametrize("count", [25, 40, 137, 1000])
def test_khat_is_arvizs(count: int, chunk: int | None) -> None:
    """k̂ of the kept tail = psislw of all the draws (which takes − log w)."""
    log_w, bound = draws(count)
    expected = array_stats.psislw(-log_w.numpy(), axis=0)[1]
    equal(streamed(log_w, bound, chunk).khat(), expected)


def test_khat_of_a_long_stream_is_arvizs() -> None:
    log_w, bound = draws(20_000)
    weights = streamed(log_w, bound, 1000)
    equal(weights.khat(), array_stats.psislw(-log_w.numpy(), axis=0)[1])
    assert len(weights.tail) < 500  # of which no more is kept than the fit reads


def test_khat_reads_the_tail_of_the_weights() -> None:
    """w = u^(−k) for uniform u has an exact Pareto tail of shape k; on average over 100 data k̂ is it.

    ArviZ shrinks k̂ towards 0.5 as if by 10 draws; the rest is compared at z = 4.5 over 3 values of k, plus the 1/n
    of the estimator's own bias at n tail draws: false alarms < 3e-5.
    """
    n = 3 * math.sqrt(4000)
    for k in (0.2, 0.6, 1.0):
        u = torch.rand(4000, 100, generator=torch.Generator().manual_seed(97), dtype=torch.float64)
        khat = streamed(-k * u.log()).khat()
        expected = (n * k + 10 * 0.5) / (n + 10)
        assert abs(khat.mean() - expected) < 4.5 * khat.std() / math.sqrt(100) + 1 / n


def test_weights_of_zero_count_as_draws() -> None:
    """A draw that the model rules out (log w = −∞) lowers the mean and nothing else breaks."""
    log_w, _ = draws(200)
    log_w[::3] = -math.inf
    weights = streamed(log_w, chunk=50)
    w = np.exp(log_w.numpy() + 800.0)
    equal(weights.log_mean(), np.log(w.mean(0)) - 800.0)
    equal(weights.ess(), w.sum(0) ** 2 / (w**2).sum(0))
    equal(weights.khat(), array_stats.psislw(-log_w.numpy(), axis=0)[1])


def test_weights_that_are_all_zero_are_not_vouched_for() -> None:
    weights = streamed(torch.full((200, B), -math.inf, dtype=torch.float64))
    assert (weights.log_mean() == -math.inf).all()
    assert not weights.ok(weights.khat()).any()


@pytest.mark.parametrize("count", [2, 10, 200])
def test_constant_weights_pass_without_a_khat(count: int) -> None:
    """The proposal is the posterior: no error, all draws effective, no tail, and the estimate stands."""
    log_w = torch.full((count, B), -3.0) + 1e-6 * torch.rand(count, B)
    weights = streamed(log_w)
    khat = weights.khat()
    assert khat.isnan().all()
    assert weights.ok(khat).all()
    torch.testing.assert_close(weights.ess(), torch.full((B,), float(count), dtype=torch.float64))
    assert (weights.standard_error() < 1e-5).all()


def test_a_single_draw_vouches_for_nothing() -> None:
    """One draw is constant by itself: it has neither an error nor a verdict in its favour."""
    weights = streamed(draws(1)[0])
    khat = weights.khat()
    assert khat.isnan().all()
    assert weights.standard_error().isnan().all()
    assert weights.mean_log_se().isnan().all()
    assert not weights.ok(khat).any()


@pytest.mark.parametrize("count", [2, 24])
def test_few_draws_have_no_khat_and_do_not_pass(count: int) -> None:
    weights = streamed(draws(count, sigma=0.01)[0])
    khat = weights.khat()
    assert khat.isnan().all()
    assert not weights.ok(khat).any()


def test_a_handful_of_values_has_no_khat_and_passes_by_its_effective_draws() -> None:
    """Weights of a discrete latent take two or three values; whether they pass is for the ESS to say."""
    three = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64).repeat(50)
    spike = torch.zeros(150, dtype=torch.float64)
    spike[0] = 9.0
    weights = streamed(torch.stack([three, spike], 1))
    khat = weights.khat()
    assert khat.isnan().all()
    assert (weights.ess() >= MIN_ESS).tolist() == [True, False]
    assert weights.ok(khat).tolist() == [True, False]


def test_the_verdict_needs_both_khat_and_effective_draws() -> None:
    """Of 5,000 weights with a Pareto tail, shape 0.1 passes, and 0.9 fails by k̂ alone; of 99 draws none passes."""
    u = (torch.arange(5000, dtype=torch.float64)[:, None] + 0.5) / 5000  # a tail without chance
    weights = streamed(torch.cat([(1 + 0.01 * u**-k).log() for k in (0.1, 0.9)], 1))
    khat = weights.khat()
    assert (weights.ess() >= MIN_ESS).all()
    assert (khat <= khat_threshold(5000)).tolist() == [True, False]
    assert weights.ok(khat).tolist() == [True, False]
    few = streamed(draws(99, sigma=0.1)[0])
    assert (few.khat() <= khat_threshold(99)).all()
    assert not few.ok(few.khat()).any()


def test_khat_threshold_grows_with_the_draws_up_to_0_7() -> None:
    """min(1 − 1/log₁₀ S, 0.7), and nothing passes on one draw."""
    assert khat_threshold(1) == 0.0
    assert khat_threshold(100) == pytest.approx(0.5)
    assert khat_threshold(1000) == pytest.approx(2 / 3)
    assert khat_threshold(10**5) == 0.7


def test_standard_error_is_calibrated() -> None:
    """Over 4,000 estimates from 400 lognormal weights of mean 1, (p̂ − 1)/se has spread 1 and p̂ no bias.

    z = 4.5 for both: false alarms < 2e-5. The spread's own error is 1/√(2 · 4000); dividing by an estimated se adds
    about (3 + 7 skew²/4)/2S to it (σ = 0.4: skew 1.3), as Student's t does.
    """
    sigma, count, replicas = 0.4, 400, 4000
    generator = torch.Generator().manual_seed(107)
    normal = torch.randn(count, replicas, generator=generator, dtype=torch.float64)
    weights = streamed(sigma * normal - sigma**2 / 2, chunk=100)
    p = weights.log_mean().exp()
    z = (p - 1) / (p * weights.standard_error())
    allowance = (3 + 7 * 1.3**2 / 4) / (2 * count)
    assert abs(z.std() - 1) < 4.5 / math.sqrt(2 * replicas) + allowance
    assert abs(p.mean() - 1) < 4.5 * p.std() / math.sqrt(replicas)


@pytest.mark.parametrize("chunk", [None, 1, 7, 450])
@pytest.mark.parametrize("count", [2, 3, 64, 401, 1000, 1024])
def test_the_last_doubling_is_what_the_second_half_added(count: int, chunk: int | None) -> None:
    """L_S − L_{⌊S/2⌋} in chunks of any size, by NumPy, whether or not half of S is among the checkpoints."""
    log_w, _ = draws(count)
    weights = streamed(log_w, chunk=chunk)
    w = np.exp(log_w.numpy() + 800.0)
    np.testing.assert_allclose(
        weights.last_doubling(), np.log(w.mean(0)) - np.log(w[: count // 2].mean(0)), rtol=1e-9, atol=1e-11
    )
    assert tuple(weights.running) == checkpoints(count)


def test_one_draw_has_no_half() -> None:
    assert streamed(draws(1)[0]).last_doubling().isnan().all()


def test_the_last_doubling_is_about_what_is_missing() -> None:
    """Over 10,000 estimates from lognormal weights of mean 1, L_S − L_{S/2} has the mean of −L_S, at S = 200.

    Both are freed of noise by p̂ − 1, whose mean is 0. The bias is −a/S and terms of 1/S², here below a tenth of it;
    z = 4.5: false alarms < 1e-5.
    """
    sigma, count, replicas = 0.8, 200, 10_000
    normal = torch.randn(count, replicas, generator=torch.Generator().manual_seed(211), dtype=torch.float64)
    weights = streamed(sigma * normal - sigma**2 / 2, chunk=100)
    whole, added = weights.log_mean(), weights.last_doubling()
    p, half = whole.exp(), (whole - added).exp()
    missing = (p - 1) - whole
    difference = added - (p - half) - missing
    assert missing.mean() > 20 * missing.std() / math.sqrt(replicas)
    assert abs(difference.mean()) < 4.5 * difference.std() / math.sqrt(replicas) + 0.1 * missing.mean()


@pytest.mark.parametrize("chunk", [None, 1, 13])
@pytest.mark.parametrize("count", [25, 137, 1000])
def test_smoothed_estimates_are_arvizs(count: int, chunk: int | None) -> None:
    """log (1/S) Σ w with the tail as psislw has it: its normalised weights, scaled to those it leaves alone."""
    log_w, bound = draws(count, sigma=2.5)
    weights = streamed(log_w, bound, chunk, smooth=True)
    for i in range(B):
        column = log_w[:, i].numpy()
        normalised = array_stats.psislw(-column)[0]
        lowest = column.argmin()
        expected = column[lowest] - normalised[lowest] - math.log(count)  # Σ w = w_low / its normalised weight
        assert abs(weights.log_mean_psis()[i] - expected) < 1e-9
        assert weights.log_mean_psis()[i] != weights.log_mean()[i]


def test_smoothing_is_the_mean_of_a_pareto_fit() -> None:
    """An order statistic of the tail becomes a quantile of a generalised Pareto: written out for one set of draws."""
    log_w, _ = draws(400, sigma=1.0)
    weights = streamed(log_w, smooth=True)
    w = np.sort(np.exp(log_w[:, 0].numpy() + 800.0))
    tail, cut = w[-60:], w[-61]
    scale = w[-1]  # ArviZ fits weights relative to the largest
    k, sigma = array_stats._gpdfit((tail - cut) / scale)
    p = (np.arange(60) + 0.5) / 60
    quantiles = np.minimum(cut + scale * sigma * ((1 - p) ** -k - 1) / k, w[-1])
    expected = math.log((w[:-60].sum() + quantiles.sum()) / 400) - 800.0
    assert abs(weights.log_mean_psis()[0] - expected) < 1e-9


@pytest.mark.parametrize("chunk", [None, 1, 13])
@pytest.mark.parametrize("count", [2, 3, 25, 401])
@pytest.mark.parametrize("sigma", [0.1, 1.5, 12.0])
def test_the_jackknife_leaves_each_draw_out(sigma: float, count: int, chunk: int | None) -> None:
    """S L_S − (S − 1) · mean over i of L_{S−1} without draw i, each by a sum of its own; up to one weight for all."""
    log_w, bound = draws(count, sigma=sigma)
    weights = streamed(log_w, bound, chunk, smooth=True)
    whole = torch.logsumexp(log_w, 0) - math.log(count)
    without = torch.stack(
        [torch.cat([log_w[:i], log_w[i + 1 :]]).logsumexp(0) - math.log(count - 1) for i in range(count)]
    )
    expected = count * whole - (count - 1) * without.mean(0)
    torch.testing.assert_close(weights.log_mean_jackknife(), expected, rtol=0, atol=1e-8)


def test_the_jackknife_takes_the_first_term_of_the_bias_away() -> None:
    """Over 10,000 estimates from 40 lognormal weights of mean 1: bias −a/S before, and less than a fifth of it after.

    Both are freed of noise by p̂ − 1, whose mean is 0; z = 4.5 over 2 comparisons: false alarms < 2e-5.
    """
    sigma, count, replicas = 0.6, 40, 10_000
    normal = torch.randn(count, replicas, generator=torch.Generator().manual_seed(223), dtype=torch.float64)
    weights = streamed(sigma * normal - sigma**2 / 2, smooth=True)
    noise = weights.log_mean().exp() - 1
    plain, jackknife = weights.log_mean() - noise, weights.log_mean_jackknife() - noise
    bias = (math.exp(sigma**2) - 1) / 2 / count
    assert abs(plain.mean() + bias) < 4.5 * plain.std() / math.sqrt(replicas) + 0.2 * bias
    assert abs(jackknife.mean()) < 4.5 * jackknife.std() / math.sqrt(replicas) + 0.2 * bias
    assert 4.5 * jackknife.std() / math.sqrt(replicas) < 0.1 * bias


def test_smoothed_values_of_odd_weights() -> None:
    """Nothing to smooth: the plain estimate. Constant weights: the jackknife too. One draw has no jackknife."""
    constant = streamed(torch.full((200, B), -3.0, dtype=torch.float64), smooth=True)
    few = streamed(draws(24)[0], smooth=True)
    handful = streamed(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64).repeat(50)[:, None], smooth=True)
    for weights in (constant, few, handful):
        assert weights.khat().isnan().all()
        assert torch.equal(weights.log_mean_psis(), weights.log_mean())
    torch.testing.assert_close(constant.log_mean_jackknife(), constant.log_mean(), rtol=0, atol=1e-12)
    single = streamed(draws(1)[0], smooth=True)
    assert torch.equal(single.log_mean_psis(), single.log_mean())
    assert single.log_mean_jackknife().isnan().all()


def test_smoothed_values_of_weights_of_zero() -> None:
    """All zero: −∞. One draw with all the weight: its leave-one-out is −∞, so there is no jackknife."""
    none = streamed(torch.full((200, B), -math.inf, dtype=torch.float64), smooth=True)
    assert (none.log_mean_psis() == -math.inf).all()
    assert (none.log_mean_jackknife() == -math.inf).all()
    one = torch.full((200, 1), -math.inf, dtype=torch.float64)
    one[7] = -3.0
    single = streamed(one, smooth=True)
    assert torch.equal(single.log_mean_psis(), single.log_mean())
    assert single.log_mean_jackknife().isnan().all()
    log_w, _ = draws(200)
    log_w[::3] = -math.inf
    some = streamed(log_w, smooth=True)
    assert some.log_mean_psis().isfinite().all()
    without = torch.stack([torch.cat([log_w[:i], log_w[i + 1 :]]).logsumexp(0) - math.log(199) for i in range(200)])
    expected = 200 * some.log_mean() - 199 * without.mean(0)
    torch.testing.assert_close(some.log_mean_jackknife(), expected, rtol=0, atol=1e-8)


def test_smoothed_values_need_the_draws() -> None:
    for value in (streamed(draws(30)[0]).log_mean_psis, streamed(draws(30)[0]).log_mean_jackknife):
        with pytest.raises(ValueError, match="smooth=True"):
            value()


SMOOTHED = ("log_marginal_psis", "log_marginal_jackknife")


def fitted(model: ppvae.Model, inference: str = "amortized") -> tuple[ppvae.Fit, Tensor]:
    torch.manual_seed(227)
    x = torch.randn(120, 3) @ torch.randn(3, 3)
    data = ppvae.Data("cloud", x, x[:4], x[:4], "gaussian", "real")
    return ppvae.fit(model, data, inference, lr=0.01, epochs=2, progress=False), x


def test_estimates_have_smoothed_values_where_asked() -> None:
    """The columns come with their label, leave the others as they are, and do not depend on chunks."""
    torch.manual_seed(0)
    fit, x = fitted(PPCA(3, 2))
    plain = ppvae.log_marginal(fit, x, num_samples=300)
    assert not set(SMOOTHED) & set(plain)
    found, other = (ppvae.log_marginal(fit, x, num_samples=300, smooth=True, chunk_size=c) for c in (2000, 10**5))
    assert set(found) == {*plain, *SMOOTHED}
    for name in plain:
        np.testing.assert_array_equal(found[name], plain[name])
    for name in SMOOTHED:
        assert found[name].dims == ("datum",)
        assert found[name].attrs == {"units": "nats/datum", "bound": "not a lower bound"}
        np.testing.assert_allclose(found[name], other[name], rtol=1e-4, atol=1e-5)
        assert (np.abs(found[name] - found["log_marginal"]) < 10 * found["log_marginal_se"] + 1e-6).all()
        assert not np.allclose(found[name], found["log_marginal"], atol=1e-4)


def test_the_jackknife_is_nearer_to_log_p_over_data() -> None:
    """Mean over 120 data of the error that 40 draws leave, of both: the jackknife's is within its sampling error.

    z = 4.5 on the mean of 120 independent errors, about 0.3 of whose bias may be left: false alarms < 1e-5.
    """
    fit, x = fitted(PPCA(3, 2))
    found = ppvae.log_marginal(fit, x, num_samples=40, smooth=True)
    log_p = ppvae.log_marginal(fit, x, method="exact")["log_marginal"]
    noise = np.exp(found["log_marginal"] - log_p) - 1  # of mean 0, and most of either error
    plain, jackknife = ((found[name] - log_p - noise).values for name in ("log_marginal", "log_marginal_jackknife"))
    assert plain.mean() < 0
    assert abs(jackknife.mean()) < 4.5 * jackknife.std() / math.sqrt(120) + 0.3 * abs(plain.mean())


@pytest.mark.parametrize("method", ["exact", "importance"])
def test_values_known_without_draws_are_their_own_smoothed_ones(method: str) -> None:
    fit, x = fitted(GMM(3, 2))
    found = ppvae.log_marginal(fit, x[:5], num_samples=4, method=method, smooth=True)
    for name in SMOOTHED:
        np.testing.assert_array_equal(found[name], found["log_marginal"])
    assert found["last_doubling"].isnull().all()


def test_the_last_doubling_is_the_difference_of_running_estimates() -> None:
    fit, x = fitted(PPCA(3, 2))
    found = ppvae.log_marginal(fit, x, num_samples=64)
    difference = found["running"].sel(num_draws=64) - found["running"].sel(num_draws=32)
    np.testing.assert_allclose(found["last_doubling"], difference, atol=1e-12)
    assert found["last_doubling"].attrs["units"] == "nats/datum"


def test_smooth_is_yes_or_no() -> None:
    fit, x = fitted(PPCA(3, 2), "exact")
    with pytest.raises(PpvaeError, match="smooth must be True or False, got 'psis'"):
        ppvae.log_marginal(fit, x, smooth="psis")  # type: ignore[arg-type]
