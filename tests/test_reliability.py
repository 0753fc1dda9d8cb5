"""Weights: streamed sums against NumPy, k̂ against ArviZ, and what the verdict says in every odd case."""

import math

import numpy as np
import pytest
import torch
from arviz_stats.base.array import array_stats
from torch import Tensor

from ppvae.reliability import MIN_ESS, Weights, checkpoints, khat_threshold

B = 5


def draws(count: int, sigma: float = 1.5, seed: int = 89) -> tuple[Tensor, Tensor]:
    """Log weights far from 0, lognormal ones, and single-draw bounds that differ from them, [S, B]."""
    generator = torch.Generator().manual_seed(seed)
    log_w = sigma * torch.randn(count, B, generator=generator, dtype=torch.float64) - 800.0
    return log_w, log_w - torch.rand(count, B, generator=generator, dtype=torch.float64)


def streamed(log_w: Tensor, bound: Tensor | None = None, chunk: int | None = None) -> Weights:
    weights = Weights.empty(len(log_w), log_w[0])
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
