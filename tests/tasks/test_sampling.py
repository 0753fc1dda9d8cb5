"""Samples of a model against its exact moments; reconstructions; seeds, shapes and refusals."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import ppvae
from ppvae import PpvaeError
from ppvae.models import GMM, PPCA, VAE
from ppvae.pair.drawing import Samples
from ppvae.tasks.reconstruction import reconstruct
from ppvae.tasks.sampling import sample


def trained(model: ppvae.Model, x: Tensor, inference: str = "amortized", **options: Any) -> ppvae.Fit:
    kind = ("bernoulli", "binary") if bool(((x == 0) | (x == 1)).all()) else ("gaussian", "real")
    data = ppvae.Data("given", x, x[:4], x[:4], *kind)
    return ppvae.fit(model, data, inference, **{"epochs": 1, "progress": False, **options})


def real(count: int = 60, *event: int, seed: int = 3) -> Tensor:
    return torch.randn(count, *(event or (3,)), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def ppca() -> ppvae.Fit:
    """A linear model with parameters of order one, and its own posterior."""
    torch.manual_seed(5)
    fit = trained(PPCA(3, 2), real(), "exact")
    with torch.no_grad():
        for p in fit.model.parameters():
            p.copy_(torch.randn_like(p))
    return fit


@pytest.fixture(scope="module")
def gmm() -> ppvae.Fit:
    """Three components, of unequal weights, apart."""
    torch.manual_seed(7)
    fit = trained(GMM(2, 3), real(60, 2), "exact")
    with torch.no_grad():
        model = cast(GMM, fit.model)
        model.logits.copy_(torch.tensor([0.5, 0.3, 0.2]).log())
        model.raw_loc.copy_(torch.tensor([[-6.0, 0.0], [0.0, 5.0], [6.0, -2.0]]))
    return fit


def assert_mean(draws: Tensor, expected: Tensor) -> None:
    """The mean of independent draws [n, ...] within 4.5 of its standard errors: false alarms < 1e-5 a number."""
    z = (draws.double().mean(0) - expected) / (draws.double().std(0) / math.sqrt(len(draws)))
    assert (z.abs() < 4.5).all(), z


def test_samples_have_the_moments_of_a_linear_gaussian(ppca: ppvae.Fit) -> None:
    """x: mean b, covariance WWᵀ + σ²I; p(x | z) has mean Wz + b."""
    model = cast(PPCA, ppca.model)
    drawn = sample(ppca, 20_000)
    bias = model.mean().detach()
    covariance = (model.loadings() @ model.loadings().mT + model.noise_scale().square() * torch.eye(3)).detach()
    assert_mean(drawn.x, bias)
    centred = drawn.x - bias
    assert_mean(centred.unsqueeze(-1) * centred.unsqueeze(-2), covariance)
    assert_mean(drawn.latents["z"], torch.zeros(2))
    torch.testing.assert_close(drawn.mean, (drawn.latents["z"] @ model.loadings().mT + model.mean()).detach())


@pytest.mark.parametrize("assignment", ["categorical", "summed"])
def test_samples_have_the_moments_of_a_mixture(gmm: ppvae.Fit, assignment: str) -> None:
    """An enumerated latent is drawn like any other: k by its weights, x with mean Σ π μ and its second moments."""
    model = cast(GMM, gmm.model)
    if assignment == "summed":
        other = GMM(2, 3, assignment="summed")
        fit = trained(other, real(60, 2), "exact")
        fit.model.load_state_dict(model.state_dict())
    else:
        fit = gmm
    drawn = sample(fit, 20_000)
    parts = cast(dist.Independent, model.components())
    loc, variance = parts.mean.detach(), parts.variance.detach()
    weights = model.logits.detach().softmax(-1)
    k = drawn.latents["k"]
    assert k.shape == (20_000,)
    assert_mean(torch.nn.functional.one_hot(k, 3), weights)
    assert_mean(drawn.x, weights @ loc)
    assert_mean(drawn.x.square(), weights @ (variance + loc.square()))
    torch.testing.assert_close(drawn.mean, loc[k])


def test_samples_take_the_shape_and_the_values_of_the_data() -> None:
    """A model of flattened pictures gives pictures: x of zeros and ones, the mean in between."""
    fit = trained(VAE(20, 2, hidden=(8,)), torch.bernoulli(torch.full((30, 4, 5), 0.4)))
    drawn = sample(fit, 7)
    assert drawn.x.shape == drawn.mean.shape == (7, 4, 5)
    assert drawn.latents["z"].shape == (7, 2)
    assert set(drawn.x.unique().tolist()) == {0.0, 1.0}
    assert ((drawn.mean > 0) & (drawn.mean < 1)).all()
    assert len(sample(fit).x) == 64


def same(one: Samples, other: Samples) -> bool:
    return (
        torch.equal(one.x, other.x)
        and torch.equal(one.mean, other.mean)
        and one.latents.keys() == other.latents.keys()
        and all(torch.equal(value, other.latents[name]) for name, value in one.latents.items())
    )


def cut(drawn: Samples, size: int) -> Samples:
    return Samples(drawn.x[:size], drawn.mean[:size], {name: value[:size] for name, value in drawn.latents.items()})


@pytest.mark.parametrize("size", [1, 99, 100, 101, 230])
def test_those_that_follow_change_nothing(ppca: ppvae.Fit, size: int) -> None:
    """The first samples of many are the samples of few, and no two are alike; so are reconstructions."""
    many = sample(ppca, 250)
    assert same(sample(ppca, size), cut(many, size))
    assert len(many.x.unique(dim=0)) == 250
    x = real(250)
    whole = reconstruct(ppca, x)
    part = reconstruct(ppca, x[:size])
    torch.testing.assert_close(part.x, whole.x[:size], rtol=1e-5, atol=1e-5)


def test_seeds_decide_the_draws(gmm: ppvae.Fit) -> None:
    x = real(5, 2)
    for draw in (lambda seed: sample(gmm, 5, seed=seed), lambda seed: reconstruct(gmm, x, seed=seed)):
        assert same(draw(1), draw(1))
        assert (draw(1).x != draw(2).x).all()


def test_the_world_is_left_alone(
    ppca: ppvae.Fit, gmm: ppvae.Fit, untouched: Callable[..., AbstractContextManager[None]]
) -> None:
    for fit in (ppca, gmm):
        with untouched(fit.model, fit.strategy):
            drawn = sample(fit, 3)
            reconstruct(fit, drawn.x)
        assert not drawn.mean.requires_grad


def test_reconstructions_are_drawn_from_the_posterior(ppca: ppvae.Fit) -> None:
    """One datum, 20,000 times: z has the mean and covariance of p(z | x)."""
    x = real(1).expand(20_000, -1)
    z = reconstruct(ppca, x).latents["z"]
    phi = ppca.model.exact_phi(x[:1])
    loc, tril = phi["loc"][0].detach(), phi["scale_tril"][0].detach()
    assert_mean(z, loc)
    assert_mean((z - loc).unsqueeze(-1) * (z - loc).unsqueeze(-2), tril @ tril.mT)


@pytest.mark.parametrize("inference", ["amortized", "per-datapoint"])
def test_reconstructions_are_nearer_than_chance(inference: str) -> None:
    """The digits of a trained VAE: nearer to their own x than to another's, and rows by index to theirs."""
    torch.manual_seed(11)
    digits = ppvae.load_data("digits", num_train=300)
    fit = ppvae.fit(VAE(64, 6, hidden=(50,)), digits, inference, lr=0.01, epochs=30, progress=False)
    cases: list[tuple[Tensor, Tensor | None]] = [(digits.test[:40], None)]
    if inference == "per-datapoint":
        cases.append((digits.train[:40], torch.arange(40)))
    for x, where in cases:
        mean = reconstruct(fit, x, where).mean
        own = (mean - x).square().sum(-1).mean()
        others = (mean.roll(7, 0) - x).square().sum(-1).mean()
        assert own < 0.8 * others


