"""Approximation and amortization gaps against closed forms, in float64.

The optimiser of q* stops short of the optimum by what 16 draws a step leave, `LEFT` nats: the approximation gap is that
much too large, and the amortization gap too small.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pairs
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from torch import Tensor
from torch.distributions import Categorical, MultivariateNormal, Normal, kl_divergence

import ppvae
from ppvae import Local, Posterior, PpvaeError
from ppvae.diagnostics.best_q import best_of
from ppvae.diagnostics.inference_gap import gap_columns
from ppvae.evidence.problem import Problem
from ppvae.models import DLGM, GMM, PPCA, VAE
from ppvae.pair.local import Phi
from ppvae.variational.refinement import refine

Untouched = Callable[..., AbstractContextManager[None]]
N, D, K = 40, 6, 3
LEFT = 0.03
MODULE = importlib.import_module("ppvae.diagnostics.best_q")


def cloud(count: int = N) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, K, generator=generator) @ torch.randn(K, D, generator=generator) + 0.3


def fitted(model: ppvae.Model, inference: str = "amortized", **options: Any) -> ppvae.Fit:
    """A hardly trained fit in float64."""
    x = cloud()
    data = ppvae.Data("cloud", x, x[:4], x[:4], "gaussian", "real")
    settings = {"steps": 3, "lr": 1e-3, "batch_size": 50, "precision": "64-true", **options}
    return ppvae.fit(model, data, inference, **settings)


def linear(inference: str = "amortized", **options: Any) -> ppvae.Fit:
    """pPCA with loadings of order one, so that its posterior is correlated."""
    torch.manual_seed(7)
    model = PPCA(D, K)
    with torch.no_grad():
        model.weight.copy_(torch.randn(D, K))
    return fitted(model, inference, **options)


def covariance(fit: ppvae.Fit, x: Tensor) -> Tensor:
    factor = fit.model.exact_phi(x)["scale_tril"].detach()
    return factor @ factor.mT


def divergence(fit: ppvae.Fit, q: Posterior, x: Tensor) -> Tensor:
    """KL(q ‖ p(z | x)) of pPCA in closed form, for q of full covariance or a mean field [B]."""
    p = MultivariateNormal(fit.model.exact_phi(x)["loc"], covariance(fit, x))
    if "z_loc" in q.phi:
        return kl_divergence(
            MultivariateNormal(q.phi["z_loc"], torch.diag_embed(q.phi["z_scale"].square())), p
        ).detach()
    return kl_divergence(MultivariateNormal(q.phi["loc"], scale_tril=q.phi["scale_tril"]), p).detach()


def assert_within(found: xr.Dataset, name: str, expected: Any, below: float = 0.0, above: float = 0.0) -> None:
    """Each datum's gap within 4.5 standard errors, but for what the optimiser leaves below and above."""
    off, se = found[name].values - np.asarray(expected), found[f"{name}_se"].values
    assert (off > -4.5 * se - below - 1e-6).all()
    assert (off < 4.5 * se + above + 1e-6).all()


# Closed forms


def test_a_family_that_holds_the_posterior_loses_by_its_encoder_alone() -> None:
    """pPCA: approximation gap 0, amortization gap KL(q ‖ p(z | x)); z = 4.5 over 2 × 40: false alarms < 1e-3."""
    fit = linear()
    x = fit.as_input(cloud())
    found = ppvae.gaps(fit, x)
    expected = divergence(fit, fit.posterior(x), x).numpy()
    assert expected.min() > 0.1
    assert_within(found, "approximation_gap", 0.0, above=3 * LEFT)
    assert_within(found, "amortization_gap", expected, below=3 * LEFT)
    assert found.approximation_gap.mean() < LEFT
    assert abs(found.amortization_gap.mean() - expected.mean()) < LEFT + 4.5 * mean_error(found, "amortization_gap")
    assert found.converged.all()
    assert found.ok.all()
    assert found.attrs["method"] == "exact"


