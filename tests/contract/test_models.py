"""What every registered model owes under every registered strategy, and what `fit` promises about its loop.

A newly registered model or strategy is tested here without an edit. Statistical claims are paired z statistics: the
difference of two bounds per datum, on the same draws, over its standard error across data. They ask for z > 5 (a
false alarm rate of 3e-7 each; there are fewer than 40 of them), so that chance neither passes nor fails them.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import Untouched, bounds, identical, weights, z_statistic
from torch import Tensor, nn

import ppvae
from ppvae.errors import NonFiniteError
from ppvae.options import option_names
from ppvae.pair.guide_family import set_family
from ppvae.pair.model import overrides
from ppvae.pair.zoo import model_class
from ppvae.variational.bound import Bound
from ppvae.variational.estimator import Estimator
from ppvae.variational.objective_choice import KL
from ppvae.variational.objectives.elbo import elbo
from ppvae.variational.strategy import strategy_class

#: a learning rate at which no weight moves
STILL = 1e-30


class GammaPoisson(ppvae.Model):
    """A generative model alone: counts with positive latents, no guide, no phi, no encoder."""

    def __init__(self, x_dim: int) -> None:
        super().__init__()
        self.log_rates = nn.Parameter(0.1 * torch.randn(2, x_dim))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(x.new_full((2,), 2.0), 1.0).to_event(1))
            pyro.sample("x", dist.Poisson(z @ self.log_rates.exp()).to_event(1), obs=x)


class Topics(ppvae.Model):
    """A generative model alone of binary matrices [4, 3], with a simplex latent."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(3, 4, 3))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Dirichlet(x.new_ones(3)))
            p = torch.einsum("...k,kij->...ij", z, self.logits.sigmoid())
            pyro.sample("x", dist.Bernoulli(p.clamp(1e-3, 1 - 1e-3)).to_event(2), obs=x)


def _counts() -> ppvae.Data:
    generator = torch.Generator().manual_seed(0)
    x = torch.poisson(torch.tensor([1.0, 3.0, 6.0, 2.0]).expand(120, 4), generator=generator)
    x = x + torch.poisson(3 * torch.rand(120, 1, generator=generator).expand(120, 4), generator=generator)
    return ppvae.Data("counts", x[:80], x[80:100], x[100:], "gaussian", "real")


def _matrices() -> ppvae.Data:
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(3, 4, 3, generator=generator)[torch.randint(3, (120,), generator=generator)]
    x = torch.bernoulli(p, generator=generator)
    return ppvae.Data("matrices", x[:80], x[80:100], x[100:], "bernoulli", "binary")


def _digits() -> ppvae.Data:
    data = ppvae.load_data("digits", num_train=300)
    return replace(data, valid=data.valid[:40], test=data.test[:40], labels=None)


#: where a model does not stand here it gets digits and its own defaults
DATA: dict[str, Callable[[], ppvae.Data]] = {
    "gmm": lambda: ppvae.load_data("iris", treatment="standardised"),
    "ppca": lambda: ppvae.load_data("iris"),
    "gamma-poisson": _counts,
    "topics": _matrices,
}
#: small settings, and the variants that run through other code: name → {suffix: options}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "gmm": {"": {}, "-full": {"covariance": "full"}, "-summed": {"assignment": "summed"}},
    "vae": {"": {"latent_dim": 3, "hidden": [20]}},
    "dlgm": {
        "": {"latent_dims": [3, 2], "hidden": 20},
        "-factorised": {"latent_dims": [3, 2], "hidden": 20, "family": "factorised"},
    },
}
OWN: dict[str, Callable[[], ppvae.Model]] = {"gamma-poisson": lambda: GammaPoisson(4), "topics": Topics}