def test_a_latent_that_is_summed_out_is_drawn_given_x(gmm: ppvae.Fit) -> None:
    """Without q(k), k comes from p(k | x): over 20,000 draws of a datum between components, its responsibilities."""
    fit = trained(GMM(2, 3, assignment="summed"), real(60, 2), "exact")
    fit.model.load_state_dict(gmm.model.state_dict())
    x = torch.tensor([[-2.9, 2.6]]).expand(20_000, -1)
    expected = cast(GMM, gmm.model).responsibilities(x[:1])[0].detach()
    assert (expected > 1e-3).sum() >= 2  # or it would show nothing
    k = torch.nn.functional.one_hot(reconstruct(fit, x).latents["k"], 3)
    assert_mean(k[:, expected > 1e-3], expected[expected > 1e-3])


class Written(ppvae.Model):
    """z ~ Normal(0, 1), then whatever a test observes."""

    def __init__(self, observe: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.observe = observe

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            self.observe(z, x)


def cauchy(z: Tensor, x: Tensor) -> None:
    pyro.sample("x", dist.Cauchy(z.unsqueeze(-1).expand(*z.shape, 3), 1.0).to_event(1), obs=x)


def logistic(z: Tensor, x: Tensor) -> None:
    normal = dist.Normal(z.unsqueeze(-1).expand(*z.shape, 3), 1.0)
    pyro.sample("x", dist.TransformedDistribution(normal, [dist.transforms.SigmoidTransform()]).to_event(1), obs=x)


@pytest.mark.parametrize("observe", [cauchy, logistic])
def test_without_a_mean_a_picture_shows_the_draw(observe: Callable[[Tensor, Tensor], object]) -> None:
    """A Cauchy has none, and of a transformed Gaussian nobody knows it."""
    drawn = sample(trained(Written(observe), real().sigmoid()), 5)
    assert drawn.x.isfinite().all()
    assert torch.equal(drawn.mean, drawn.x)


def two(z: Tensor, x: Tensor) -> None:
    pyro.sample("left", dist.Normal(z, 1.0), obs=x[:, 0])
    pyro.sample("right", dist.Normal(z, 1.0), obs=x[:, 1])


def half(z: Tensor, x: Tensor) -> None:
    pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


@pytest.mark.parametrize(("observe", "size"), [(two, 2), (half, 1)])
def test_numbers_of_x_that_no_site_observes(observe: Callable[[Tensor, Tensor], object], size: int) -> None:
    """They have no distribution to draw from, and are kept where data are given."""
    fit = trained(Written(observe), real())
    with pytest.raises(PpvaeError, match=f"observes {size} of the 3 numbers"):
        sample(fit, 5)
    assert torch.equal(reconstruct(fit, real(5)).x[:, size:], real(5)[:, size:])


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda fit: sample(fit, 0), "num_samples"),
        (lambda fit: sample(fit, 5, seed=-1), "seed"),
        (lambda fit: sample(fit.model, 5), "pair must be"),
        (lambda fit: reconstruct(fit, real(5), seed=-1), "seed"),
        (lambda fit: reconstruct(fit, real(5, 4)), "x must be"),
        (lambda fit: reconstruct(fit, real(5), torch.arange(4)), "index must hold 5"),
        (lambda fit: reconstruct(fit.strategy, real(5)), "pair must be"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(ppca: ppvae.Fit, call: Callable[[Any], object], named: str) -> None:
    with pytest.raises(PpvaeError, match=named) as caught:
        call(ppca)
    assert "\n" not in str(caught.value)
