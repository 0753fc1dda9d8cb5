"""A guide must have a density wherever the model's latents have one."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import transforms
from torch import Tensor

import ppvae
from ppvae.pair.coverage import uncovered

Make = Callable[[], Any]
INF = float("inf")
THREE, FIRST_TWO = torch.ones(3), torch.tensor([1.0, 1.0, 0.0])


class OneSite:
    """A model of one latent and its guide, both without parameters."""

    def __init__(self, prior: Make, guide: Make) -> None:
        self.prior, self.q = prior, guide

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.prior().expand([len(x)]))
            pyro.sample("x", dist.Normal(torch.zeros_like(x), 1.0).to_event(1), obs=x)

    def __call__(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.q().expand([len(x)]))

    def select(self, index: Tensor) -> "OneSite":
        return self

    def converted(self, model: ppvae.Model, dtype: torch.dtype) -> "OneSite":
        return self


def fault(prior: Make, guide: Make) -> str:
    pair = OneSite(prior, guide)
    return str(uncovered(pair.model, pair, torch.randn(7, 3)))


def normal() -> Any:
    return dist.Normal(0.0, 1.0)


def through(transform: Any, base: Make = normal) -> Make:
    return lambda: dist.TransformedDistribution(base(), [transform])


@pytest.mark.parametrize(
    ("prior", "guide"),
    [
        (normal, normal),
        (lambda: dist.LogNormal(0.0, 1.0), lambda: dist.Gamma(1.0, 1.0)),
        (lambda: dist.Beta(1.0, 1.0), through(transforms.SigmoidTransform())),
        (lambda: dist.Uniform(0.0, 1.0), normal),
        (lambda: dist.Dirichlet(torch.ones(3)), lambda: dist.Dirichlet(torch.ones(3))),
        (lambda: dist.VonMises(0.0, 1.0), lambda: dist.VonMises(1.0, 3.0)),
        (lambda: dist.Poisson(3.0), lambda: dist.Geometric(0.3)),
        (lambda: dist.Categorical(THREE), lambda: dist.Categorical(torch.tensor([0.98, 0.01, 0.01]))),
        (lambda: dist.Categorical(FIRST_TWO), lambda: dist.Categorical(FIRST_TWO)),
    ],
)  # fmt: skip
def test_a_guide_that_covers_the_prior(prior: Make, guide: Make) -> None:
    assert fault(prior, guide) == "None"


@pytest.mark.parametrize(
    ("prior", "guide", "words"),
    [
        (normal, lambda: dist.Delta(torch.tensor(0.0)), "has a point mass"),
        (normal, lambda: dist.Uniform(-0.4, 0.4), "its Uniform in the guide has no density"),
        (normal, lambda: dist.LogNormal(0.0, 1.0), "its LogNormal in the guide has no density"),
        (normal, through(transforms.AffineTransform(0.0, 2.0), lambda: dist.Uniform(0.0, 1.0)), "has no density"),
        (normal, through(transforms.SigmoidTransform()), "has no density"),
        (lambda: dist.Categorical(THREE), lambda: dist.Categorical(torch.ones(2)), "never takes"),
        (lambda: dist.Categorical(THREE), lambda: dist.Categorical(FIRST_TWO), "never takes"),
        (lambda: dist.Categorical(THREE), lambda: dist.Categorical(logits=FIRST_TWO.log()), "never takes"),
        (lambda: dist.Bernoulli(0.3), lambda: dist.Bernoulli(logits=torch.tensor(-INF)), "never takes"),
        (lambda: dist.Poisson(3.0), lambda: dist.Binomial(5, torch.tensor(0.3)), "never takes"),
        (lambda: dist.VonMises(0.0, 1.0), normal, "is not periodic"),
        (lambda: dist.VonMises(0.0, 1.0), lambda: dist.Uniform(-1.0, 1.0), "has no density"),
    ],
)  # fmt: skip
def test_a_guide_that_does_not(prior: Make, guide: Make, words: str) -> None:
    message = fault(prior, guide)
    assert message.startswith("latent 'z'")
    assert words in message
