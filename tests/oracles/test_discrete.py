"""Discrete latents summed out or enumerated, beside continuous ones, against sums by hand."""

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import ppvae
from ppvae import Local, Posterior, log_densities
from ppvae.pair.local import Phi
from ppvae.pair.sites import Grad
from ppvae.variational.objectives.elbo import elbo

B, K = 5, 3
_generator = torch.Generator().manual_seed(37)


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=_generator, dtype=torch.float64)


LOGITS, TRANSITION = numbers(K), numbers(K, 2)
MEANS, OFFSETS, SWITCH = 1.5 * numbers(K), numbers(K), numbers(2)
X = 2 * numbers(B)
PI, PI_SWITCH = LOGITS.softmax(-1), TRANSITION.softmax(-1)
Q = {"z_loc": numbers(B), "z_scale": numbers(B).exp(), "u_loc": numbers(B), "u_scale": numbers(B).exp()}


def normal(value: Tensor, loc: Tensor | float, scale: Tensor | float) -> Tensor:
    """log Normal(value; loc, scale), written out."""
    scale = torch.as_tensor(scale, dtype=torch.float64)
    return -0.5 * ((value - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


class MixturePrior(ppvae.Model):
    """z ~ Σ_k π_k Normal(μ_k, 1), u ~ Normal(0, 2), x ~ Normal(z + u + direct · offset_k, 0.6); k is the model's."""

    def __init__(self, direct: bool = False) -> None:
        super().__init__()
        self.direct = direct

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(PI), infer={"enumerate": "parallel"})
            u = pyro.sample("u", dist.Normal(x.new_zeros(()), 2.0))
            z = pyro.sample("z", dist.Normal(MEANS[k], 1.0))
            pyro.sample("x", dist.Normal(z + u + self.direct * OFFSETS[k], 0.6), obs=x)

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("u", dist.Normal(phi["u_loc"], phi["u_scale"]))
            pyro.sample("z", dist.Normal(phi["z_loc"], phi["z_scale"]))


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("particles", [1, 4])
def test_a_latent_of_the_model_alone_is_summed_out(direct: bool, particles: int) -> None:
    """log-prior = log Σ_k π_k p(z | k) p(u), log-likelihood = log Σ_k π_k p(z, x | k) p(u) less it."""
    model = MixturePrior(direct)
    densities = log_densities(model, Posterior(model, Q), X, particles)
    u, z = densities.values["u"], densities.values["z"]
    prior_k = [PI[k].log() + normal(z, MEANS[k], 1.0) for k in range(K)]
    joint_k = [prior_k[k] + normal(X, z + u + direct * OFFSETS[k], 0.6) for k in range(K)]
    prior_z, prior_u = torch.stack(prior_k).logsumexp(0), normal(u, 0.0, 2.0)
    likelihood = torch.stack(joint_k).logsumexp(0) - prior_z
    close(densities.log_prior, prior_z + prior_u)
    close(densities.log_likelihood, likelihood)
    close(densities.log_q, normal(u, Q["u_loc"], Q["u_scale"]) + normal(z, Q["z_loc"], Q["z_scale"]))
    assert densities.site_log_prob.keys() == {"u", "z", "x"}
    close(densities.site_log_prob["u"], prior_u)
    close(densities.site_log_prob["z"], prior_z)
    close(densities.site_log_prob["x"], likelihood)


class TwoSwitches(ppvae.Model):
    """k ~ π, c | k ~ π'_k, z ~ Normal(μ_k, 1), x ~ Normal(z + switch_c, 0.6); k and c are both the model's own."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(PI), infer={"enumerate": "parallel"})
            c = pyro.sample("c", dist.Categorical(PI_SWITCH[k]), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(MEANS[k], 1.0))
            pyro.sample("x", dist.Normal(z + SWITCH[c], 0.6), obs=x)

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(phi["z_loc"], phi["z_scale"]))


@pytest.mark.parametrize("particles", [1, 4])
def test_two_latents_of_the_model_alone_are_summed_out_together(particles: int) -> None:
    """The sum runs over all pairs (k, c), also where c matters to x alone and k to z alone."""
    model = TwoSwitches()
    densities = log_densities(model, Posterior(model, Q), X, particles)
    z = densities.values["z"]
    joint = torch.stack(
        [
            PI[k].log() + PI_SWITCH[k, c].log() + normal(z, MEANS[k], 1.0) + normal(X, z + SWITCH[c], 0.6)
            for k, c in itertools.product(range(K), range(2))
        ]
    )
    prior = torch.stack([PI[k].log() + normal(z, MEANS[k], 1.0) for k in range(K)]).logsumexp(0)
    close(densities.log_prior, prior)
    close(densities.log_likelihood, joint.logsumexp(0) - prior)
    close(sum(densities.site_log_prob.values(), torch.zeros(())), joint.logsumexp(0))


class Labelled(ppvae.Model):
    """k ~ π, z ~ Normal(μ_k, 1), x ~ Normal(z, 0.6), and a family q(k) q(z | k) whose k is enumerated."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.phi = {
            "logits": Local(torch.zeros(K)),
            "loc": Local(MEANS.float()),
            "scale": Local(torch.full((K,), scale), dist.constraints.positive),
        }

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(PI.to(x)), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(MEANS.to(x)[k], 1.0))
            pyro.sample("x", dist.Normal(z, 0.6), obs=x)

    def guide(self, x: Tensor, phi: Phi) -> None:
        row = torch.arange(len(x))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=phi["logits"]), infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal(phi["loc"][row, k], phi["scale"][row, k]))


