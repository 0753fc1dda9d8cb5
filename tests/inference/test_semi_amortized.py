"""Semi-amortized inference: what its refinement computes, what its two gradients are, and what it leaves alone.

Gradients are checked on the Gaussian mixture, whose bound is a finite sum and so free of noise, and on a model with
draws under a bound that makes the same ones at every call.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from checks import refusal
from conftest import Untouched, bounds, identical, weights, z_statistic
from stops import stopped_before
from torch import Tensor, nn

import ppvae
from ppvae.inference.amortized import Amortized
from ppvae.inference.per_datapoint import PerDatapoint
from ppvae.inference.semi_amortized import SemiAmortized
from ppvae.pair.local import Phi
from ppvae.variational.bound import Bound
from ppvae.variational.estimator import Estimator
from ppvae.variational.objectives.elbo import elbo

#: a learning rate at which no weight moves
STILL = 1e-30
BACKPROP = ("full", "truncated")


@dataclass
class Repeated(Bound):
    """The bound on the same draws at every call."""

    def __call__(self, phi: Phi, which: Tensor | None = None) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return super().__call__(phi, which)


def mixture(**options: Any) -> tuple[ppvae.Model, SemiAmortized, Tensor]:
    """gmm on 12 data in double precision, every weight away from its start, so that no gradient is zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = torch.randn(12, 2) + torch.tensor([2.0, -1.0]) * torch.randint(2, (12, 1))
        return strayed(ppvae.create("gmm", x_dim=2, num_components=3), x, **options)


def autoencoder(**options: Any) -> tuple[ppvae.Model, SemiAmortized, Tensor]:
    """vae on 12 data in double precision, likewise."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        x = torch.bernoulli(torch.full((12, 6), 0.4))
        return strayed(ppvae.create("vae", x_dim=6, latent_dim=2, hidden=[5]), x, **options)


def strayed(model: ppvae.Model, x: Tensor, **options: Any) -> tuple[ppvae.Model, SemiAmortized, Tensor]:
    strategy = SemiAmortized(model, x, **options)
    for p in [*model.parameters(), *strategy.parameters()]:
        p.data += 0.3 * torch.randn_like(p)
    return model.double(), strategy.double(), x.double()


PAIRS = {"gmm": mixture, "vae": autoencoder}


def final(model: ppvae.Model, strategy: ppvae.Strategy, x: Tensor) -> Tensor:
    """The mean bound at the strategy's φ, every bound on the same draws."""
    bound = Repeated(model, x, Estimator(), 2)
    return bound(strategy(ppvae.Batch(x, torch.arange(len(x))), bound)).mean()


def gradients(value: Tensor, of: nn.Module) -> dict[str, Tensor]:
    named = dict(of.named_parameters())
    return dict(zip(named, torch.autograd.grad(value, list(named.values()), retain_graph=True), strict=True))


