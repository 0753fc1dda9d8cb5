"""What is drawn from: the prior, the uniform distribution, and q widened, with heavier tails or defended."""

import itertools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import MARK, Coins, Curve, Labelled, Switched, X, by_quadrature, fitted
from scipy import stats
from torch import Tensor
from torch.distributions import MultivariateNormal, constraints

import ppvae
from ppvae import Local, PpvaeError
from ppvae.blocks import Block
from ppvae.catalogue import FAMILIES
from ppvae.distributions.student_t import StudentT
from ppvae.evidence.defended import Defended
from ppvae.evidence.methods.prior import Prior
from ppvae.evidence.methods.uniform import uniform
from ppvae.evidence.problem import Problem
from ppvae.evidence.widening import Widened
from ppvae.models import VAE
from ppvae.pair.densities import score
from ppvae.pair.family import LocalSite
from ppvae.pair.local import Layout, Phi
from ppvae.pair.posterior import Posterior
from ppvae.pair.prior import PriorGuide
from ppvae.pair.sites import draw

B, S = 3, 50
VECTOR = constraints.independent(constraints.real, 1)
Options = dict[str, Any]


def site(name: str, support: Any, *raw: int) -> LocalSite:
    event = len(raw) + (support is constraints.simplex)
    zeros = torch.zeros(raw, dtype=torch.float64)
    return LocalSite(name, support, min(event, 1), zeros, zeros + 1)


class Family:
    """A family at some φ of B data, as a guide."""

    def __init__(self, name: Any, sites: list[LocalSite]) -> None:
        self.family = FAMILIES[name](sites)
        layout = Layout(self.family.phi)
        torch.manual_seed(3)
        self.phi = layout.unpack(layout.start.repeat(B, 1) + 0.5 * torch.randn(B, layout.width, dtype=torch.float64))
        net = self.family.net
        if net is not None:
            net.double()

    def __call__(self, x: Tensor) -> None:
        self.family(x, self.phi)

    def select(self, index: Tensor) -> "Family":
        raise NotImplementedError

    def converted(self, model: ppvae.Model, dtype: torch.dtype) -> "Family":
        raise NotImplementedError


def densities(guide: Any, values: dict[str, Tensor] | None = None) -> tuple[dict[str, Tensor], Tensor]:
    """Draws [S, B, *event], or those given, and their log density [S, B]."""
    torch.manual_seed(5)
    with torch.no_grad():
        draws = draw(guide, torch.zeros(B, 1, dtype=torch.float64), S, values)
        log_q = torch.stack([site.log_prob.expand(S, B) for site in draws.sites.values()]).sum(0)
    return draws.raw_values, log_q


def multivariate_t(loc: np.ndarray, scale: np.ndarray, df: float, z: Any) -> np.ndarray:
    """scipy's log density of diagonal scale at z [..., D]."""
    made: Any = stats.multivariate_t
    return made(loc, np.diag(scale**2), df).logpdf(np.asarray(z))


# what a widened density is


@pytest.mark.parametrize("name", ["mean-field", "full-covariance", "low-rank"])
def test_a_widened_gaussian_is_gaussian_with_wider_scales(name: str) -> None:
    """A chain of conditionals, each 1.7 times as wide, is the joint Normal(loc, 1.7² Σ)."""
    guide = Family(name, [site("a", VECTOR, 2), site("b", constraints.real), site("c", VECTOR, 3)])
    phi = guide.phi
    if name == "mean-field":
        loc = torch.cat([phi["a_loc"], phi["b_loc"][:, None], phi["c_loc"]], -1)
        scale = torch.cat([phi["a_scale"], phi["b_scale"][:, None], phi["c_scale"]], -1)
        covariance = torch.diag_embed(scale.square())
    elif name == "full-covariance":
        loc, covariance = phi["loc"], phi["scale_tril"] @ phi["scale_tril"].mT
    else:
        loc = phi["loc"]
        covariance = phi["factor"] @ phi["factor"].mT + torch.diag_embed(phi["scale"].square())
    values, log_q = densities(Widened(guide, 1.7))
    z = torch.cat([values["a"], values["b"][..., None], values["c"]], -1)
    expected = MultivariateNormal(loc, 1.7**2 * covariance).log_prob(z)
    torch.testing.assert_close(log_q, expected, rtol=0, atol=1e-9)