@dataclass(frozen=True)
class Case:
    """One model of the zoo with its options, or a user's own."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    def data(self) -> ppvae.Data:
        return _data(self.name)

    def make(self, seed: int = 0) -> ppvae.Model:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if self.name in OWN:
                return OWN[self.name]()
            known = option_names(model_class(self.name))
            filled = {"x_dim": self.data().event_shape.numel(), "likelihood": self.data().likelihood}
            return ppvae.create(self.name, **{k: v for k, v in filled.items() if k in known} | dict(self.options))


@cache
def _data(name: str) -> ppvae.Data:
    return DATA.get(name, _digits)()


CASES = {
    name + suffix: Case(name, tuple(options.items()))
    for name in [*ppvae.list_models(), *OWN]
    for suffix, options in VARIANTS.get(name, {"": {}}).items()
}


def refused(model: str, inference: str) -> bool:
    """Exact inference needs a model that knows its posterior, or has nothing left to infer."""
    made = set_family(CASES[model].make(), CASES[model].data().train)
    return inference == "exact" and bool(made.phi) and not overrides(made, "exact_phi")


ALL = [(model, inference) for model in CASES for inference in ppvae.list_inference()]
PAIRS = [pair for pair in ALL if not refused(*pair)]
ROWS = [pair for pair in PAIRS if strategy_class(pair[1]).has_rows]
pairs = pytest.mark.parametrize(("model", "inference"), PAIRS)


def fit(model: str, inference: str, data: ppvae.Data | None = None, **options: Any) -> ppvae.Fit:
    case = CASES[model]
    defaults: dict[str, Any] = {"patience": None, "progress": False, "accelerator": "cpu", "batch_size": 50}
    return ppvae.fit(case.make(), data or case.data(), inference, **defaults | options)


@cache
def fitted(model: str, inference: str) -> ppvae.Fit:
    """A fit of about 200 steps, for all who only look at one."""
    epochs = math.ceil(200 / math.ceil(len(CASES[model].data().train) / 50))
    return fit(model, inference, epochs=epochs, eval_every=epochs, lr=0.01)


@cache
def unmoved(model: str, inference: str) -> ppvae.Fit:
    """The fit before its first step: same start, same seed, nothing moves."""
    rows: dict[str, Any] = {"lr_phi": STILL} if "lr" in option_names(strategy_class(inference)) else {}
    return fit(model, inference, epochs=1, lr=STILL, **rows)


def tiny(model: str) -> ppvae.Data:
    """A dozen data, where a crash shows as well as on many."""
    data = CASES[model].data()
    return replace(data, train=data.train[:12], valid=data.valid[:4], test=data.test[:6], labels=None)


def quick(model: str, inference: str, **options: Any) -> ppvae.Fit:
    """A fit of a few steps on a dozen data."""
    rows = {"max_steps": 25} if "max_steps" in option_names(strategy_class(inference)) else {}
    own = options.pop("inference_options", {})
    defaults: dict[str, Any] = {"epochs": 2, "batch_size": 5, "inference_options": rows | own}
    return fit(model, inference, tiny(model), **defaults | options)


def of_training_data(fit: ppvae.Fit, x: Tensor) -> ppvae.Posterior:
    """q of the first len(x) training data, as training left it."""
    index = torch.arange(len(x)) if fit.strategy.has_rows else None
    return fit.posterior(x, index)


def bound(fit: ppvae.Fit, posterior: ppvae.Posterior, x: Tensor, particles: int = 20) -> Tensor:
    """The ELBO of each datum on fixed noise, [B]."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        return elbo(ppvae.log_densities(fit.model, posterior, x, particles), kl="analytic")


# Every pair


@pytest.mark.parametrize(("model", "inference"), [pair for pair in ALL if refused(*pair)])
def test_exact_inference_refuses_a_model_without_an_exact_posterior(model: str, inference: str) -> None:
    """In one line, which says what to write."""
    with pytest.raises(ppvae.PpvaeError, match="no exact posterior"):
        quick(model, inference)


@pairs
def test_training_improves_the_bound(model: str, inference: str) -> None:
    """After 200 steps the training data's bound is above the start by more than 5 of its standard errors."""
    x = CASES[model].data().train
    before, after = unmoved(model, inference), fitted(model, inference)
    gain = bound(after, of_training_data(after, x), x) - bound(before, of_training_data(before, x), x)
    assert z_statistic(gain) > 5


