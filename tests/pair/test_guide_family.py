"""The default family: a mean field by bijection, its densities by hand, its start at the prior's moments."""

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from checks import refusal
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import biject_to

import ppvae
from ppvae import Posterior, PpvaeError, log_densities
from ppvae.pair.guide_family import set_family

B = 6


class Latent(ppvae.Model):
    """One or more latents from `story`, and x [B] that only looks on."""

    def __init__(self, story: Callable[[], object]) -> None:
        super().__init__()
        self.story = story

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            self.story()
            pyro.sample("x", dist.Normal(x.new_zeros(()), 1.0), obs=x)


def site(fn: dist.TorchDistribution, name: str = "z") -> Callable[[], Tensor]:
    return lambda: pyro.sample(name, fn)


def prepared(story: Callable[[], object]) -> ppvae.Model:
    return set_family(Latent(story), torch.zeros(B))


def shaken(model: ppvae.Model) -> Posterior:
    """A φ of its own for every datum, in float64."""
    torch.manual_seed(83)
    layout = model.layout()
    rows = layout.start.double() + 0.3 * torch.randn(B, layout.width, dtype=torch.float64)
    return Posterior(model, layout.unpack(rows))


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


SUPPORTS: dict[str, tuple[dist.TorchDistribution, constraints.Constraint]] = {
    "real": (dist.Normal(double(1, 2, 3), 1.0).to_event(1), constraints.real_vector),
    "positive": (dist.Gamma(double(2, 3), 1.0).to_event(1), constraints.positive),
    "interval": (dist.Uniform(double(-1, 0), double(2, 5)).to_event(1), constraints.interval(-1, 5)),
    "simplex": (dist.Dirichlet(double(1, 2, 3)), constraints.simplex),
    "two simplices": (dist.Dirichlet(torch.ones(2, 3).double()).to_event(1), constraints.simplex),
}


@pytest.mark.parametrize("support", SUPPORTS)
def test_draws_lie_in_the_support(support: str) -> None:
    prior, constraint = SUPPORTS[support]
    model = prepared(site(prior))
    z = log_densities(model, shaken(model), double(*[0] * B), 50).values["z"]
    assert z.shape == (50, B, *prior.event_shape)
    assert bool(constraint.check(z).all())
    assert bool(prior.log_prob(z).isfinite().all())


@pytest.mark.parametrize("support", ["positive", "interval"])
def test_log_q_of_a_bijected_site_by_hand(support: str) -> None:
    """log q(z) = log Normal(r; loc, scale) − log |dz/dr| at r = T⁻¹(z), summed over the event."""
    model = prepared(site(SUPPORTS[support][0]))
    posterior = shaken(model)
    d = log_densities(model, posterior, double(*[0] * B), 7)
    z = d.values["z"]
    if support == "positive":
        raw, log_slope = z.log(), z.log()
    else:
        low, high = double(-1, 0), double(2, 5)
        share = (z - low) / (high - low)
        raw, log_slope = share.logit(), ((high - low) * share * (1 - share)).log()
    normal = -0.5 * ((raw - posterior.phi["z_loc"]) / posterior.phi["z_scale"]) ** 2 - posterior.phi["z_scale"].log()
    torch.testing.assert_close(d.log_q, (normal - 0.5 * math.log(2 * math.pi) - log_slope).sum(-1))


def test_log_q_of_a_simplex_by_hand() -> None:
    """log q(z) over the first K − 1 coordinates, with the Jacobian of stick breaking by autograd."""
    model = prepared(site(SUPPORTS["simplex"][0]))
    posterior = shaken(model)
    d = log_densities(model, posterior, double(*[0] * B))
    transform = biject_to(constraints.simplex)
    for i in range(B):
        raw = transform.inv(d.values["z"][0, i])
        jacobian = torch.autograd.functional.jacobian(lambda r: transform(r)[:-1], raw)
        loc, scale = (posterior.phi[f"z_{name}"][i] for name in ("loc", "scale"))
        expected = torch.distributions.Normal(loc, scale).log_prob(raw).sum() - torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(d.log_q[0, i], expected)


