"""log_densities: numbers by hand, shapes, given values, and every refusal."""

import math
import re
from collections.abc import Callable
from typing import Any, cast

import pyro
import pyro.distributions as dist
import pytest
import torch
from checks import refusal
from torch import Tensor

import ppvae
from ppvae import Posterior, PpvaeError, log_densities
from ppvae.models import DLGM, PPCA, VAE
from ppvae.pair.densities import Densities
from ppvae.pair.local import Phi
from ppvae.variational.objectives.elbo import elbo

PAIRS: dict[str, Callable[[], ppvae.Model]] = {
    "vae": lambda: VAE(4, 2, hidden=(8,)),
    "gaussian vae": lambda: VAE(4, 2, hidden=(8,), likelihood="gaussian"),
    "ppca": lambda: PPCA(4, 2),
    "dlgm chain": lambda: DLGM(4, (2, 3), hidden=8),
    "dlgm factorised": lambda: DLGM(4, (2, 3), hidden=8, family="factorised"),
}
every_pair = pytest.mark.parametrize("name", PAIRS)


def make(name: str, batch: int = 4) -> tuple[ppvae.Model, Posterior, Tensor]:
    """A pair in float64 at random weights and at a φ of its own for each datum, and binary data."""
    torch.manual_seed(73)
    model = cast(ppvae.Model, PAIRS[name]().double())
    layout = model.layout()
    phi = layout.unpack(torch.randn(batch, layout.width, dtype=torch.float64))
    return model, Posterior(model, phi), torch.bernoulli(torch.full((batch, 4), 0.5, dtype=torch.float64))


@every_pair
@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("batch", [1, 4])
def test_every_density_is_particles_by_data(name: str, particles: int, batch: int) -> None:
    """Totals and sites are [S, B], latents [S, B, *event], and rows weigh 1/S."""
    model, posterior, x = make(name, batch)
    d = log_densities(model, posterior, x, particles)
    totals = (d.log_likelihood, d.log_prior, d.log_q, d.log_weight, d.log_joint, d.log_ratio, d.kl())
    for term in (*totals, *d.site_log_prob.values(), *d.site_log_q.values()):
        assert term.shape == (particles, batch)
        assert term.dtype == torch.float64
    assert all(value.shape[:2] == (particles, batch) and value.dim() == 3 for value in d.values.values())
    torch.testing.assert_close(d.log_weight, torch.full_like(d.log_weight, -math.log(particles)))
    assert elbo(d).shape == (batch,)
    assert not d.enumerated


@every_pair
def test_sites_sum_to_the_totals(name: str) -> None:
    """log-prior is the sum over latents, log-likelihood that over observed sites, log q that over guide sites."""
    model, posterior, x = make(name)
    d = log_densities(model, posterior, x, 3)
    latents = d.site_log_q.keys()
    assert d.site_log_prob.keys() == {*latents, "x"}
    assert d.values.keys() == latents
    torch.testing.assert_close(d.log_prior, torch.stack([d.site_log_prob[site] for site in latents]).sum(0))
    torch.testing.assert_close(d.log_likelihood, d.site_log_prob["x"])
    torch.testing.assert_close(d.log_q, torch.stack([*d.site_log_q.values()]).sum(0))
    torch.testing.assert_close(d.log_ratio, d.log_likelihood + d.log_prior - d.log_q)


@every_pair
def test_given_values_are_scored_not_drawn(name: str) -> None:
    """The same latents get the same numbers, without a random number; S is theirs."""
    model, posterior, x = make(name)
    drawn = log_densities(model, posterior, x, 3)
    state = torch.get_rng_state()
    given = log_densities(model, posterior, x, values=drawn.values)
    assert torch.equal(torch.get_rng_state(), state)
    for attribute in ("log_likelihood", "log_prior", "log_q", "log_weight", "values"):
        torch.testing.assert_close(getattr(given, attribute), getattr(drawn, attribute))