def test_a_widened_mixture_has_wider_components() -> None:
    """Σ_c π_c Normal(loc_c, (1.7 scale_c)²), or Student t's."""
    guide = Family("mixture", [site("a", VECTOR, 2)])
    logits, locs, scales = guide.phi["logits"], guide.phi["locs"], 1.7 * guide.phi["scales"]
    for tails in (None, 4.0):
        values, log_q = densities(Widened(guide, 1.7, tails))
        at = values["a"].unsqueeze(-2)
        parts = dist.Normal(locs, scales).log_prob(at).sum(-1)
        if tails:
            parts = torch.tensor(
                [
                    [
                        [multivariate_t(m, s, 4, z) for m, s in zip(*row, strict=True)]
                        for z, *row in zip(values["a"][k].numpy(), locs.numpy(), scales.numpy(), strict=True)
                    ]
                    for k in range(S)
                ]
            )
        torch.testing.assert_close(log_q, (logits.log_softmax(-1) + parts).logsumexp(-1), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["iaf", "spline"])
@pytest.mark.parametrize("tails", [None, 4.0])
def test_a_widened_flow_starts_from_wider_noise(name: str, tails: float | None) -> None:
    """log q̃(z) = log q(z) − log Normal(ε; 0, 1) + log r(ε), ε the noise that the flow makes z of."""
    guide = Family(name, [site("a", VECTOR, 2)])
    values, log_wide = densities(Widened(guide, 1.7, tails))
    _, log_q = densities(guide, values)
    noise_of = guide.family.net[0](guide.phi["a_context"]).transform
    with torch.no_grad():
        noise = noise_of((values["a"] - guide.phi["a_loc"]) / guide.phi["a_scale"])
    log_noise = dist.Normal(noise.new_zeros(()), 1.0).log_prob(noise).sum(-1)
    if tails is None:
        expected = dist.Normal(noise.new_zeros(()), noise.new_tensor(1.7)).log_prob(noise).sum(-1)
    else:
        expected = torch.tensor(multivariate_t(np.zeros(2), 1.7 * np.ones(2), tails, noise))
    torch.testing.assert_close(log_wide, log_q - log_noise + expected, rtol=0, atol=1e-6)
    assert noise.std() > 1.4


@pytest.mark.parametrize("tails", [None, 4.0])
def test_widening_is_in_unconstrained_space(tails: float | None) -> None:
    """Of a positive latent log z is widened; the Jacobian stays."""
    guide = Family("mean-field", [site("a", constraints.positive)])
    values, log_q = densities(Widened(guide, 1.7, tails))
    u, loc, scale = values["a"].log(), guide.phi["a_loc"], 1.7 * guide.phi["a_scale"]
    expected = dist.Normal(loc, scale).log_prob(u) if tails is None else dist.StudentT(tails, loc, scale).log_prob(u)
    torch.testing.assert_close(log_q, expected - u, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"ladder"}))
@pytest.mark.parametrize("tails", [None, 4.0])
def test_a_widened_density_integrates_to_one(name: Any, tails: float | None) -> None:
    """E q/q̃ = 1 over draws of q̃, over sites of four supports and shapes.

    Weights are at most 1.5^D. z = 4.5 over 6 × 2 × 3: false alarms < 3e-4.
    """
    sites = [site("a", VECTOR, 2), site("b", constraints.positive), site("c", constraints.simplex, 2)]
    guide = Family(name, sites)
    wide = Widened(guide, 1.5, tails)
    torch.manual_seed(7)
    x = torch.zeros(B, 1, dtype=torch.float64)
    with torch.no_grad():
        draws = draw(wide, x, 8000)
        log_wide = torch.stack([site.log_prob for site in draws.sites.values()]).sum(0)
        again = draw(guide, x, 8000, draws.raw_values)
        ratio = (torch.stack([site.log_prob for site in again.sites.values()]).sum(0) - log_wide).exp()
    assert ((ratio.mean(0) - 1).abs() < 4.5 * ratio.std(0) / math.sqrt(8000)).all()
    assert (ratio.std(0) > 0.3).all()