@pytest.mark.parametrize(
    ("num_particles", "batch_size", "kl"), [(1, 1, "analytic"), (3, 1, "mc"), (1, 7, "mc"), (3, 7, "analytic")]
)
@pairs
def test_any_number_of_particles_and_data(
    model: str, inference: str, num_particles: int, batch_size: int, kl: KL
) -> None:
    """S and B of 1 and more train under both forms of the KL term, and one datum can be evaluated by one draw."""
    result = quick(model, inference, num_particles=num_particles, batch_size=batch_size, kl=kl)
    assert result.history[-1]["step"] == 2 * math.ceil(12 / batch_size)
    assert all(math.isfinite(value) for pair in bounds(result) for value in pair)
    estimate = ppvae.log_marginal(result, tiny(model).test[:1], num_samples=1)
    assert estimate["log_marginal"].shape == (1,)
    assert estimate["log_marginal"].notnull().all()


def descend(model: str, inference: str, index: Tensor, steps: int = 4) -> tuple[ppvae.Model, ppvae.Strategy, set[str]]:
    """A few steps on the data `index` by hand; also the names of all parameters that a gradient has reached.

    The amortized head starts at zero weights, so the encoder is reached from the second step on.
    """
    x = CASES[model].data().train
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = CASES[model].make()
        if overrides(made, "start"):
            made.start(x)
        strategy = strategy_class(inference)(set_family(made, x), x)
        optimizer = torch.optim.Adam([*made.parameters(), *strategy.dense_parameters()], lr=0.01)
        reached = set()
        for _ in range(steps):
            optimizer.zero_grad()
            phi = strategy(ppvae.Batch(x[index], index), Bound(made, x[index], Estimator(kl="mc")))
            densities = ppvae.log_densities(made, ppvae.Posterior(made, phi), x[index])
            (-elbo(densities, kl="analytic").mean()).backward()
            optimizer.step()
            strategy.step_rows()
            reached |= {name for name, p in _parameters(made, strategy) if p.grad is not None and bool(p.grad.any())}
    return made, strategy, reached


def _parameters(model: ppvae.Model, strategy: ppvae.Strategy) -> list[tuple[str, nn.Parameter]]:
    return [
        *((f"θ {name}", p) for name, p in model.named_parameters()),
        *((f"λ {name}", p) for name, p in strategy.named_parameters()),
    ]


@pairs
def test_gradients_reach_every_parameter_and_no_other(model: str, inference: str) -> None:
    """θ, the weights that the guide owns and λ, each in some entry; rows that step by themselves get no dense one."""
    made, strategy, reached = descend(model, inference, torch.arange(10, 30))
    dense = {id(p) for p in [*made.parameters(), *strategy.dense_parameters()]}
    assert reached == {name for name, p in _parameters(made, strategy) if id(p) in dense}


@pytest.mark.parametrize(
    ("model", "parameter", "diagonal"), [("gmm-full", "off_diagonal", 0), ("dlgm", "factors.0", 1)]
)
def test_the_unused_triangle_of_a_factor_stays(model: str, parameter: str, diagonal: int) -> None:
    """What a lower-triangular factor does not read, no step moves; what it reads, every step does."""
    made, _, _ = descend(model, "amortized", torch.arange(10, 30))
    factor = made.get_parameter(parameter).detach()
    unused = torch.ones_like(factor).triu(diagonal).bool()
    assert not factor[unused].any()
    assert factor[~unused].all()


@pytest.mark.parametrize(("model", "inference"), ROWS)
def test_exactly_the_visited_rows_move(model: str, inference: str) -> None:
    """Every row of the batch moves; all others are bit-identical to the declared start."""
    visited = torch.arange(10, 30)
    _, strategy, _ = descend(model, inference, visited)
    table = strategy.get_parameter("table").detach()
    moved = (table != strategy.start).any(-1)
    assert moved.nonzero().flatten().tolist() == (visited.tolist() if strategy.layout.width else [])