@every_pair
def test_a_datum_scores_the_same_alone(name: str) -> None:
    """Nothing is scaled by the batch, and no datum sees another."""
    model, posterior, x = make(name)
    whole = log_densities(model, posterior, x, 3)
    for i in range(len(x)):
        index = torch.tensor([i])
        values = {site: value[:, index] for site, value in whole.values.items()}
        alone = log_densities(model, posterior.select(index), x[index], values=values)
        torch.testing.assert_close(alone.log_joint, whole.log_joint[:, index])
        torch.testing.assert_close(alone.log_q, whole.log_q[:, index])


def test_densities_of_a_vae_by_hand() -> None:
    """Normal prior, Normal q, Bernoulli likelihood of the decoder's logits."""
    model, posterior, x = make("vae")
    d = log_densities(model, posterior, x, 3)
    z, loc, scale = d.values["z"], posterior.phi["loc"], posterior.phi["scale"]
    logits = model.get_submodule("decoder.logits")(z)
    half_log = 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(d.log_prior, (-0.5 * z**2 - half_log).sum(-1))
    torch.testing.assert_close(d.log_q, (-0.5 * ((z - loc) / scale) ** 2 - scale.log() - half_log).sum(-1))
    torch.testing.assert_close(d.log_likelihood, (x * logits - torch.nn.functional.softplus(logits)).sum(-1))


def test_draws_are_those_of_q() -> None:
    """Means and variances of 20,000 draws are φ's, and no two draws are shared between particles or data.

    z = 4.5 over 2 × 4 × 2 comparisons: false alarms < 2e-4.
    """
    model, posterior, x = make("vae")
    torch.manual_seed(79)
    z = log_densities(model, posterior, x, 20_000).values["z"]
    standard = (z - posterior.phi["loc"]) / posterior.phi["scale"]
    assert (standard.mean(0).abs() * math.sqrt(20_000) < 4.5).all()
    assert ((standard.var(0) - 1).abs() * math.sqrt(20_000 / 2) < 4.5).all()
    assert len(standard.unique()) == standard.numel()


def test_bound_refuses_an_unknown_kl() -> None:
    model, posterior, x = make("vae")
    with pytest.raises(PpvaeError, match="unknown kl 'exact': known: analytic, mc"):
        elbo(log_densities(model, posterior, x), kl=cast(Any, "exact"))


# -- refusals: each message is one line that names the thing

Program = Callable[[Tensor], object]
BATCH = 4


def program(body: Callable[[Tensor], object], size: int = BATCH, **plate: Any) -> Program:
    def run(x: Tensor) -> None:
        with pyro.plate("data", size, **plate):
            body(x)

    return run


def z_site(x: Tensor) -> Tensor:
    return pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))


def x_site(x: Tensor) -> Tensor:
    return pyro.sample("x", dist.Normal(torch.zeros(()), 1.0), obs=x)


def z_and_x(x: Tensor) -> None:
    z_site(x)
    x_site(x)


def also(name: str, fn: dist.TorchDistribution, **kwargs: Any) -> Program:
    """Sites z and x, and one more before them."""

    def body(x: Tensor) -> None:
        pyro.sample(name, fn, **kwargs)
        z_and_x(x)

    return program(body)


MODEL, GUIDE = program(z_and_x), program(z_site)
NORMAL = dist.Normal(torch.zeros(()), 1.0)
MARKED = {"infer": {"enumerate": "parallel"}}


def score(model: Program = MODEL, guide: Program = GUIDE, **kwargs: Any) -> Densities:
    return log_densities(model, guide, torch.zeros(BATCH), **kwargs)


def scaled(run: Program) -> Program:
    def body(x: Tensor) -> None:
        with pyro.poutine.scale(scale=2.5):
            run(x)

    return body


def test_the_sound_pair_behind_the_refusals_is_not_refused() -> None:
    assert score(num_particles=2).log_ratio.shape == (2, BATCH)


@pytest.mark.parametrize("particles", [0, -1, True, 1.5, "3", None])
def test_particles_must_be_a_whole_number(particles: Any) -> None:
    message = refusal(lambda: score(num_particles=particles))
    assert message == f"num_particles must be a whole number ≥ 1, got {particles!r}"


def test_grad_must_be_known() -> None:
    assert refusal(lambda: score(grad="paths")) == "grad must be one of full, path, score, got 'paths'"