def nodes(value: Tensor) -> int:
    """How many operations the gradient of a value would go back through."""
    seen, todo = set(), [value.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [parent for parent, _ in node.next_functions]
    return len(seen)


# Gradients


@pytest.mark.parametrize("name", PAIRS)
def test_the_full_gradient_is_that_of_the_bound_after_the_steps(name: str) -> None:
    """To every tensor of the encoder and of θ, along a direction of chance, it equals the central difference.

    In double precision a step h = 1e-5 is wrong by h² and by 1e-16 / h, both below 1e-9; some rows are clipped.
    """
    model, strategy, x = PAIRS[name](refine_steps=3, lr=0.1, clip=0.5)
    value = final(model, strategy, x)
    generator, h = torch.Generator().manual_seed(2), 1e-5
    for part in (model, strategy):
        for key, gradient in gradients(value, part).items():
            p = part.get_parameter(key)
            direction = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            values = []
            for sign in (1, -1):
                p.data += sign * h * direction
                values.append(final(model, strategy, x).item())
                p.data -= sign * h * direction
            assert gradient.any()
            difference = (values[0] - values[1]) / (2 * h)
            assert (gradient * direction).sum().item() == pytest.approx(difference, rel=1e-6, abs=1e-8), key


@pytest.mark.parametrize("name", PAIRS)
def test_the_truncated_gradient_is_thetas_at_the_refined_and_the_encoders_at_the_proposed(name: str) -> None:
    """θ's with the refined φ held fixed; the encoder's is the one of plain amortized inference, on the same draws."""
    model, strategy, x = PAIRS[name](refine_steps=3, lr=0.1, backprop="truncated")
    bound = Repeated(model, x, Estimator(), 2)
    batch = ppvae.Batch(x, torch.arange(len(x)))
    got = final(model, strategy, x)
    held = {key: value.detach() for key, value in strategy(batch, bound).items()}
    plain = bound(Amortized.forward(strategy, batch, bound)).mean()
    torch.testing.assert_close(got, bound(held).mean(), rtol=1e-12, atol=0)
    assert got > plain + 0.01
    for part, expected in ((model, bound(held).mean()), (strategy, plain)):
        one, other = gradients(-got, part), gradients(-expected, part)  # of the loss, as training has it
        for key in one:
            torch.testing.assert_close(one[key], other[key], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("estimator", [("elbo", "stl"), ("iwae", "dreg")])
def test_the_full_gradient_goes_back_through_plain_steps(estimator: tuple[Any, Any]) -> None:
    """Whichever reparameterised estimator the final bound has: the derivative of another step's is not the bound's."""
    model, strategy, x = autoencoder(refine_steps=3, lr=0.1)
    batch, found = ppvae.Batch(x, torch.arange(len(x))), []
    for gradient in (estimator[1], "reparam"):
        phi = strategy(batch, Repeated(model, x, Estimator(estimator[0], gradient, "mc"), 3))
        found.append({**gradients(phi["loc"].sum(), strategy), "loc": phi["loc"]})
    assert found[0]["head.weight"].any()
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-10, atol=1e-13)


def test_only_the_full_gradient_goes_back_through_the_steps() -> None:
    """Under "truncated" the graph is as large after ten steps as after one; under "full" it grows with each."""
    sizes = {
        how: [nodes(final(*mixture(refine_steps=steps, backprop=how))) for steps in (1, 2, 10)] for how in BACKPROP
    }
    one, two, ten = sizes["truncated"]
    assert one == two == ten
    one, two, ten = sizes["full"]
    assert two > one > sizes["truncated"][0]
    assert ten - two == 8 * (two - one)


def test_a_row_at_its_optimum_has_a_finite_full_gradient() -> None:
    """The norm of a zero gradient has no derivative: what comes back is no NaN."""
    model, strategy, x = parabola(refine_steps=2)
    bound = Parabola(model, x, Estimator(), centre=torch.zeros(3, 2))
    phi = strategy(ppvae.Batch(x, torch.arange(3)), bound)
    bound(phi).sum().backward()
    assert not phi["loc"].any()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in strategy.parameters())


# The steps