@pytest.mark.parametrize("model", CASES)
def test_all_strategies_start_at_the_same_bound(model: str) -> None:
    """On the same noise; all but exact inference, whose φ is not the declared one."""
    x = CASES[model].data().train[:20]
    starts = [unmoved(model, inference) for inference in ppvae.list_inference() if inference != "exact"]
    first, *others = [bound(start, of_training_data(start, x), x) for start in starts]
    assert others
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(("model", "inference"), [pair for pair in PAIRS if pair[1] == "exact"])
def test_the_exact_bound_is_log_p(model: str, inference: str) -> None:
    """Draw by draw: log p(x, z) − log q(z) = log p(x) wherever q is the posterior."""
    result, x = fitted(model, inference), CASES[model].data().train
    with torch.no_grad(), torch.random.fork_rng():
        densities = ppvae.log_densities(result.model, result.posterior(x), x, 3)
        torch.testing.assert_close(elbo(densities, kl="mc"), result.model.log_prob(x), rtol=1e-4, atol=1e-3)


@pairs
def test_a_saved_fit_gives_the_same_numbers(model: str, inference: str, tmp_path: Any) -> None:
    """Weights, rows, history and estimates, bit by bit."""
    result, x = fitted(model, inference), CASES[model].data().test[:10]
    result.save(tmp_path / "fit")
    own = CASES[model].make(seed=1) if model in OWN else None
    again = ppvae.load(tmp_path / "fit", model=own)
    assert identical(weights(result), weights(again))
    assert (again.history, again.settings, again.stopped) == (result.history, result.settings, result.stopped)
    one, other = (ppvae.log_marginal(f, x, num_samples=30, seed=3) for f in (result, again))
    assert one.identical(other)


@pairs
def test_check_passes(model: str, inference: str) -> None:
    """For the fresh model and for the trained one."""
    x = CASES[model].data().train[:7]
    ppvae.check(CASES[model].make(), x)
    ppvae.check(fitted(model, inference).model, x)


@pairs
def test_densities_belong_to_the_datum(model: str, inference: str) -> None:
    """At given values, the densities of a datum are the same in any batch and in any order."""
    result, x = fitted(model, inference), CASES[model].data().train[:9]
    index = torch.tensor([7, 2, 5])
    posterior = of_training_data(result, x)
    with torch.no_grad(), torch.random.fork_rng():
        whole = ppvae.log_densities(result.model, posterior, x, 3)
        values = {name: value[:, index] for name, value in whole.values.items()}
        part = ppvae.log_densities(result.model, posterior.select(index), x[index], 3, values=values or None)
    for name in ("log_likelihood", "log_prior", "log_q"):
        torch.testing.assert_close(getattr(part, name), getattr(whole, name)[:, index], rtol=1e-5, atol=1e-4)


@pairs
def test_log_marginal_does_not_depend_on_chunk_size(model: str, inference: str) -> None:
    """Up to rounding; the data span two blocks of random numbers where there are enough, the draws three."""
    result, x = fitted(model, inference), CASES[model].data().train[:103]
    index = torch.arange(len(x)) if result.strategy.has_rows else None
    whole, *cut = (
        ppvae.log_marginal(result, x, index, num_samples=47, chunk_size=size) for size in (10**6, 1, 350, 1500)
    )
    for other in cut:
        for name in ("log_marginal", "elbo"):
            torch.testing.assert_close(
                torch.as_tensor(other[name].values), torch.as_tensor(whole[name].values), rtol=1e-5, atol=1e-4
            )


@pairs
def test_evaluation_changes_nothing(model: str, inference: str, untouched: Untouched) -> None:
    """No weight, gradient, buffer, training flag, random state, or entry of Pyro's store."""
    result, x = fitted(model, inference), CASES[model].data().test[:5]
    with untouched(result.model, result.strategy):
        result.posterior(x)
        of_training_data(result, CASES[model].data().train[:5])
        ppvae.log_marginal(result, x, num_samples=30)
        ppvae.check(result.model, x)