FOUR = torch.tensor(4.0)
MOMENTS: dict[str, tuple[dist.TorchDistribution, float, float]] = {
    "normal": (dist.Normal(2.0, 3.0), 2.0, 3.0),
    "lognormal": (dist.LogNormal(-1.0, 0.5), -1.0, 0.5),
    "gamma": (dist.Gamma(4.0, 2.0), FOUR.digamma().item() - math.log(2), FOUR.polygamma(1).sqrt().item()),
    "uniform": (dist.Uniform(-1.0, 2.0), 0.0, math.pi / math.sqrt(3)),  # the logit of a uniform is logistic
}


@pytest.mark.parametrize("prior", MOMENTS)
def test_family_starts_at_the_priors_moments(prior: str) -> None:
    """Mean and standard deviation of the unconstrained prior, from 1,000 draws.

    The error of a standard deviation is σ √((κ − 1)/4n), and κ ≤ 4.2 for all of these. z = 4.5 over 2 × 4
    comparisons: false alarms < 6e-5.
    """
    fn, mean, std = MOMENTS[prior]
    phi = prepared(site(fn)).phi
    assert abs(phi["z_loc"].start - mean) < 4.5 * std / math.sqrt(1000)
    assert abs(phi["z_scale"].start - std) < 4.5 * std * math.sqrt(3.2 / 4000)


def test_family_at_its_start_is_the_prior_where_that_is_normal_in_raw_space() -> None:
    """q of a LogNormal prior starts as that prior but for the error of moments of n = 1,000 draws.

    2n · KL follows χ² with 2 degrees of freedom, so KL < 20/n but for a chance of e⁻²⁰.
    """
    model = prepared(site(dist.LogNormal(-1.0, 0.5)))
    loc, scale = (model.phi[f"z_{name}"].start for name in ("loc", "scale"))
    q, p = torch.distributions.Normal(loc, scale), torch.distributions.Normal(-1.0, 0.5)
    assert torch.distributions.kl_divergence(q, p) < 20 / 1000


def test_sites_follow_the_models_order_and_marked_ones_are_left_out() -> None:
    """Two latents of which one conditions the other, and a discrete one that the model sums out."""

    def story() -> None:
        k = pyro.sample("k", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})
        b = pyro.sample("b", dist.Gamma(2.0, 1.0))
        pyro.sample("a", dist.Normal(b + k, 1.0))

    model = prepared(story)
    assert list(model.phi) == ["b_loc", "b_scale", "a_loc", "a_scale"]
    densities = log_densities(model, shaken(model), double(*[0] * B), 3)
    assert list(densities.site_log_q) == ["b", "a"]
    assert densities.log_ratio.shape == (3, B)


def test_building_the_family_leaves_the_random_state_alone() -> None:
    state = torch.get_rng_state()
    prepared(site(dist.Normal(0.0, 1.0)))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "prior", [dist.Poisson(3.0), dist.Bernoulli(0.3), dist.Categorical(torch.ones(3))], ids=["count", "bit", "label"]
)
def test_a_discrete_latent_needs_a_guide(prior: dist.TorchDistribution) -> None:
    message = refusal(lambda: prepared(site(prior)))
    assert "'z'" in message
    assert "give a guide" in message


def bounded_by_another() -> None:
    top = pyro.sample("top", dist.Gamma(2.0, 1.0))
    pyro.sample("z", dist.Uniform(torch.zeros_like(top), top))


@pytest.mark.parametrize("story", [bounded_by_another, site(dist.Pareto(1.0, 3.0))], ids=["another latent", "pareto"])
def test_a_support_that_comes_with_the_batch_needs_a_guide(story: Callable[[], object]) -> None:
    """Where the support holds a tensor of the batch that was traced, no fixed bijection exists."""
    message = refusal(lambda: prepared(story))
    assert "'z'" in message
    assert "give a guide" in message


def test_a_latent_outside_the_plate_is_refused_by_name() -> None:
    class Global(ppvae.Model):
        def model(self, x: Tensor) -> None:
            pyro.sample("z", dist.Normal(0.0, 1.0))
            site(dist.Normal(0.0, 1.0), "w")()

    with pytest.raises(PpvaeError, match=r"^latent 'z' is not local"):
        set_family(Global(), torch.zeros(B))


def test_phi_without_a_guide_is_refused() -> None:
    model = Latent(site(dist.Normal(0.0, 1.0)))
    model.phi = {"loc": ppvae.Local(torch.zeros(()))}
    with pytest.raises(PpvaeError, match=r"^Latent declares phi and no guide"):
        set_family(model, torch.zeros(B))
