"""Escalation: data whose weights do not pass go on, what is reported is fresh, and no option is swallowed."""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import ppvae
from ppvae.evidence.estimates import estimate
from ppvae.evidence.method import METHODS
from ppvae.evidence.methods.laplace import Laplace
from ppvae.evidence.problem import Problem
from ppvae.evidence.weights import khat_threshold

#: the clock must not decide what a test finds, nor fewer draws of q than the test looks at itself
UNHURRIED = {"max_seconds": 600.0, "pilot": 400}


def linear(offset: float, latent_dim: int = 6) -> tuple[ppvae.Fit, Tensor]:
    """A trained linear Gaussian model without its own log p, whose encoder is off by so much for the first ten data."""
    data = ppvae.load_data("digits", treatment="real", num_train=300)
    fit = ppvae.fit(
        Hidden(64, latent_dim), data, "exact", epochs=5, lr=0.02, precision="64-true", progress=False, seed=1
    )
    amortized = ppvae.fit(fit, data, "amortized", train_model=False, epochs=150, lr=0.01, progress=False,
                          precision="64-true", seed=1)  # fmt: skip
    infer = amortized.strategy.infer

    def worse(x: Tensor, *given: Any, **named: Any) -> ppvae.Posterior:
        posterior = infer(x, *given, **named)
        posterior.phi["loc"][:10] += offset
        return posterior

    amortized.strategy.infer = worse  # type: ignore[method-assign]
    return amortized, data.test[:40].double()


class Hidden(ppvae.models.PPCA):
    """A linear Gaussian model that keeps its log p to itself."""

    log_prob = ppvae.Model.__dict__.get("log_prob")  # type: ignore[assignment]


def exact(fit: ppvae.Fit, x: Tensor) -> np.ndarray:
    with torch.no_grad():
        return ppvae.models.PPCA.log_prob(fit.model, x).numpy()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def judged() -> tuple[ppvae.Fit, Tensor, Any]:
    fit, x = linear(offset=4.0)
    return fit, x, ppvae.log_marginal(fit, x, method="auto", num_samples=400, options=UNHURRIED)


def test_what_fails_goes_on_and_what_passes_stays(judged: tuple[ppvae.Fit, Tensor, Any]) -> None:
    fit, x, found = judged
    plain = ppvae.log_marginal(fit, x, num_samples=400)
    assert not plain["ok"].values[:10].any()
    assert set(found["method"].values[:10]) <= {"refined", "refined-t", "laplace", "laplace-t", "ais"}
    assert found["ok"].values[:10].all()
    kept = plain["ok"].values & (plain["khat"].values < 0.5) & (plain["ess"].values > 125)
    # but where the fresh draws fail
    assert set(found["method"].values[kept]) <= {"importance", "ais"}
    assert (found["method"].values[kept] == "importance").mean() > 0.75
    assert kept[10:].mean() > 0.5  # there was something to keep


def test_the_repaired_number_is_log_p(judged: tuple[ppvae.Fit, Tensor, Any]) -> None:
    """p̂/p − 1 by its own standard error: 40 comparisons at 4.5 of them, a false alarm in some 4,000 runs."""
    fit, x, found = judged
    ratio = np.expm1(found["log_marginal"].values - exact(fit, x))
    assert (abs(ratio) <= 4.5 * found["log_marginal_se"].values + 1e-9)[found["ok"].values].all()
    assert (found["iwae_bound"].values[:10] < exact(fit, x)[:10] - 0.5).all()  # the plain number was nats below


def test_the_plain_number_stays_and_what_is_reported_is_fresh(judged: tuple[ppvae.Fit, Tensor, Any]) -> None:
    fit, x, found = judged
    plain = ppvae.log_marginal(fit, x, num_samples=400)
    np.testing.assert_array_equal(found["iwae_bound"], plain["log_marginal"])
    np.testing.assert_array_equal(found["elbo"], plain["elbo"])
    kept = found["method"].values == "importance"
    assert (found["log_marginal"].values[kept] != plain["log_marginal"].values[kept]).all()
    assert found.attrs["khat_threshold"] == khat_threshold(400)


def test_numbers_do_not_depend_on_chunks_and_nothing_changes(judged: tuple[ppvae.Fit, Tensor, Any], untouched) -> None:
    fit, x, found = judged
    with untouched(fit.model, fit.strategy):
        again = ppvae.log_marginal(fit, x, method="auto", num_samples=400, chunk_size=333, options=UNHURRIED)
    np.testing.assert_array_equal(found["method"], again["method"])
    np.testing.assert_allclose(found["log_marginal"], again["log_marginal"], atol=1e-9)


def test_without_time_nothing_goes_on(judged: tuple[ppvae.Fit, Tensor, Any]) -> None:
    fit, x, _ = judged
    found = ppvae.log_marginal(fit, x, method="auto", num_samples=400, options={"max_seconds": 0.0})
    assert set(found["method"].values) == {"importance"}
    assert not found["ok"].values[:10].any()