@pairs
def test_fit_leaves_its_argument_alone(model: str, inference: str, untouched: Untouched) -> None:
    """The model, the data and the global random state; the result is a copy, in evaluation mode."""
    given, data = CASES[model].make(), tiny(model)
    train = data.train.clone()
    with untouched(given):
        result = ppvae.fit(given, data, inference, epochs=2, batch_size=5, progress=False)
    assert torch.equal(data.train, train)
    assert not {p.data_ptr() for p in given.parameters()} & {p.data_ptr() for p in result.model.parameters()}
    assert not any(module.training for part in (result.model, result.strategy) for module in part.modules())


@pairs
def test_the_seed_decides_the_fit(model: str, inference: str) -> None:
    """The same seed gives the same bits, whatever the global random state; another seed gives another fit."""
    one = quick(model, inference, seed=3)
    with torch.random.fork_rng():
        torch.manual_seed(12345)
        again = quick(model, inference, seed=3)
    other = quick(model, inference, seed=4)
    assert identical(weights(one), weights(again))
    assert bounds(one) == bounds(again)
    assert not identical(weights(one), weights(other))


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
@pairs
def test_precisions_run_on_the_cpu(model: str, inference: str, precision: str) -> None:
    """Double weights under "64-true"; single ones, and the bound of "32-true" within bfloat16's 1%, under the mix."""
    result, reference = (quick(model, inference, precision=name) for name in (precision, "32-true"))
    dtype = torch.float64 if precision == "64-true" else torch.float32
    assert {p.dtype for part in (result.model, result.strategy) for p in part.parameters()} == {dtype}
    assert result.history[0]["train_bound"] == pytest.approx(reference.history[0]["train_bound"], rel=0.01)
    assert ppvae.log_marginal(result, tiny(model).test, num_samples=3)["log_marginal"].notnull().all()


# Per-datapoint rows


@pytest.mark.parametrize(("model", "inference"), ROWS)
def test_new_data_get_fresh_rows(model: str, inference: str) -> None:
    """Without an index rows are optimised anew, with a flag each; with one they are the table's own."""
    result, data = fitted(model, inference), CASES[model].data()
    fresh = result.posterior(data.test[:5])
    assert fresh.converged is not None
    assert (fresh.converged.shape, fresh.converged.dtype) == ((5,), torch.bool)
    assert all(len(value) == 5 for value in fresh.phi.values())
    index = torch.tensor([4, 0])
    own = result.posterior(data.train[index], index)
    expected = result.strategy.layout.unpack(result.strategy.get_parameter("table")[index])
    assert own.converged is None
    assert identical(own.phi, expected)


@pytest.mark.parametrize(("inner_steps", "epochs"), [(1, 20), (3, 12), ("converge", 6)])
@pytest.mark.parametrize("model", ["gmm", "vae"])
def test_inner_steps_improve(model: str, inner_steps: int | str, epochs: int) -> None:
    """Rows with θ, three steps ahead of it, and at convergence: each gains 5 standard errors on the start."""
    data = CASES[model].data()
    data = replace(data, train=data.train[:60], valid=data.valid[:4], labels=None)
    options: dict[str, Any] = {"inference_options": {"inner_steps": inner_steps, "max_steps": 75}, "batch_size": 30}
    moved = fit(model, "per-datapoint", data, lr=0.01, epochs=epochs, **options)
    still = fit(model, "per-datapoint", data, lr=STILL, lr_phi=STILL, epochs=1, **options)
    x = data.train
    gain = bound(moved, of_training_data(moved, x), x) - bound(still, of_training_data(still, x), x)
    assert z_statistic(gain) > 5