def mean_error(found: xr.Dataset, name: str) -> float:
    return ppvae.summarise(found, name).mc_se


def test_exact_inference_loses_nothing() -> None:
    """Both gaps are 0: q is in the running for q*, and what is taken for better is so by a hair."""
    fit = linear("exact")
    found = ppvae.gaps(fit, cloud())
    for name in ("approximation_gap", "amortization_gap"):
        assert_within(found, name, 0.0, below=1e-3, above=1e-3)
        assert abs(found[name]).mean() < 1e-3
    assert (found.start == "q").mean() > 0.3


@pytest.fixture(scope="module")
def mean_field() -> tuple[ppvae.Fit, Tensor, xr.Dataset]:
    fit = linear(family="mean-field")
    x = fit.as_input(cloud())
    return fit, x, ppvae.gaps(fit, x, families=["full-covariance", "low-rank"])


def lost(fit: ppvae.Fit, x: Tensor) -> float:
    """What the best mean field loses on a Gaussian of precision Λ: ½ (Σ log Λᵢᵢ − log det Λ)."""
    precision = torch.linalg.inv(covariance(fit, x)[0])
    return (precision.diagonal().log().sum() - precision.logdet()).item() / 2


def test_a_mean_field_loses_the_correlations(mean_field: tuple[ppvae.Fit, Tensor, xr.Dataset]) -> None:
    """½ (Σ log Λᵢᵢ − log det Λ) of approximation, the rest of KL(q ‖ p(z | x)) of amortization.

    z = 4.5 over 2 × 40: false alarms < 1e-3.
    """
    fit, x, found = mean_field
    family = lost(fit, x)
    assert family > 0.1
    assert_within(found, "approximation_gap", family, above=3 * LEFT)
    whole = divergence(fit, fit.posterior(x), x).numpy()
    assert_within(found, "amortization_gap", whole - family, below=3 * LEFT)
    assert abs(found.approximation_gap.mean() - family) < LEFT + 4.5 * mean_error(found, "approximation_gap")


def test_the_parts_add_up(mean_field: tuple[ppvae.Fit, Tensor, xr.Dataset]) -> None:
    """To log p(x) − L[q], from the same draws."""
    found = mean_field[2]
    np.testing.assert_allclose(
        found.approximation_gap + found.amortization_gap, found.log_marginal - found.elbo, rtol=0, atol=1e-9
    )
    np.testing.assert_allclose(
        (found.family_gap + found.family_gain + found.amortization_gap).transpose("family", "datum"),
        np.broadcast_to(found.log_marginal - found.elbo, (2, N)),
        rtol=0,
        atol=1e-9,
    )


def test_a_richer_family_gains_what_the_poorer_loses(mean_field: tuple[ppvae.Fit, Tensor, xr.Dataset]) -> None:
    """Full covariance holds the posterior: its gap is 0, its gain the mean field's loss; rank 1 lies between."""
    fit, x, found = mean_field
    assert found.family.values.tolist() == ["full-covariance", "low-rank"]
    assert found.family_gain.dims == ("family", "datum")
    family = lost(fit, x)
    full, rank_one = (found.sel(family=name) for name in ("full-covariance", "low-rank"))
    assert_within(full, "family_gap", 0.0, above=3 * LEFT)
    assert_within(full, "family_gain", family, below=3 * LEFT, above=3 * LEFT)
    assert 0.05 < rank_one.family_gain.mean() < family
    assert found.family_converged.all()


def test_an_enumerated_family_holds_the_posterior() -> None:
    """gmm: no noise; approximation gap 0, amortization gap the KL of two categoricals, to a hundredth."""
    torch.manual_seed(11)
    fit = fitted(GMM(D, 4))
    x = fit.as_input(cloud())
    found = ppvae.gaps(fit, x)
    true = Categorical(logits=fit.model.exact_phi(x)["logits"])
    expected = kl_divergence(Categorical(logits=fit.posterior(x).phi["logits"]), true).detach().numpy()
    assert expected.max() > 0.5
    np.testing.assert_allclose(found.amortization_gap, expected, rtol=0, atol=0.01)
    np.testing.assert_allclose(found.approximation_gap, 0, rtol=0, atol=0.01)
    assert (found.approximation_gap > -1e-9).all()
    for name in ("elbo", "elbo_star", "log_marginal", "approximation_gap", "amortization_gap"):
        assert (found[f"{name}_se"] == 0).all()