def test_one_chi_square_serves_the_whole_event() -> None:
    """|z|² / D of a multivariate t is F(D, df)."""
    torch.manual_seed(13)
    z = StudentT(5.0, torch.zeros(6), torch.ones(6), 1).sample(torch.Size([4000]))
    assert stats.kstest((z.square().sum(-1) / 6).numpy(), stats.f(6, 5).cdf).pvalue > 1e-4


def test_discrete_sites_stay_as_they_are() -> None:
    """Of a guide that enumerates k, z given k is widened."""
    model = Labelled().double()
    phi = model.layout().unpack(torch.randn(B, model.layout().width, dtype=torch.float64))
    guide = Posterior(model, phi)
    plain, wide = (draw(g, X, S) for g in (guide, Widened(guide, 2.0)))
    torch.testing.assert_close(plain.sites["k"].log_prob, wide.sites["k"].log_prob)
    torch.testing.assert_close(wide.sites["z"].fn.scale, 2 * plain.sites["z"].fn.scale)
    torch.testing.assert_close(wide.sites["z"].fn.loc, plain.sites["z"].fn.loc)


# estimates


@cache
def of_family(name: str) -> tuple[ppvae.Fit, Tensor]:
    """A fit of that family, and log p(X) by a sum over a lattice."""
    torch.manual_seed(17)
    model = Curve("normal", dims=2, noise=2.0)
    grid = torch.linspace(-7, 7, 701, dtype=torch.float64)
    z = torch.cartesian_prod(grid, grid)
    log_prior = model.of_z(X).log_prob(z)
    expected = torch.stack([(log_prior + model.of_x(z).log_prob(x)).logsumexp(0) for x in X]) + 2 * math.log(0.02)
    return fitted(model, X.repeat(10, 1), family=name), expected


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    "options", [{"widen": 1.5}, {"tails": 5.0}, {"defence": 0.2}, {"widen": 1.2, "tails": 4.0, "defence": 0.1}]
)
def test_importance_sampling_is_right_with_every_option(name: str, options: Options) -> None:
    """p̂/p − 1 is 0 within its standard error for every family; z = 4.5 over 7 × 4 × 3: false alarms < 6e-4."""
    fit, expected = of_family(name)
    found = ppvae.log_marginal(fit, X, num_samples=1000, options=options)
    off = (np.exp(found.log_marginal - expected.numpy()) - 1) / found.log_marginal_se
    assert (np.abs(off) < 4.5).all()
    assert (found.log_marginal_se < 0.3).all()


@pytest.mark.parametrize("options", [{"widen": 1.5}, {"tails": 5.0}, {"defence": 0.2}])
@pytest.mark.parametrize("how", ["enumerated", "summed", "drawn"])
def test_options_leave_discrete_pairs_right(how: Any, options: Options) -> None:
    """Exact where all values are enumerated; else p̂/p − 1 within z = 4.5 over 3 × 3: false alarms < 7e-5."""
    fit = fitted(Coins(how), X.repeat(10, 1), **({"gradient": "score"} if how == "drawn" else {}))
    found = ppvae.log_marginal(fit, X, num_samples=1000, options=options)
    assert isinstance(fit.model, Coins)
    off = np.exp(found.log_marginal - fit.model.truth(X).detach().numpy()) - 1
    assert (np.abs(off) <= 4.5 * found.log_marginal_se.fillna(0) + 1e-9).all()
    assert (found.log_marginal_se.fillna(0) > 1e-6).any() == (how == "drawn")