class Line(ppvae.Model):
    """x = 3 z + noise, whose posterior is a tenth as wide as the prior's variance; z is scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(3.0))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(self.slope * z.unsqueeze(-1), 1.0).to_event(1), obs=x)

    def log_prob(self, x: Tensor) -> Tensor:
        return dist.Normal(0.0, (1 + self.slope**2).sqrt()).log_prob(x.squeeze(-1))


@pytest.mark.parametrize(("make", "width"), [(Line, 1), (CASES["gmm"].make, 4)])
def test_converged_rows_have_nothing_left_to_gain(make: Callable[[], ppvae.Model], width: int) -> None:
    """With θ held still, log p(x) − bound of each row is within a few tolerances of its least value in the family.

    Both families hold the true posterior, so the least value is 0. A row stops once 25 steps at each of three rates
    gain less than the tolerance each, so what is left is of that order: 2 tolerances on average, 5 at worst. The
    bound of gmm is free of noise; that of the line has a standard error below 0.02 from 2000 draws.
    """
    x = CASES["gmm"].data().train[:40, :width]
    data, tolerance = ppvae.Data("a few", x, x[:4], x[:4], "gaussian", "real"), 0.02
    options = {"inner_steps": "converge", "tolerance": tolerance}
    result = ppvae.fit(
        make(),
        data,
        "per-datapoint",
        lr=STILL,
        epochs=1,
        inference_options=options,
        num_particles=8,
        progress=False,
    )
    exact = result.model.log_prob(x).detach()
    declared = result.strategy.layout.unpack(result.strategy.start.expand(40, -1))
    left_at_start, left = (
        exact - bound(result, posterior, x, particles=2000)
        for posterior in (ppvae.Posterior(result.model, declared), of_training_data(result, x))
    )
    assert left_at_start.mean() > 20 * tolerance
    assert left.mean() < 2 * tolerance
    assert left.max() < 5 * tolerance


def test_per_datapoint_inference_refuses_dynamic_data() -> None:
    """Rows of data that are redrawn at each visit would chase them; an encoder does not mind."""
    data = ppvae.load_data("digits", treatment="dynamic", num_train=20)
    with pytest.raises(ppvae.PpvaeError, match="dynamic"):
        fit("vae", "per-datapoint", data)
    assert fit("vae", "amortized", data, epochs=1).history


# The weights that a guide owns


@pytest.mark.parametrize("inference", ["amortized", "per-datapoint"])
def test_the_guides_own_weights_have_the_encoders_learning_rate(inference: str) -> None:
    """θ moves with lr alone; the links of the chain with lr_encoder alone."""
    start = unmoved("dlgm", inference)
    for lr, lr_encoder in ((0.01, STILL), (STILL, 0.01)):
        result = quick("dlgm", inference, lr=lr, lr_encoder=lr_encoder)
        reference = quick("dlgm", inference, lr=STILL)
        moved = {
            name
            for name, p in result.model.named_parameters()
            if not torch.allclose(p, reference.model.get_parameter(name), rtol=0, atol=1e-20)
        }
        links = {name for name in moved | set(dict(start.model.named_parameters())) if name.startswith("links.")}
        theta = set(dict(result.model.named_parameters())) - links
        assert moved == (links if lr == STILL else theta)


# The loop


def test_history_has_the_documented_keys() -> None:
    """One entry an evaluation: step, epoch, seconds and both bounds; time and steps rise."""
    history = quick("vae", "amortized", epochs=5, eval_every=2).history
    assert [set(entry) for entry in history] == [{"step", "epoch", "seconds", "train_bound", "valid_bound"}] * 3
    assert [(entry["epoch"], entry["step"]) for entry in history] == [(2, 6), (4, 12), (5, 15)]
    assert 0 < history[0]["seconds"] < history[1]["seconds"] < history[2]["seconds"]


class Modes(nn.Module):
    """An encoder that notes the mode in which it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(self.training)
        return x


def test_modules_train_in_training_mode_and_are_evaluated_in_the_other() -> None:
    """Three steps and an evaluation an epoch, back and forth, so that dropout in an encoder does its work."""
    result = quick("vae", "amortized", inference_options={"encoder": Modes()}, epochs=2, eval_every=1)
    encoder = result.strategy.get_submodule("encoder")
    assert isinstance(encoder, Modes)
    assert encoder.seen == [False, *2 * [True, True, True, False]]  # once when it is built, for its width