def test_a_table_loses_by_its_optimisation() -> None:
    """By index, rows after three steps against rows at their best: z = 4.5 over 20 data."""
    fit = linear("per-datapoint")
    index = torch.arange(20)
    x = fit.as_input(cloud())[index]
    expected = divergence(fit, fit.posterior(x, index), x).numpy()
    assert expected.min() > 0.1
    assert_within(ppvae.gaps(fit, x, index), "amortization_gap", expected, below=3 * LEFT)


def test_pairs_without_phi_lose_nothing() -> None:
    fit = pairs.fitted(pairs.Coins("summed"), pairs.X)
    found = ppvae.gaps(fit, pairs.X, num_samples=30)
    np.testing.assert_allclose(found.log_marginal, pairs.truth(fit.model, pairs.X), rtol=1e-9)
    for name in ("approximation_gap", "amortization_gap"):
        np.testing.assert_allclose(found[name], 0, atol=1e-9)


@pytest.mark.parametrize("kind", pairs.MODELS)
def test_every_kind_of_pair_has_gaps(kind: str) -> None:
    """log p − L[q*] is not below 0 but for noise, nor L[q*] − L[q]; 5 × 2 × 3, one-sided z = 4.5."""
    torch.manual_seed(13)
    options = {"gradient": "score"} if kind == "drawn" else {}
    fit = pairs.fitted(pairs.MODELS[kind](), pairs.X, **options)
    found = ppvae.gaps(fit, pairs.X, num_samples=500, max_steps=100, particles=4)
    assert_within(found, "approximation_gap", 0.0, above=math.inf)
    assert_within(found, "amortization_gap", 0.0, below=0.1, above=math.inf)
    assert found.amortization_gap.max() > 0 or kind == "summed"


# Errors


def test_errors_are_paired_and_right() -> None:
    """Of 200 data at a given q*: (gap − closed form)/se within 4.5, of spread 1 within 4.5/√400: 2 × 201 comparisons.

    log p̂ comes from q* widened, on the random numbers of L[q*]; so paired, its gap has a fifth of the error of two
    independent estimates, and that of q and q* less than apart.
    """
    fit = linear(family="mean-field")
    x = torch.cat([cloud()] * 5).double()
    asked = Problem(fit, x, None, 3, 1000)
    q = asked.posterior
    star = best_of(asked, {"warm": refine(q, x, max_steps=100)})
    found = gap_columns(asked, star, {}, None)
    at_star, at_q = (divergence(fit, posterior, x) for posterior in (star.posterior, q))
    for gap, expected in (("approximation_gap", at_star), ("amortization_gap", at_q - at_star)):
        z = (found[gap] - expected) / found[f"{gap}_se"]
        assert (z.abs() < 4.5).all()
        assert abs(z.square().mean().sqrt() - 1) < 4.5 / math.sqrt(2 * len(x))
    unpaired = (found["log_marginal_se"].square() + found["elbo_star_se"].square()).sqrt()
    assert found["approximation_gap_se"].mean() < 0.75 * unpaired.mean()
    assert (found["log_marginal"] - fit.model.log_prob(x)).abs().mean() < 0.1  # type: ignore[operator]


class Square(ppvae.Model):
    """z ~ Normal(0, 1), x ~ Normal(z², 0.5): two modes, of which a Gaussian may take either and lose as much."""

    def __init__(self) -> None:
        super().__init__()
        self.phi = {"loc": Local(torch.zeros(())), "scale": Local(torch.ones(()), dist.constraints.positive)}

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z.square().unsqueeze(-1), 0.5).to_event(1), obs=x)

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(phi["loc"], phi["scale"]))