@pytest.mark.parametrize("options", [{"widen": 1.5}, {"tails": 5.0}])
def test_an_enumerated_guide_that_draws_besides_may_be_widened(options: Options) -> None:
    """Σ_k q(k) p/q̃ stays unbiased; z = 4.5 over 2 × 3: false alarms < 5e-5."""
    fit = fitted(Labelled(), X.repeat(10, 1))
    found = ppvae.log_marginal(fit, X, num_samples=5000, options=options)
    off = (np.exp(found.log_marginal - Labelled().truth(X).numpy()) - 1) / found.log_marginal_se
    assert (np.abs(off) < 4.5).all()


class Narrow(Curve):
    """`Curve` with a family far too narrow, and off."""

    def __init__(self) -> None:
        super().__init__("normal", noise=1.0)
        self.phi = {"loc": Local(torch.zeros(1))}

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(phi["loc"] + 0.5, 0.05).to_event(1))


def test_defence_bounds_the_weights() -> None:
    """w ≤ max p(x | z)/a, which without is exceeded a thousandfold; w is p(x, z) over the mixture's density.

    The share of draws from the prior is a within 4.5 of its standard errors, and p̂/p − 1 is 0 within 4.5 of its own,
    over 1 + 3: false alarms < 3e-5.
    """
    model, a = Narrow().double(), 0.2
    x = X
    guide = Posterior(model, {"loc": torch.zeros(3, 1, dtype=torch.float64)})
    defended = Defended(model, guide, a, x)
    torch.manual_seed(19)
    with torch.no_grad():
        drawn = defended.draws(guide, x, 4000)
        weight = defended.weighed(score(model.model, x, drawn), 4000, 3).log_weight
    z = drawn.raw_values["z"]
    log_q = dist.Normal(torch.tensor(0.5).double(), 0.05).log_prob(z).sum(-1)
    log_prior = model.of_z(x).log_prob(z)
    mixture = torch.logaddexp(math.log(a) + log_prior, math.log(1 - a) + log_q)
    torch.testing.assert_close(weight, log_prior + model.of_x(z).log_prob(x) - mixture)
    bound = 3 * dist.Normal(torch.zeros(()).double(), 1.0).log_prob(torch.zeros(()).double())
    assert (weight <= bound - math.log(a) + 1e-9).all()
    assert weight.exp().max() > 0.01 * (bound.exp() / a)  # the bound is of the right order
    outside = (z.squeeze(-1) - 0.5).abs() > 0.5
    share = outside.double().mean() / (1 - stats.norm.cdf(1) + stats.norm.cdf(0))
    assert abs(share - a) < 4.5 * math.sqrt(a / outside.numel() / 0.6)
    expected = by_quadrature(model, x, (-12.0, 12.0))
    ratio = (weight - expected).exp()
    assert ((ratio.mean(0) - 1).abs() < 4.5 * ratio.std(0) / math.sqrt(len(ratio))).all()


def test_defence_beside_an_enumerated_site_is_refused() -> None:
    fit = fitted(Labelled(), X.repeat(10, 1))
    with pytest.raises(PpvaeError, match="the guide enumerates 'k'") as caught:
        ppvae.log_marginal(fit, X, options={"defence": 0.1})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["prior", "uniform"])
@pytest.mark.parametrize("model", [Switched, lambda: Curve("beta", noise=1.0), lambda: Curve("uniform", noise=1.0)])
def test_naive_monte_carlo_is_right(method: str, model: Callable[[], Any]) -> None:
    """p̂/p − 1 is 0 within its standard error; z = 4.5 over 2 × 3 × 3: false alarms < 2e-4."""
    made = model()
    ends = (-1.0, 2.0) if getattr(made, "prior", "") == "uniform" else (0.0, 1.0)
    found = ppvae.log_marginal(fitted(made, X.repeat(10, 1)), X, num_samples=8000, method=method)
    off = (np.exp(found.log_marginal - by_quadrature(made, X, ends).numpy()) - 1) / found.log_marginal_se
    assert (np.abs(off) < 4.5).all()
    assert (found.log_marginal_se < 0.2).all()