def test_early_stopping_returns_the_best_weights() -> None:
    """Those of the evaluation with the highest validation bound: a fit that ends there has the same bits."""
    data = ppvae.load_data("digits", num_train=40)
    options: dict[str, Any] = {"lr": 0.01, "eval_every": 2, "batch_size": 20}
    stopped = fit("vae", "amortized", data, epochs=1000, patience=3, **options)
    best = max(stopped.history, key=lambda entry: entry["valid_bound"])
    assert stopped.stopped == "patience"
    assert stopped.history.index(best) == len(stopped.history) - 4
    again = fit("vae", "amortized", data, epochs=int(best["epoch"]), **options)
    assert identical(weights(stopped), weights(again))


def test_max_seconds_stops() -> None:
    """At the first step that ends after it, with an evaluation; it does not count the time that those take."""
    result = quick("vae", "amortized", epochs=10**6, seconds=0.05)
    assert result.stopped == "seconds"
    assert 0.05 < result.seconds < 5
    assert result.history[-1]["seconds"] == result.seconds


def test_max_steps_stops() -> None:
    """At exactly that many steps, in the middle of an epoch, with an evaluation."""
    result = quick("vae", "amortized", epochs=10, eval_every=1, steps=4)
    assert result.stopped == "steps"
    assert [(entry["epoch"], entry["step"]) for entry in result.history] == [(1, 3), (2, 4)]


class Plunge(ppvae.Model):
    """The scale of x is 1 − w; the data want w near 1, and the step after reaching it is NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.85))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1e-3).to_event(1))
            pyro.sample("x", dist.Normal(z, (1 - self.w).log().exp()).to_event(1), obs=x)


@pytest.mark.parametrize("inference", ["amortized", "per-datapoint"])
def test_nan_stops_training(inference: str) -> None:
    """The message names the step and the site, in one line: w passes 1 in the second step, which the third one sees."""
    x = 1e-3 * torch.randn(20, 1, generator=torch.Generator().manual_seed(0))
    data = ppvae.Data("narrow", x, x[:4], x[:4], "gaussian", "real")
    with pytest.raises(NonFiniteError, match=r"loss became nan at step 2: .*site x\b") as caught:
        fit_own(Plunge(), data, inference, lr=0.1)
    assert "\n" not in str(caught.value)


def fit_own(model: ppvae.Model, data: ppvae.Data, inference: str, **options: Any) -> ppvae.Fit:
    """A few epochs in which q stays where it starts."""
    rows = {"lr_phi": STILL} if inference == "per-datapoint" else {}
    return ppvae.fit(model, data, inference, epochs=5, progress=False, lr_encoder=STILL, **rows, **options)


class OneSided(ppvae.Model):
    """Scores x under a distribution on the positive half line without checking that it is there."""

    def __init__(self) -> None:
        super().__init__()
        self.shape = nn.Parameter(torch.tensor(2.0))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Gamma(self.shape, x.new_ones(1), validate_args=False).to_event(1), obs=x)


def test_nan_in_the_validation_bound_names_the_site_too() -> None:
    """Where only a validation datum breaks the model, its site is named, although every training density is finite."""
    x = torch.rand(20, 1, generator=torch.Generator().manual_seed(0)) + 0.5
    data = ppvae.Data("half line", x, torch.cat([x[:3], -x[:1]]), x[:4], "gaussian", "real")
    with pytest.raises(NonFiniteError, match=r"validation bound became nan at step 1: .*site x\b"):
        fit_own(OneSided(), data, "amortized", eval_every=1)


def test_unknown_options_are_refused() -> None:
    """A strategy's option that does not exist is an error that guesses the one meant."""
    with pytest.raises(ppvae.PpvaeError, match="inner_steps"):
        quick("vae", "per-datapoint", inference_options={"iner_steps": 2})


def test_documented_arguments_are_the_arguments() -> None:
    """Every argument of `fit` stands in its docstring, and nothing is swallowed by **kwargs."""
    parameters = inspect.signature(ppvae.fit).parameters.values()
    text = inspect.getdoc(ppvae.fit) or ""
    assert not [p.name for p in parameters if p.kind is p.VAR_KEYWORD or p.name not in text]