VALUES = {
    "none at all": ({}, "S, 4"),
    "a missing site": ({"y": torch.zeros(2, BATCH)}, "'z'"),
    "a site too many": ({"z": torch.zeros(2, BATCH), "y": torch.zeros(2, BATCH)}, "'y'"),
    "other numbers of particles": ({"z": torch.zeros(2, BATCH), "y": torch.zeros(3, BATCH)}, "'y': (3, 4)"),
    "another batch": ({"z": torch.zeros(2, 5)}, "'z': (2, 5)"),
    "no particles": ({"z": torch.zeros(BATCH)}, "'z': (4,)"),
}


@pytest.mark.parametrize("case", VALUES)
def test_values_must_be_the_latents_of_the_guide(case: str) -> None:
    values, named = VALUES[case]
    assert named in refusal(lambda: score(values=values))


@pytest.mark.parametrize("event", [(), (1,), (5,), (2, 2)])
def test_values_must_have_the_events_shape(event: tuple[int, ...]) -> None:
    """A latent [S, B, 2] can be given in no other shape, not even one that broadcasts."""

    def body(x: Tensor) -> Tensor:
        return pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    def model(x: Tensor) -> None:
        body(x)
        x_site(x)

    values = {"z": torch.zeros(3, BATCH, *event)}
    assert "'z'" in refusal(lambda: score(program(model), program(body), values=values))


PAIRS_AT_FAULT: dict[str, tuple[Program, Program, str]] = {
    "guide site missing from the model": (program(x_site), GUIDE, "site 'z' of the guide does not exist"),
    "latent without guide site": (also("w", NORMAL), GUIDE, "latent 'w' of the model has no site in the guide"),
    "discrete latent without guide site": (also("w", dist.Bernoulli(0.3)), GUIDE, "'w'.*mark it infer="),
    "count that cannot be summed out": (also("w", dist.Poisson(3.0), **MARKED), GUIDE, "'w'.*Poisson.*finite"),
    "latent of the guide, observed in the model": (
        program(lambda x: pyro.sample("z", NORMAL, obs=x)),
        GUIDE,
        "'z' is latent in the guide and observed in the model",
    ),
    "guide that observes": (MODEL, program(z_and_x), "the guide observes 'x'"),
    "model that observes nothing": (GUIDE, GUIDE, "the model observes nothing"),
    "a model scaled": (scaled(MODEL), GUIDE, "site 'z' is scaled by 2.5"),
    "a guide scaled": (MODEL, scaled(GUIDE), "site 'z' is scaled by 2.5"),
    "a model that subsamples": (program(z_and_x, 12, subsample_size=BATCH), GUIDE, "site 'z' is scaled by 3"),
    "a guide that subsamples": (
        MODEL,
        program(z_site, 12, subsample=torch.arange(BATCH)),
        "site 'z' is scaled by 3",
    ),
    "a guide site outside the plate": (MODEL, z_site, r"site 'z' has log-density of shape \(1,\), not \[..., 4\]"),
    "a missing to_event": (
        MODEL,
        lambda x: pyro.sample("z", dist.Normal(torch.zeros(BATCH, 3), 1.0)),
        r"site 'z' has log-density of shape \(4, 3\).*to_event",
    ),
    "one name twice": (also("z", NORMAL), GUIDE, "two sites are called 'z'"),
}


@pytest.mark.parametrize("case", PAIRS_AT_FAULT)
def test_a_pair_at_fault_is_refused_by_name(case: str) -> None:
    model, guide, expected = PAIRS_AT_FAULT[case]
    message = refusal(lambda: score(model, guide))
    assert re.search(expected, message), message


def test_a_program_without_model_or_guide_says_so() -> None:
    """A subclass that forgot its story, and one whose default guide was not built yet."""

    class Empty(ppvae.Model):
        pass

    class Story(ppvae.Model):
        def model(self, x: Tensor) -> None:
            MODEL(x)

    phi: Phi = {}
    assert "Empty has no model(self, x)" in refusal(lambda: score(Empty()))
    assert "ppvae.check" in refusal(lambda: score(guide=Posterior(Story(), phi)))