def test_draws_of_the_story_are_from_the_prior() -> None:
    """Each draw its own, of latents further down too; one Kolmogorov-Smirnov test of 6,000 at p > 1e-4.

    What is marked is not among the draws that are scored, and nothing is observed.
    """
    model = Labelled().double()
    torch.manual_seed(23)
    values = draw(PriorGuide(model, X), X, 2000).raw_values
    assert values.keys() == {"k", "z"}
    assert values["z"].shape == values["k"].shape == (2000, 3)
    standard = values["z"] - 3 * values["k"] + 1
    assert stats.kstest(standard.flatten().numpy(), stats.norm.cdf).pvalue > 1e-4
    assert abs(values["k"].mean() - 0.4) < 4.5 * math.sqrt(0.24 / 6000)
    assert Prior(model, X).draws(PriorGuide(model, X), X, 5).sites.keys() == {"z"}


def test_the_prior_needs_no_draws_where_all_is_summed_out() -> None:
    """Every weight is p(x)."""
    for how in ("summed", "enumerated"):
        fit = fitted(Coins(how), X.repeat(10, 1))
        found = ppvae.log_marginal(fit, X, num_samples=30, method="prior")
        assert (found.log_marginal_se < 1e-6).all()
        assert isinstance(fit.model, Coins)
        np.testing.assert_allclose(found.log_marginal, fit.model.truth(X).detach(), rtol=0, atol=1e-9)


