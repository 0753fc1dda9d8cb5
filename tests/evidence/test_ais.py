"""Annealed importance sampling: p̂/p − 1 against its own standard error, and what it promises besides, in float64."""

import itertools
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
from torch import Tensor

import ppvae
from ppvae import Local, PpvaeError
from ppvae.evidence.annealing import SCHEDULES, temperatures
from ppvae.evidence.methods.ais import ais
from ppvae.evidence.problem import Problem
from ppvae.models import GMM, PPCA, VAE
from ppvae.pair.local import Phi
from ppvae.pair.target import Target

STARTS = ("prior", "q")


@pytest.fixture
def short_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not the step sizes that matter."""
    monkeypatch.setattr("ppvae.evidence.annealing.LEAST_UPDATES", 6)


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(61))


def fitted(model: ppvae.Model, x: Tensor, inference: str = "amortized", **options: Any) -> ppvae.Fit:
    data = ppvae.Data("real", x, x[:4], x[:4], "gaussian", "real")
    return ppvae.fit(model, data, inference, steps=1, precision="64-true", progress=False, inference_options=options)


def estimate(fit: ppvae.Fit, x: Tensor, num_samples: int = 40, **options: Any) -> xr.Dataset:
    known = {name: options.pop(name) for name in ("seed", "chunk_size") if name in options}
    options = {"num_temperatures": 8, "num_leapfrog": 2, "num_tuning": 4, **options}
    return ppvae.log_marginal(fit, x, num_samples=num_samples, method="ais", options=options, **known)


def z_of(estimates: xr.Dataset, log_p: Tensor) -> np.ndarray:
    """(p̂/p − 1)/se."""
    ratio = np.exp(estimates.log_marginal.values - log_p.detach().numpy())
    return (ratio - 1) / (ratio * estimates.log_marginal_se.values)


@pytest.fixture(scope="module")
def linear() -> ppvae.Fit:
    """pPCA of order one and an encoder that has learned next to nothing: q is wide and off the mark."""
    torch.manual_seed(3)
    fit = fitted(PPCA(5, 2), numbers(20, 5))
    with torch.no_grad():
        for p in fit.model.parameters():
            p.copy_(torch.randn_like(p))
    return fit


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("start", STARTS)
def test_linear_gaussian_estimate_is_unbiased(linear: ppvae.Fit, start: str, schedule: str) -> None:
    """p̂/p − 1 is 0 within its error; z = 4.5 over 6 × 10 comparisons: false alarms < 5e-4."""
    x = 1.5 * numbers(10, 5)
    estimates = estimate(linear, x, 300, start=start, schedule=schedule, num_temperatures=10)
    assert (np.abs(z_of(estimates, linear.model.log_prob(x))) < 4.5).all()
    assert (estimates.log_marginal_se > 0.01).all()  # the chains do weigh differently
    assert (estimates.elbo < linear.model.log_prob(x).detach().numpy()).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_from_the_posterior_every_chain_weighs_p(schedule: str) -> None:
    """q = p(z | x): the path stays where it is, and log w is log p(x) whatever the transitions do."""
    x = numbers(10, 5)
    torch.manual_seed(5)
    fit = fitted(PPCA(5, 2), x, "exact")
    estimates = estimate(fit, x, 5, start="q", schedule=schedule)
    np.testing.assert_allclose(estimates.log_marginal, fit.model.log_prob(x).detach(), rtol=0, atol=1e-8)
    np.testing.assert_allclose(estimates.log_marginal_se, 0, atol=1e-6)


class Positive(ppvae.Model):
    """z ~ Gamma(2, 1.5) in ℝ⁺, w ~ Beta(2, 3) in (0, 1), x ~ Normal(log z + 2w, 0.4)."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(x.new_tensor(2.0), 1.5))
            w = pyro.sample("w", dist.Beta(x.new_tensor(2.0), 3.0))
            pyro.sample("x", dist.Normal(z.log() + 2 * w, 0.4), obs=x[:, 0])