def log_marginal_by_hand(x: Tensor) -> Tensor:
    """log Σ_k π_k Normal(x; μ_k, √(1 + 0.6²)) of `Labelled`."""
    return torch.stack([PI[k].log() + normal(x, MEANS[k], math.sqrt(1.36)) for k in range(K)]).logsumexp(0)


def wrong_phi() -> Phi:
    generator = torch.Generator().manual_seed(41)
    logits, loc, scale = torch.randn(3, B, K, generator=generator, dtype=torch.float64)
    return {"logits": logits, "loc": loc, "scale": (0.3 * scale).exp()}


@pytest.mark.parametrize("particles", [1, 3])
def test_rows_of_an_enumerated_guide_are_all_values_times_all_draws(particles: int) -> None:
    """Every k has S rows of weight q(k)/S, each with a z of its own, scored as by hand; weights sum to 1."""
    model, phi = Labelled(), wrong_phi()
    torch.manual_seed(43)
    densities = log_densities(model, Posterior(model, phi), X, particles)
    k, z = densities.values["k"], densities.values["z"]
    assert k.shape == z.shape == (K * particles, B)
    assert all((k == value).sum(0).tolist() == [particles] * B for value in range(K))
    assert len(z.unique()) == K * particles * B
    row = torch.arange(B)
    log_q_k = phi["logits"].log_softmax(-1)[row, k]
    log_q = log_q_k + normal(z, phi["loc"][row, k], phi["scale"][row, k])
    log_p = PI.log()[k] + normal(z, MEANS[k], 1.0) + normal(X, z, 0.6)
    close(densities.log_weight, log_q_k - math.log(particles))
    close(densities.log_weight.exp().sum(0), torch.ones(B, dtype=torch.float64))
    close(densities.log_q, log_q)
    close(densities.log_joint, log_p)
    close(densities.site_log_prob["k"], PI.log()[k])
    close(densities.site_log_q["k"], log_q_k)
    close(elbo(densities), (log_q_k.exp() * (log_p - log_q)).sum(0) / particles)
    assert densities.enumerated
    assert densities.sampled


def test_enumerated_guide_at_the_posterior_is_tight() -> None:
    """q(k) q(z | k) = p(k, z | x): every row weighs p(x)."""
    model = Labelled()
    log_k = torch.stack([PI[k].log() + normal(X, MEANS[k], math.sqrt(1.36)) for k in range(K)], -1)
    variance = 1 / (1 + 1 / 0.36)
    loc = variance * (MEANS + X[:, None] / 0.36)
    phi = {"logits": log_k, "loc": loc, "scale": torch.full_like(loc, math.sqrt(variance))}
    densities = log_densities(model, Posterior(model, phi), X, 3)
    close(densities.log_ratio, log_marginal_by_hand(X).expand(3 * K, B))
    close(elbo(densities), log_marginal_by_hand(X))


def test_enumerated_guide_far_from_the_posterior_is_unbiased() -> None:
    """Σ_k q(k) w(k, z_ks) averages to p(x), and Σ_k q(k) log w(k, z_ks) to the ELBO in closed form.

    q(z | k) is about p(z | k, x) and twice as wide, so weights are bounded. z = 4.5 over 2 × 5: false alarms < 1e-4.
    """
    model, phi, particles = Labelled(), wrong_phi(), 20_000
    phi["loc"] = (X[:, None] + 0.36 * MEANS) / 1.36 + 0.3 * phi["loc"]
    phi["scale"] = phi["scale"].clamp(1.0, 1.5)
    torch.manual_seed(47)
    densities = log_densities(model, Posterior(model, phi), X, particles)
    q = densities.log_weight.exp() * particles
    weight = (q * densities.log_ratio.exp()).reshape(K, particles, B).sum(0)
    bound = (q * densities.log_ratio).reshape(K, particles, B).sum(0)
    q_k, loc, var = phi["logits"].softmax(-1), phi["loc"], phi["scale"] ** 2
    entropy = 0.5 * (var.log() + 1 + math.log(2 * math.pi))
    expected_log_p = (
        PI.log() + normal(loc, MEANS, 1.0) - var / 2 + normal(X[:, None], loc, 0.6) - var / (2 * 0.36) - q_k.log()
    )
    for draws, expected in (
        (weight, log_marginal_by_hand(X).exp()),
        (bound, (q_k * (expected_log_p + entropy)).sum(-1)),
    ):
        z = (draws.mean(0) - expected) / (draws.std(0) / math.sqrt(particles))
        assert (z.abs() < 4.5).all()