class Plain(ppvae.Model):
    """φ is a location in the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.ones(()))
        self.phi = {"loc": ppvae.Local(torch.zeros(2))}

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.slope * z, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(phi["loc"], 0.7).to_event(1))


@dataclass
class Parabola(Bound):
    """−½ · 3 · |φᵢ − centreᵢ|²."""

    centre: Tensor | None = None

    def __call__(self, phi: Phi, which: Tensor | None = None) -> Tensor:
        assert self.centre is not None
        return -1.5 * (phi["loc"] - self.centre).square().sum(-1)


def parabola(**options: Any) -> tuple[ppvae.Model, SemiAmortized, Tensor]:
    """The encoder proposes 0 for three data."""
    x = torch.arange(6.0).reshape(3, 2)
    model = Plain()
    return model, SemiAmortized(model, x, **options), x


def steps(centre: Tensor, **options: Any) -> Tensor:
    model, strategy, x = parabola(**options)
    bound = Parabola(model, x, Estimator(), centre=centre)
    return strategy(ppvae.Batch(x, torch.arange(3)), bound)["loc"].detach()


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("backprop", BACKPROP)
def test_two_steps_by_hand(momentum: float, backprop: str) -> None:
    """φ₁ = lr g₀, φ₂ = φ₁ + lr (m g₀ + g₁) with g = 3 (centre − φ)."""
    centre = torch.tensor([[1.0, -2.0], [0.0, 0.5], [-1.0, 1.0]])
    got = steps(centre, refine_steps=2, lr=0.1, momentum=momentum, backprop=backprop)
    first = 0.1 * 3 * centre
    torch.testing.assert_close(got, first + 0.1 * (momentum * 3 * centre + 3 * (centre - first)))


def test_a_huge_gradient_is_clipped_in_its_own_row_alone() -> None:
    """Its first step measures lr · clip along the gradient, its second the same with momentum; others are as without
    it.
    """
    centre = torch.tensor([[1.0, -2.0], [3e6, 4e6], [-1.0, 1.0]])
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.5, "clip": 8.0}
    along = torch.tensor([0.6, 0.8])
    torch.testing.assert_close(steps(centre, refine_steps=1, **options)[1], 0.1 * 8 * along)
    torch.testing.assert_close(steps(centre, refine_steps=2, **options)[1], 0.1 * 8 * (1 + 1.5) * along)
    calm = steps(torch.where(centre.abs() > 1e3, 0.0, centre), refine_steps=5, **options)
    wild = steps(centre, refine_steps=5, **options)
    assert torch.equal(wild[[0, 2]], calm[[0, 2]])


# What refinement gives


def digits(num_train: int = 200) -> ppvae.Data:
    data = ppvae.load_data("digits", num_train=num_train)
    return replace(data, valid=data.valid[:20], test=data.test[:60], labels=None)


@cache
def fitted(inference: str, **options: Any) -> ppvae.Fit:
    return fit(inference, epochs=40 if inference == "amortized" else 15, lr=0.01, **options)


def fit(inference: str = "semi-amortized", data: ppvae.Data | None = None, **options: Any) -> ppvae.Fit:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ppvae.create("vae", x_dim=64, latent_dim=3, hidden=[20])
    defaults: dict[str, Any] = {"epochs": 3, "batch_size": 50, "patience": None, "accelerator": "cpu"}
    return ppvae.fit(model, data or digits(), inference, progress=False, **defaults | options)


def refined(origin: ppvae.Fit, **options: Any) -> ppvae.Fit:
    """A fit of semi-amortized inference with the weights of an amortized one."""
    x = digits().train
    strategy = SemiAmortized(origin.model, x, **options)
    strategy.load_state_dict(origin.strategy.state_dict())
    return replace(origin, strategy=strategy.eval())


def bound(fit: ppvae.Fit, posterior: ppvae.Posterior, x: Tensor, particles: int = 50) -> Tensor:
    """The ELBO of each datum on fixed noise, [B]."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        return elbo(ppvae.log_densities(fit.model, posterior, x, particles), kl="analytic")


@pytest.mark.parametrize("backprop", BACKPROP)
def test_no_step_is_amortized_inference(backprop: str) -> None:
    """Weights, history and posterior, bit by bit."""
    plain = fit("amortized")
    none = fit(inference_options={"refine_steps": 0, "backprop": backprop})
    assert bounds(none) == bounds(plain)
    assert identical(weights(none), weights(plain))
    assert identical(none.posterior(digits().test).phi, plain.posterior(digits().test).phi)


def test_each_step_raises_the_bound_of_new_data() -> None:
    """0 < 5 < 30 steps, by more than 5 standard errors of the paired difference; the last are within a fifth of the way
    to rows optimised to convergence.
    """
    origin, x = fitted("amortized"), ppvae.load_data("digits").test[:200]
    none, few, many = (
        bound(origin, refined(origin, refine_steps=count, lr=0.01).posterior(x), x) for count in (0, 5, 30)
    )
    torch.testing.assert_close(none, bound(origin, origin.posterior(x), x))
    assert z_statistic(few - none) > 5
    assert z_statistic(many - few) > 5
    rows = PerDatapoint(origin.model, x[:60])
    best = bound(origin, rows.infer(x[:60], origin.bound(x[:60])), x[:60])
    assert (best - many[:60]).mean() < 0.2 * (best - none[:60]).mean()


def test_many_steps_reach_the_optimum() -> None:
    """With a bound free of noise, the gap to log p(x), which the family reaches, closes to a thousandth."""
    model, strategy, x = mixture()
    gaps = []
    x = x / 4  # where no assignment is certain, which logits would take for ever to say
    for count in (0, 10, 300):
        strategy.refine_steps, strategy.lr = count, 0.5
        found = strategy.infer(x, Bound(model, x, Estimator()))
        gaps.append((model.log_prob(x) - elbo(ppvae.log_densities(model, found, x))).detach())
    assert (gaps[0] > gaps[1]).all()
    assert (gaps[1] > gaps[2]).all()
    assert gaps[2].min() > -1e-9
    assert gaps[2].mean() < 1e-3 * gaps[0].mean()