def test_choosing_a_start_leaves_no_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two modes of 300 data are equally good, and the larger of two noisy bounds is chosen.

    On the draws that choose, it is too high by many standard errors; on those reported it is what quadrature gives,
    within z = 4.5.
    """
    monkeypatch.setattr(MODULE, "CHOICE_DRAWS", 20)
    x = torch.linspace(0.8, 2.0, 300, dtype=torch.float64).unsqueeze(-1)
    fit = pairs.fitted(Square(), x)
    asked = Problem(fit, x, None, 0, 400)
    scale = torch.full((300,), 0.25, dtype=torch.float64)
    everyone = torch.ones(300, dtype=torch.bool)
    modes = {
        name: Posterior(fit.model, {"loc": sign * x.squeeze(-1).sqrt(), "scale": scale}, everyone)
        for name, sign in (("warm", 1.0), ("cold", -1.0))
    }
    star = best_of(asked, modes)
    assert {str(name) for name in star.start} == {"warm", "cold"}
    grid = torch.linspace(-8, 8, 16_001, dtype=torch.float64).unsqueeze(-1)
    log_q = Normal(x.squeeze(-1).sqrt(), scale).log_prob(grid)
    log_joint = Normal(0.0, 1.0).log_prob(grid) + Normal(grid.square(), 0.5).log_prob(x.squeeze(-1))
    truth = ((log_q.exp() * (log_joint - log_q)).sum(0) * 1e-3).double()
    reported = gap_columns(asked, star, {}, None)["elbo_star"]

    def z(of: Tensor) -> float:
        off = of - truth
        return (off.mean() / off.std() * math.sqrt(len(off))).item()

    assert z(star.bound) > 8
    assert abs(z(reported)) < 4.5


def test_an_estimate_that_fails_makes_the_gap_a_lower_bound() -> None:
    """30 draws cannot pass: ok is False, and the units say what the gap is then."""
    torch.manual_seed(17)
    fit = fitted(VAE(D, 3, hidden=(8,), likelihood="gaussian"))
    found = ppvae.gaps(fit, cloud(12), num_samples=30, max_steps=50)
    assert not found.ok.any()
    assert found.attrs["method"] == "refined"
    assert found.approximation_gap.attrs["bound"] == "a lower bound where ok is False"
    named = ppvae.gaps(fit, cloud(12), num_samples=30, max_steps=50, method="importance")
    assert named.attrs["method"] == "importance"
    alone = ppvae.log_marginal(fit, cloud(12), num_samples=30, method="importance")
    np.testing.assert_array_equal(named.log_marginal, alone.log_marginal)


def test_too_few_steps_are_told() -> None:
    fit = linear()
    assert not ppvae.gaps(fit, cloud(5), max_steps=25).converged.any()


# Other families


@pytest.mark.parametrize("family", ["iaf", "mixture", "ladder"])
def test_other_families_are_optimised_too(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flow's weights are fitted to the data first; none loses much to the mean field, of which it is a superset."""
    monkeypatch.setattr(MODULE, "FLOW_STEPS", 150)
    fit = linear(family="mean-field")
    options = {"iaf": {"hidden": (8,)}, "mixture": {"num_components": 2}, "ladder": {}}[family]
    found = ppvae.gaps(fit, cloud(12), families={family: options}, max_steps=75, particles=2, num_samples=200)
    gain = found.sel(family=family).family_gain
    assert np.isfinite(gain).all()
    assert gain.mean() > -0.1
    assert (gain < found.approximation_gap + 4.5 * found.approximation_gap_se).all()


def test_a_family_of_drawn_discrete_latents_is_refused() -> None:
    fit = pairs.fitted(pairs.Coins("drawn"), pairs.X, gradient="score")
    with pytest.raises(PpvaeError, match="'k' is discrete"):
        ppvae.gaps(fit, pairs.X, families=["mean-field"])


# Reproducible, and without traces