def test_path_gradient_leaves_that_of_enumerated_sites_alone() -> None:
    """On the same draws, ∂logits with grad="path" = that with "full": Σ_k q_k ∂ log q_k = 0."""

    def gradient(grad: Grad) -> tuple[Tensor, ...]:
        model, phi = Labelled(), {name: value.requires_grad_() for name, value in wrong_phi().items()}
        torch.manual_seed(53)
        bound = elbo(log_densities(model, Posterior(model, phi), X, 3, grad=grad))
        return torch.autograd.grad(bound.sum(), [phi["logits"], phi["loc"]])

    (full_logits, full_loc), (path_logits, path_loc) = gradient("full"), gradient("path")
    close(path_logits, full_logits)
    assert (path_loc - full_loc).abs().max() > 1e-3  # of z, which is drawn, the score is left out


class ThreeSwitches(ppvae.Model):
    """k ~ π, m ~ π, c | k ~ π'_k, z ~ Normal(μ_k + offset_m, 1), x ~ Normal(z + switch_c, 0.6).

    The guide enumerates k and m | k, and draws z; c is the model's own.
    """

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(PI), infer={"enumerate": "parallel"})
            m = pyro.sample("m", dist.Categorical(PI), infer={"enumerate": "parallel"})
            c = pyro.sample("c", dist.Categorical(PI_SWITCH[k]), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(MEANS[k] + OFFSETS[m], 1.0))
            pyro.sample("x", dist.Normal(z + SWITCH[c], 0.6), obs=x)

    def guide(self, x: Tensor, phi: Phi) -> None:
        row = torch.arange(len(x))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=phi["logits"]), infer={"enumerate": "parallel"})
            pyro.sample("m", dist.Categorical(logits=phi["loc"] * k.unsqueeze(-1)), infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal(phi["loc"][row, k], phi["scale"][row, k]))


@pytest.mark.parametrize("particles", [1, 3])
def test_enumerated_sites_of_guide_and_model_together(particles: int) -> None:
    """Rows are all (k, m, draw); each is scored as by hand, with c summed out; weights sum to 1."""
    phi = wrong_phi()
    densities = log_densities(ThreeSwitches(), Posterior(ThreeSwitches(), phi), X, particles)
    k, m, z = (densities.values[name] for name in "kmz")
    pairs = set(zip(k[:, 0].tolist(), m[:, 0].tolist(), strict=True))
    assert pairs == set(itertools.product(range(K), repeat=2))
    assert k.shape == (K * K * particles, B)
    row = torch.arange(B)
    log_q_k = phi["logits"].log_softmax(-1)[row, k]
    log_q_m = (phi["loc"] * k.unsqueeze(-1)).log_softmax(-1).gather(-1, m.unsqueeze(-1)).squeeze(-1)
    prior = PI.log()[k] + PI.log()[m] + normal(z, MEANS[k] + OFFSETS[m], 1.0)
    by_c = torch.stack([PI_SWITCH[k, c].log() + normal(X, z + SWITCH[c], 0.6) for c in range(2)])
    close(densities.log_weight, log_q_k + log_q_m - math.log(particles))
    close(densities.log_weight.exp().sum(0), torch.ones(B, dtype=torch.float64))
    close(densities.log_q, log_q_k + log_q_m + normal(z, phi["loc"][row, k], phi["scale"][row, k]))
    close(densities.log_prior, prior)
    close(densities.log_likelihood, by_c.logsumexp(0))


class Column(Labelled):
    """The same pair on data [B, 1]."""

    def model(self, x: Tensor) -> None:
        super().model(x.squeeze(-1))


def test_log_marginal_of_an_enumerated_and_sampled_pair_is_right() -> None:
    """Where k is enumerated and z drawn, p̂/p − 1 is 0 within the reported error.

    q stays where it starts, wider than any posterior. The draws come in chunks of 7 and fewer; z = 4.5 over 40 data:
    false alarms < 3e-4.
    """
    x = torch.randn(40, 1, generator=torch.Generator().manual_seed(59))
    data = ppvae.Data("line", x, x[:2], x[:2], "gaussian", "real")
    estimates = ppvae.log_marginal(
        ppvae.fit(Column(2.5), data, lr=1e-12, epochs=1), x, num_samples=2010, chunk_size=7 * 40
    )
    ratio = np.exp(estimates.log_marginal.values - log_marginal_by_hand(x.double().squeeze(-1)).numpy())
    z = (ratio - 1) / (ratio * estimates.log_marginal_se.values)
    assert (np.abs(z) < 4.5).all()
    assert estimates.ok.all()
    assert (estimates.log_marginal_se.values > 1e-3).all()
    assert (estimates.elbo.values < estimates.log_marginal.values - 0.1).all()