# New data


def test_inference_changes_nothing(untouched: Untouched) -> None:
    """No weight, gradient, flag or random state, in evaluation mode and while gradients are on."""
    result = fitted("semi-amortized")
    with untouched(result.model, result.strategy):
        found = result.posterior(digits().test)
        result.posterior(digits().test, seed=3)
    assert not any(value.requires_grad for value in found.phi.values())


def test_a_posterior_depends_on_datum_position_and_seed_alone() -> None:
    """Not on the other data of its block, how many they are, or the global random state.

    Up to rounding, which other sizes of a matrix product change: draws of other noise differ by tenths.
    """
    result, x = fitted("semi-amortized"), digits().test
    found = result.posterior(x).phi
    others = x.flip(0).clone()
    others[7] = x[7]
    with torch.random.fork_rng():
        torch.manual_seed(99)
        among, fewer, seeded = (
            result.posterior(others).phi,
            result.posterior(x[:8]).phi,
            result.posterior(x, seed=1).phi,
        )
    for name, value in found.items():
        torch.testing.assert_close(among[name][7], value[7], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(fewer[name], value[:8], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(seeded["loc"], found["loc"], atol=1e-3)
    assert not torch.allclose(result.posterior(x.roll(1, 0)).phi["loc"].roll(-1, 0), found["loc"], atol=1e-3)


def test_blocks_are_refined_apart() -> None:
    """The datum 501 of 503 does not depend on the first block, and every one has its φ."""
    result = refined(fitted("amortized"), refine_steps=1)
    x = torch.cat([digits().test] * 9)[:503]
    one, other = result.posterior(x).phi["loc"], result.posterior(torch.cat([x[:500].flip(0), x[500:]])).phi["loc"]
    assert len(one) == 503
    torch.testing.assert_close(other[500:], one[500:], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(other[:500], one[:500], atol=1e-3)


# Objectives


@pytest.mark.parametrize("backprop", BACKPROP)
@pytest.mark.parametrize(
    ("objective", "gradient"),
    [("elbo", "stl"), ("elbo", "score"), ("elbo", "loo"), ("iwae", None), ("iwae", "dreg"), ("iwae", "vimco"),
     ("rws", None)],
)  # fmt: skip
def test_it_trains_under_every_objective(objective: Any, gradient: Any, backprop: str) -> None:
    """The objective of new data, refined, is above the start's by more than 5 standard errors."""
    options: dict[str, Any] = {"objective": objective, "gradient": gradient, "num_particles": 3}
    options["inference_options"] = {"refine_steps": 2, "backprop": backprop}
    if backprop == "full" and (objective == "rws" or gradient in ("score", "loo", "vimco")):
        with pytest.raises(ppvae.PpvaeError, match="holds the draws constant"):
            fit(lr=0.01, epochs=1, **options)
        return
    start, trained = fit(lr=STILL, epochs=1, **options), fit(lr=0.01, epochs=15, **options)
    x = ppvae.load_data("digits").test[:300]

    def value(fit: ppvae.Fit) -> Tensor:
        posterior = fit.posterior(x)
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(1)
            draws = [ppvae.log_densities(fit.model, posterior, x, 3) for _ in range(10)]
        return torch.stack([fit.estimator().goal.value(densities) for densities in draws]).mean(0)

    assert z_statistic(value(trained) - value(start)) > 5


@pytest.mark.parametrize("backprop", BACKPROP)
@pytest.mark.parametrize("options", [{}, {"covariance": "full"}, {"assignment": "summed"}])
def test_it_trains_with_enumerated_latents(options: dict[str, Any], backprop: str) -> None:
    """Also where every latent is summed out, and there is nothing to refine."""
    data = ppvae.load_data("iris")
    model = ppvae.create("gmm", x_dim=4, **options)
    more: dict[str, Any] = {"inference_options": {"backprop": backprop}, "progress": False, "patience": None}
    before = ppvae.fit(model, data, "semi-amortized", lr=STILL, epochs=1, **more)
    after = ppvae.fit(model, data, "semi-amortized", lr=0.02, epochs=25, **more)
    x = data.train
    assert z_statistic(bound(after, after.posterior(x), x, 1) - bound(before, before.posterior(x), x, 1)) > 5
    assert bool(after.posterior(x).phi) == (options.get("assignment") != "summed")


# Refusals


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"momentum": 1}, "momentum must be below 1, got 1"),
        ({"momentum": 1.5}, "momentum must be below 1, got 1.5"),
        ({"momentum": -0.1}, "momentum must be a finite number ≥ 0, got -0.1"),
        ({"momentum": math.nan}, "momentum must be a finite number ≥ 0, got nan"),
        ({"lr": 0}, "lr must be a finite number > 0, got 0"),
        ({"lr": -1}, "lr must be a finite number > 0, got -1"),
        ({"lr": math.nan}, "lr must be a finite number > 0, got nan"),
        ({"lr": math.inf}, "lr must be a finite number > 0, got inf"),
        ({"clip": 0}, "clip must be a finite number > 0, got 0"),
        ({"clip": math.inf}, "clip must be a finite number > 0, got inf"),
        ({"backprop": "ful"}, "unknown backprop 'ful': did you mean 'full'? known: full, truncated"),
        ({"backprop": None}, "unknown backprop None"),
        ({"refine_steps": 1.5}, "refine_steps must be a whole number ≥ 0, got 1.5"),
        ({"refine_steps": -1}, "refine_steps must be a whole number ≥ 0, got -1"),
        ({"refine_steps": True}, "refine_steps must be a whole number ≥ 0, got True"),
        ({"refine_step": 3}, "semi-amortized: unknown option 'refine_step': did you mean 'refine_steps'?"),
        ({"inner_steps": 3}, "semi-amortized: unknown option 'inner_steps'"),
        ({"encoder": "linear"}, "encoder must be a torch.nn.Module, got str"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], said: str) -> None:
    """In one line that names the option and what it got."""
    assert said in refusal(lambda: fit(inference_options=options))