@pytest.mark.parametrize("start", STARTS)
def test_latents_on_other_supports_agree_with_quadrature(start: str) -> None:
    """Gamma and Beta latents, by sums over 1,000² midpoints of log z and w; z = 4.5 over 2 × 6: false alarms < 1e-4."""
    x = torch.linspace(-4, 3, 6, dtype=torch.float64)[:, None]
    log_z = (torch.arange(1000, dtype=torch.float64) + 0.5) * 0.016 - 12
    w = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    prior = (dist.Gamma(2.0, 1.5).log_prob(log_z.exp()) + log_z)[:, None] + dist.Beta(2.0, 3.0).log_prob(w)
    log_p = torch.stack(
        [(prior + dist.Normal(log_z[:, None] + 2 * w, 0.4).log_prob(one)).flatten().logsumexp(0) for one in x]
    ) + math.log(0.016 / 1000)
    torch.manual_seed(7)
    estimates = estimate(fitted(Positive(), x), x, 300, start=start)
    assert (np.abs(z_of(estimates, log_p)) < 4.5).all()
    assert (estimates.log_marginal_se > 0.01).all()


LOGITS, MEANS, OFFSETS = torch.tensor([0.3, -0.5, 0.8]), torch.tensor([-3.0, 0.5, 3.0]), torch.tensor([1.0, -1.0, 0.0])


class Mixed(ppvae.Model):
    """k ~ Categorical(π) summed out, z ~ Normal(μ_k, 1), x ~ Normal(z + offset_k, 0.6)."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=LOGITS.to(x)), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(MEANS.to(x)[k], 1.0))
            pyro.sample("x", dist.Normal(z + OFFSETS.to(x)[k], 0.6), obs=x[:, 0])

    def log_prob(self, x: Tensor) -> Tensor:
        parts = dist.Normal((MEANS + OFFSETS).to(x), math.sqrt(1.36)).log_prob(x)
        return (LOGITS.to(x).log_softmax(-1) + parts).logsumexp(-1)


@pytest.mark.parametrize("start", STARTS)
def test_a_discrete_latent_of_the_model_is_summed_out(start: str) -> None:
    """Against the mixture's own density; z = 4.5 over 2 × 7: false alarms < 1e-4."""
    x = torch.linspace(-4, 5, 7, dtype=torch.float64)[:, None]
    torch.manual_seed(11)
    fit = fitted(Mixed(), x)
    estimates = estimate(fit, x, 300, start=start)
    assert (np.abs(z_of(estimates, cast(Mixed, fit.model).log_prob(x))) < 4.5).all()
    assert (estimates.log_marginal_se > 0.01).all()