def test_methods_and_their_options_are_the_users(judged: tuple[ppvae.Fit, Tensor, Any]) -> None:
    fit, x, _ = judged
    options = {"methods": ["laplace"], "laplace": {"widen": 1.3}}
    found = ppvae.log_marginal(fit, x, method="auto", num_samples=400, options=options)
    assert set(found["method"].values[:10]) == {"laplace"}


def test_annealing_alone_starts_from_the_prior(judged: tuple[ppvae.Fit, Tensor, Any]) -> None:
    """p̂/p − 1 by its own standard error: 10 comparisons at 4.5 of them, a false alarm in some 15,000 runs."""
    fit, x, _ = judged
    found = ppvae.log_marginal(fit, x, method="auto", num_samples=400, options={"methods": ["ais"], **UNHURRIED})
    assert set(found["method"].values[:10]) <= {"importance-t", "ais"}
    annealed = found["method"].values[:10] == "ais"
    assert annealed.mean() > 0.5
    assert (found["ess"].values[:10][annealed] <= 200).all()
    ratio = np.expm1(found["log_marginal"].values - exact(fit, x))
    assert (abs(ratio) <= 4.5 * found["log_marginal_se"].values + 1e-9)[:10].all()


def test_annealing_starts_from_what_is_nearer_than_q(judged: tuple[ppvae.Fit, Tensor, Any]) -> None:
    """Laplace's Gaussian is the posterior of a linear Gaussian model, so that from there all weights are p(x)."""
    fit, x, _ = judged
    asked = Problem(fit, x, None, 0, 30)
    laplace = METHODS["laplace"](asked)
    assert isinstance(laplace, Laplace)
    estimate(asked, laplace)
    asked.start_guide = laplace.gaussian
    found = estimate(asked, METHODS["ais"](asked, start="q", num_temperatures=5))
    np.testing.assert_allclose(found["log_marginal"].numpy(), exact(fit, x), atol=1e-6)
    np.testing.assert_allclose(found["ess"].numpy(), 30, rtol=1e-6)


class Counts(ppvae.Model):
    """x ~ Poisson(z/2), z ~ Gamma(2, 1): in log z the posterior falls off more slowly to the left than a Gaussian."""

    x_dim = 1

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(x.new_full((1,), 2.0), 1.0).to_event(1))
            pyro.sample("x", dist.Poisson(0.5 * z).to_event(1), obs=x)


def test_heavy_tails_are_met_by_a_student_t() -> None:
    """p̂/p − 1 by its own standard error: 60 comparisons at 4.5 of them, a false alarm in some 2,500 runs."""
    x = torch.poisson(torch.linspace(0.1, 2.5, 60), generator=torch.Generator().manual_seed(0)).unsqueeze(-1)
    data = ppvae.Data("counts", x, x, x, "gaussian", "real")
    fit = ppvae.fit(Counts(), data, "amortized", epochs=300, lr=0.01, progress=False, patience=None)
    found = ppvae.log_marginal(fit, x, method="auto", num_samples=1000, options={"methods": []})
    assert set(found["method"].values) <= {"importance", "importance-t"}
    heavier = found["method"].values == "importance-t"
    assert heavier.mean() > 0.5
    assert found["ok"].values[heavier].mean() > 0.9
    truth = ppvae.log_marginal(fit, x, method="exact")["log_marginal"].values
    ratio = np.expm1(found["log_marginal"].values - truth)
    assert (abs(ratio) <= 4.5 * found["log_marginal_se"].values)[found["ok"].values].all()


def test_an_exact_model_and_an_enumerated_guide_need_no_draws() -> None:
    data = ppvae.load_data("iris")
    for name in ("ppca", "gmm"):
        fit = ppvae.fit(ppvae.create(name, x_dim=4), data, "amortized", epochs=3, progress=False)
        found = ppvae.log_marginal(fit, data.test, method="auto", num_samples=200)
        with torch.no_grad():
            np.testing.assert_allclose(found["log_marginal"], fit.model.log_prob(data.test), rtol=1e-5)
        assert bool(found["ok"].all())
        assert set(found["method"].values) == {"exact"}
        assert bool(found["ess"].isnull().all())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"methods": ["lapalce"]}, "did you mean 'laplace'"),
        ({"methods": "laplace"}, "methods must be a list"),
        ({"max_seconds": -1}, "max_seconds must be"),
        ({"pilot": 0}, "pilot must be"),
        ({"laplac": {}}, "did you mean 'laplace'"),
        ({"laplace": {"wide": 2}}, "laplace: unknown option 'wide'"),
        ({"laplace": 3}, "laplace must be a mapping"),
    ],
)
def test_bad_options_get_one_line(judged: tuple[ppvae.Fit, Tensor, Any], options: dict[str, Any], says: str) -> None:
    fit, x, _ = judged
    with pytest.raises(ppvae.PpvaeError, match=says) as caught:
        ppvae.log_marginal(fit, x, method="auto", options=options)
    assert "\n" not in str(caught.value)