def test_a_training_row_has_no_table() -> None:
    """φ by index is for strategies that keep rows."""
    result = fitted("semi-amortized")
    assert "keeps no rows" in refusal(lambda: result.posterior(digits().train[:2], torch.arange(2)))


# On disk


@pytest.mark.parametrize("backprop", BACKPROP)
def test_a_saved_fit_refines_as_before(backprop: str, tmp_path: Path) -> None:
    """The same weights, options and posterior of new data, bit by bit."""
    options = {"refine_steps": 3, "lr": 0.1, "momentum": 0.2, "clip": 1.0, "backprop": backprop}
    result = fit(inference_options=options)
    result.save(tmp_path / "fit")
    again = ppvae.load(tmp_path / "fit")
    assert again.settings.inference_options == options
    assert identical(weights(again), weights(result))
    assert identical(again.posterior(digits().test).phi, result.posterior(digits().test).phi)


@pytest.mark.parametrize("backprop", BACKPROP)
def test_stopped_and_resumed_ends_as_one_left_alone(backprop: str, tmp_path: Path) -> None:
    """To the last bit, in the middle of an epoch; the steps of refinement draw from the same random state."""
    options: dict[str, Any] = {"inference_options": {"refine_steps": 2, "backprop": backprop}, "lr": 0.01}
    options |= {"run_dir": tmp_path / "run", "checkpoint_seconds": 0.0}
    with stopped_before(6):
        fit(**options)
    resumed = fit(**options, resume=True)
    alone = fit(**{name: value for name, value in options.items() if name not in ("run_dir", "checkpoint_seconds")})
    assert resumed.history[-1]["step"] == 12
    assert bounds(resumed) == bounds(alone)
    assert identical(weights(resumed), weights(alone))
    assert identical(weights(ppvae.load(tmp_path / "run")), weights(alone))


def _parameters(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    return [p for module in modules for p in module.parameters()]


@pytest.mark.parametrize("backprop", BACKPROP)
def test_a_step_leaves_no_gradient_but_the_losses(backprop: str) -> None:
    """Refinement differentiates the bound by φ alone: no gradient is added to θ or the encoder on the way."""
    model, strategy, x = mixture(backprop=backprop)
    final(model, strategy, x)
    assert all(p.grad is None for p in _parameters((model, strategy)))