class Bounded(ppvae.Model):
    """z ~ Normal(0, 1), x ~ Normal(√(25 − z²), 0.3): beyond |z| = 5 there is nothing but NaN."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal((25 - z**2).sqrt(), 0.3), obs=x[:, 0])


def test_trajectories_that_run_off_are_refused() -> None:
    """Steps so long that most leave for NaN: no weight does, and p̂ is right for the density that is 0 there.

    z = 4.5 over 3 comparisons: false alarms < 3e-5.
    """
    x = torch.tensor([[4.0], [4.6], [5.0]], dtype=torch.float64)
    z = torch.linspace(-5, 5, 20_001, dtype=torch.float64)[1:-1, None]
    log_joint = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal((25 - z**2).sqrt(), 0.3).log_prob(x[:, 0])
    torch.manual_seed(13)
    estimates = estimate(fitted(Bounded(), x), x, 300, target_acceptance=0.1)
    assert np.isfinite(estimates.elbo).all()
    assert (np.abs(z_of(estimates, log_joint.logsumexp(0) + math.log(10 / 20_000))) < 4.5).all()


def test_more_temperatures_lose_less(linear: ppvae.Fit) -> None:
    """The mean log weight rises towards log p, and the effective draws towards all."""
    x = 1.5 * numbers(10, 5)
    few, many = (estimate(linear, x, 60, num_temperatures=t) for t in (3, 40))
    exact = linear.model.log_prob(x).detach().numpy()
    assert (exact - many.elbo).mean() < 0.3 * (exact - few.elbo).mean()
    assert (many.ess > few.ess).all()


def test_temperatures_rise_from_0_to_1() -> None:
    for schedule, number in itertools.product(SCHEDULES, (1, 2, 3, 50)):
        betas = temperatures(number, schedule)
        assert len(betas) == number + 1
        assert betas[0] == 0
        assert betas[-1] == 1
        assert (np.diff(betas) > 0).all()
    assert temperatures(4, "linear") == pytest.approx((0, 0.25, 0.5, 0.75, 1))
    ends = np.diff(temperatures(50, "sigmoid"))
    assert ends[0] == pytest.approx(ends[-1])
    assert ends[25] > 5 * ends[0]


@pytest.mark.parametrize("target", [0.5, 0.8])
@pytest.mark.parametrize("start", STARTS)
def test_step_sizes_are_tuned_to_the_acceptance_asked_for(linear: ppvae.Fit, start: str, target: float) -> None:
    """Of every datum, within 0.1, averaged over temperatures."""
    x = 1.5 * numbers(10, 5)
    chains = run(linear, x, start=start, target_acceptance=target, num_temperatures=25, num_tuning=20)
    assert (chains.acceptance - target).abs().max() < 0.1


def run(fit: ppvae.Fit, x: Tensor, **options: Any) -> Any:
    asked = Problem(fit, x, None, 0, 20)
    chains = ais(asked, **options)
    with torch.no_grad():
        for _, block in asked.blocks():
            list(chains.weights(block, 20, 20))
    return chains


@pytest.mark.parametrize("start", STARTS)
def test_a_leapfrog_step_costs_one_gradient(linear: ppvae.Fit, start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """(T − 1) L of them and the one at the start, in the tuning run and in that which is reported."""
    passes = 0
    whole = Target.log_densities

    def counted(self: Target, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal passes
        passes += torch.is_grad_enabled()
        return whole(self, u, x)

    monkeypatch.setattr(Target, "log_densities", counted)
    x = numbers(3, 5)
    chains = run(linear, x, start=start, num_temperatures=61)
    assert passes == 2 * (60 * 2 + 1)
    passes = 0
    (_, block), *_ = Problem(linear, x, None, 0, 20).blocks()
    with torch.no_grad():
        list(chains.weights(block, 20, 20))
    assert passes == 60 * 2 + 1  # the step sizes are there


@pytest.mark.usefixtures("short_tuning")
def test_one_seed_gives_one_result(linear: ppvae.Fit) -> None:
    """And another seed independent chains for every datum."""
    x = numbers(6, 5)
    one, again, other = (estimate(linear, x, seed=seed) for seed in (4, 4, 5))
    xr.testing.assert_identical(one, again)
    assert (one.log_marginal != other.log_marginal).all()
    same_x = estimate(linear, x[:1].expand(6, -1))
    assert len(np.unique(same_x.log_marginal)) == 6


@pytest.mark.usefixtures("short_tuning")
@pytest.mark.parametrize("start", STARTS)
def test_chunks_and_other_data_change_nothing(linear: ppvae.Fit, start: str) -> None:
    """A datum's step sizes and chains depend on its position and the seed alone, over two blocks of data."""
    x = numbers(104, 5)
    options = {"start": start, "num_temperatures": 4}
    whole = estimate(linear, x, 23, **options)
    for chunk_size in (700, 10**6):
        assert_same(estimate(linear, x, 23, chunk_size=chunk_size, **options), whole)
    assert_same(estimate(linear, x[:102], 23, **options), whole.isel(datum=slice(102)))
    asked = Problem(linear, x, None, 0, 20, positions=torch.tensor([3, 50, 103]))
    settings = cast(dict[str, Any], {"num_temperatures": 4, "num_leapfrog": 2, "num_tuning": 4, "start": start})
    some, everyone = ais(asked, **settings), ais(Problem(linear, x, None, 0, 20), **settings)
    for (_, few), (_, all_rows) in zip(asked.blocks(), Problem(linear, x, None, 0, 20).blocks(), strict=True):
        with torch.no_grad():
            (path, steps), (full_path, full_steps) = some.tuned(few, 20), everyone.tuned(all_rows, 20)
        torch.testing.assert_close(steps, full_steps[:, few.rows])
        if start == "q":
            torch.testing.assert_close(path.scale, full_path.scale[few.rows])


@pytest.mark.usefixtures("short_tuning")
def test_one_datum_in_chunks_of_one_chain(linear: ppvae.Fit) -> None:
    x = numbers(1, 5)
    assert_same(estimate(linear, x, 23, chunk_size=1), estimate(linear, x, 23))