class Bounded(ppvae.Model):
    """Latents of every support that has a uniform distribution."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Uniform(x.new_tensor(-1.0), 3.0))
            b = pyro.sample("b", dist.Beta(x.new_full((2,), 2.0), 3.0).to_event(1))
            c = pyro.sample("c", dist.Dirichlet(x.new_tensor([1.0, 2.0, 3.0])))
            d = pyro.sample("d", dist.Bernoulli(x.new_full((2,), 0.3)).to_event(1))
            e = pyro.sample("e", dist.Categorical(x.new_tensor([0.2, 0.3, 0.5])), infer=MARK)
            f = pyro.sample("f", dist.OneHotCategorical(x.new_tensor([0.1, 0.9])))
            total = a + b.sum(-1) + c[..., 0] + d.sum(-1) + e + f[..., 0]
            pyro.sample("x", dist.Normal(total.unsqueeze(-1) + x.new_zeros(3), 1.0).to_event(1), obs=x)


def test_uniform_draws_fill_each_support() -> None:
    """Densities are 1 over the size of the support, and draws have its mean within 4.5 of its error.

    11 comparisons: false alarms < 8e-5. Values of a marked latent are drawn too.
    """
    fit = fitted(Curve("beta"), X.repeat(10, 1))
    guide = uniform(Problem(fit, X, None, 0, 10)).guide
    assert isinstance(guide, PriorGuide)
    story = PriorGuide(Bounded(), X, guide.replace)
    torch.manual_seed(29)
    sites = draw(story, X, 3000).sites
    expected = {"a": (1.0, 4), "b": (0.5, 1), "c": (1 / 3, 0.5), "d": (0.5, 4), "e": (1.0, 3), "f": (0.5, 2)}
    assert sites.keys() == expected.keys()
    for name, (mean, size) in expected.items():
        value, log_prob = sites[name].value.double(), sites[name].log_prob
        torch.testing.assert_close(
            log_prob.exp().expand(3000, 3), torch.full((3000, 3), 1 / size).double(), rtol=1e-5, atol=0
        )
        flat = value.reshape(9000, -1)
        assert ((flat.mean(0) - mean).abs() < 4.5 * flat.std(0) / math.sqrt(9000)).all()


@pytest.mark.parametrize("prior", ["normal", "gamma", "cauchy"])
def test_there_is_no_uniform_distribution_over_what_is_unbounded(prior: Any) -> None:
    fit = fitted(Curve(prior), X.repeat(10, 1))
    with pytest.raises(
        PpvaeError, match=r"latent 'z' .* z has no uniform distribution .* use method=.prior."
    ) as caught:
        ppvae.log_marginal(fit, X, method="uniform")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("asked", [("prior", {}), ("importance", {"widen": 1.3}), ("importance", {"defence": 0.3})])
def test_estimates_over_a_whole_binary_space_sum_to_one(asked: tuple[str, Options]) -> None:
    """Σ_x p̂(x) = 1 over the 16 x in {0, 1}⁴; z = 4.5, 3 comparisons: false alarms < 3e-5."""
    torch.manual_seed(31)
    x = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)))
    data = ppvae.Data("bits", x, x, x, "bernoulli", "binary")
    model = VAE(4, 2, hidden=(8,))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)
    found = ppvae.log_marginal(ppvae.fit(model, data, steps=5), x, num_samples=4000, method=asked[0], options=asked[1])
    p = np.exp(found.log_marginal.values)
    se = math.sqrt(np.square(p * found.log_marginal_se.values).sum())
    assert abs(p.sum() - 1) < 4.5 * se
    assert se < 0.02
    assert p.max() > 4 * p.min()


# what every method owes


ASKED: list[tuple[str, Options]] = [
    ("prior", {}),
    ("uniform", {}),
    ("importance", {"widen": 1.3}),
    ("importance", {"tails": 3.0}),
    ("importance", {"defence": 0.3, "widen": 1.1}),
]


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_a_datums_numbers_are_its_own(
    asked: tuple[str, Options], untouched: Callable[..., AbstractContextManager[None]]
) -> None:
    """Chunks and data that follow change nothing, another seed all; weights and random state are left alone."""
    torch.manual_seed(37)
    x = X.repeat(40, 1) + 0.1 * torch.randn(120, 3, dtype=torch.float64)
    fit = fitted(Curve("beta", dims=2, noise=1.0), x)
    call: Any = {"method": asked[0], "options": asked[1], "num_samples": 30}
    with untouched(fit.model, fit.strategy):
        whole = ppvae.log_marginal(fit, x, **call)
    assert whole.num_draws[-1] == 30
    for other in (ppvae.log_marginal(fit, x, chunk_size=7, **call), ppvae.log_marginal(fit, x[:103], **call)):
        for name in ("log_marginal", "elbo", "ess"):
            np.testing.assert_allclose(other[name], whole[name][: other.sizes["datum"]], rtol=1e-9, err_msg=name)
    assert (ppvae.log_marginal(fit, x, seed=1, **call).log_marginal != whole.log_marginal).all()


def test_rows_of_a_block_are_drawn_whoever_else_is_wanted() -> None:
    """A part of a block has the weights that it has in the whole."""
    model = Curve("beta", dims=2)
    x = X.repeat(40, 1)
    sampler, weights = Prior(model, x), []
    for rows in (torch.arange(100), torch.tensor([3, 50])):
        torch.manual_seed(41)
        block = Block(torch.arange(100), rows, x)
        with torch.no_grad():
            weights.append(torch.cat([part.log_weight for part in sampler.weights(block, 20, 7)]))
    torch.testing.assert_close(weights[0][:, [3, 50]], weights[1])


class GammaGuide(Curve):
    """A guide that is not Gaussian."""

    def __init__(self) -> None:
        super().__init__("gamma")
        self.phi = {"rate": Local(torch.ones(1), dist.constraints.softplus_positive)}

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Gamma(2.0, phi["rate"]).to_event(1))


REFUSED: list[tuple[str, Options]] = [
    ("latent 'z' is a Gamma", {"widen": 1.2}),
    ("latent 'z' is a Gamma", {"tails": 4.0}),
    ("widen must be", {"widen": 0}),
    ("widen must be", {"widen": math.nan}),
    ("tails must be", {"tails": -1.0}),
    ("tails must be", {"tails": "heavy"}),
    ("defence must be", {"defence": -0.1}),
    ("defence must be a share below 1", {"defence": 1}),
    ("importance: unknown option 'widden'", {"widden": 1.1}),
]


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_bad_options_are_refused_in_one_line(case: tuple[str, Options]) -> None:
    fit = fitted(GammaGuide(), X.repeat(10, 1))
    with pytest.raises(PpvaeError, match=case[0]) as caught:
        ppvae.log_marginal(fit, X, num_samples=10, options=case[1])
    assert "\n" not in str(caught.value)