def test_a_datums_gaps_are_its_own() -> None:
    """Those of the first 7 data do not depend on the others; the seed does matter; float64 leaves no chaos."""
    fit = linear(family="mean-field")
    settings: dict[str, Any] = {"max_steps": 10, "particles": 2, "num_samples": 40, "families": ["full-covariance"]}
    whole, first, other = (
        ppvae.gaps(fit, cloud(12)[:n], seed=seed, **settings) for n, seed in ((12, 0), (7, 0), (12, 1))
    )
    for name in ("elbo", "elbo_star", "approximation_gap", "amortization_gap_se", "family_gain"):
        np.testing.assert_allclose(first[name], whole[name].isel(datum=slice(7)), rtol=1e-5, atol=1e-7)
        assert (other[name] != whole[name]).all()


@pytest.mark.parametrize("which", ["chain", "flow", "rows"])
def test_the_world_is_left_alone(which: str, untouched: Untouched) -> None:
    torch.manual_seed(19)
    model = DLGM(D, (2, 2), hidden=8, likelihood="gaussian") if which == "chain" else PPCA(D, 2)
    inference, family = {"chain": ("amortized", None), "flow": ("amortized", "iaf"), "rows": ("per-datapoint", None)}[
        which
    ]
    rows = {"max_steps": 20} if which == "rows" else {}
    fit = fitted(model, inference, family=family, inference_options=rows)
    families = ["mean-field"] if which == "chain" else []
    with untouched(fit.model, fit.strategy):
        ppvae.gaps(fit, cloud(6), num_samples=20, max_steps=5, families=families)


def test_gaps_are_averaged_with_both_errors(mean_field: tuple[ppvae.Fit, Tensor, xr.Dataset]) -> None:
    found = mean_field[2]
    summary = ppvae.summarise(found, "amortization_gap")
    values, se = found.amortization_gap.values, found.amortization_gap_se.values
    assert summary.mean == pytest.approx(values.mean())
    assert summary.mc_se == pytest.approx(math.sqrt((se**2).sum()) / N)
    assert summary.data_se == pytest.approx(values.std(ddof=1) / math.sqrt(N))
    assert ppvae.summarise(found.sel(family="low-rank"), "family_gain").mean > 0
    with pytest.raises(PpvaeError, match=r"choose one of each with \.sel\(family=…\)"):
        ppvae.summarise(found, "family_gain")
    with pytest.raises(PpvaeError, match="did you mean 'amortization_gap'"):
        ppvae.summarise(found, "amortisation_gap")


REFUSED: dict[str, dict[str, Any]] = {
    "num_samples": {"num_samples": 1},
    "seed": {"seed": -1},
    "lr": {"lr": 0},
    "particles": {"particles": 0},
    "did you mean 'iaf'": {"families": ["iaff"]},
    "families must be a list": {"families": "iaf"},
    "did you mean 'rank'": {"families": {"low-rank": {"rnk": 2}}},
    "rank must be": {"families": {"low-rank": {"rank": 0}}},
    "unknown method": {"method": "imp"},
    "options are for a method": {"options": {"widen": 1.2}},
    "x must be a tensor [B, 6]": {"x": torch.zeros(3, 5)},
    "NaN": {"x": torch.full((3, D), math.nan)},
    "index must hold 3": {"x": torch.zeros(3, D), "index": torch.arange(2)},
}


@pytest.mark.parametrize("named", REFUSED)
def test_bad_arguments_are_refused_in_one_line(named: str) -> None:
    arguments: dict[str, Any] = {"x": cloud(3), "max_steps": 2, "num_samples": 5, **REFUSED[named]}
    fit = linear(family="mean-field")
    with pytest.raises(PpvaeError) as caught:
        ppvae.gaps(fit, **arguments)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_a_fit_has_gaps() -> None:
    with pytest.raises(PpvaeError, match="pair must be"):
        ppvae.gaps(PPCA(3, 1), cloud())  # type: ignore[arg-type]