def assert_same(one: xr.Dataset, other: xr.Dataset) -> None:
    for name in ("log_marginal", "log_marginal_se", "elbo", "ess"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.usefixtures("short_tuning")
def test_the_world_is_left_alone(linear: ppvae.Fit, untouched: Callable[..., AbstractContextManager[None]]) -> None:
    for start in STARTS:
        with untouched(linear.model, linear.strategy):
            estimate(linear, numbers(3, 5), start=start)


def test_float32_images() -> None:
    """A VAE in the precision that it trains in: between its bound and a far longer run, within 4.5 errors."""
    x = torch.bernoulli(torch.full((6, 12), 0.4), generator=torch.Generator().manual_seed(5))
    torch.manual_seed(17)
    data = ppvae.Data("bits", x, x[:4], x[:4], "bernoulli", "binary")
    fit = ppvae.fit(VAE(12, 3, hidden=(8,)), data, epochs=1, progress=False)
    estimates = estimate(fit, x, 100)
    reference = ppvae.log_marginal(fit, x, num_samples=20_000)
    error = np.hypot(estimates.log_marginal_se, reference.log_marginal_se)
    assert (np.abs(estimates.log_marginal - reference.log_marginal) < 4.5 * error).all()


class Enumerated(ppvae.Model):
    """k ~ Categorical(π), z ~ Normal(μ_k, 1), x ~ Normal(z, 0.6); the guide enumerates k, or draws it."""

    def __init__(self, marked: bool = True) -> None:
        super().__init__()
        self.infer: Any = {"enumerate": "parallel"} if marked else {}
        self.phi = {
            "logits": Local(torch.zeros(3)), "loc": Local(torch.zeros(())),
            "scale": Local(torch.ones(()), dist.constraints.positive),
        }  # fmt: skip

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=LOGITS.to(x)), infer=self.infer)
            z = pyro.sample("z", dist.Normal(MEANS.to(x)[k], 1.0))
            pyro.sample("x", dist.Normal(z, 0.6), obs=x[:, 0])

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(logits=phi["logits"]), infer=self.infer)
            pyro.sample("z", dist.Normal(phi["loc"], phi["scale"]))


def drawn() -> ppvae.Fit:
    x = numbers(20, 1)
    data = ppvae.Data("real", x, x[:4], x[:4], "gaussian", "real")
    return ppvae.fit(Enumerated(False), data, gradient="score", steps=1, progress=False)


def gmm() -> ppvae.Fit:
    return fitted(GMM(5, 3), numbers(20, 5))


@pytest.mark.parametrize("pair", [gmm, lambda: fitted(GMM(5, 3, assignment="summed"), numbers(20, 5)), drawn])
def test_pairs_that_it_does_not_apply_to(pair: Callable[[], ppvae.Fit]) -> None:
    torch.manual_seed(19)
    fit = pair()
    with pytest.raises(PpvaeError, match=r"no continuous latent|is discrete") as caught:
        estimate(fit, numbers(*(20, *fit.event_shape)))
    assert "\n" not in str(caught.value)


def test_an_enumerating_guide_is_passed_by() -> None:
    """From the prior k is summed out of the model; from q there is no density of z alone."""
    x = numbers(5, 1)
    torch.manual_seed(23)
    fit = fitted(Enumerated(), x)
    parts = LOGITS.double().log_softmax(-1) + dist.Normal(MEANS.double(), math.sqrt(1.36)).log_prob(x)
    assert (np.abs(z_of(estimate(fit, x, 100), parts.logsumexp(-1))) < 4.5).all()
    with pytest.raises(PpvaeError, match='use start="prior"') as caught:
        estimate(fit, x, start="q")
    assert "\n" not in str(caught.value)


REFUSED: dict[str, dict[str, Any]] = {
    "num_temperatures": {"num_temperatures": 0},
    "num_leapfrog": {"num_leapfrog": 1.5},
    "num_tuning": {"num_tuning": 0},
    "did you mean 'sigmoid'": {"schedule": "sigmoidal"},
    "unknown start": {"start": "posterior"},
    "between 0 and 1": {"target_acceptance": 1.0},
    "target_acceptance": {"target_acceptance": math.nan},
    "unknown option 'temperatures'": {"temperatures": 3},
}


@pytest.mark.parametrize("named", REFUSED)
def test_bad_options_are_refused_in_one_line(linear: ppvae.Fit, named: str) -> None:
    with pytest.raises(PpvaeError) as caught:
        estimate(linear, numbers(3, 5), **REFUSED[named])
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_data_outside_the_likelihoods_support_are_refused() -> None:
    x = torch.bernoulli(torch.full((6, 4), 0.4))
    data = ppvae.Data("bits", x, x[:4], x[:4], "bernoulli", "binary")
    fit = ppvae.fit(VAE(4, 2, hidden=(4,)), data, epochs=1, progress=False)
    with pytest.raises(PpvaeError, match="support"):
        estimate(fit, x + 0.5)
