"""Adam on rows and its stopping rule, on objectives whose optimum is known.

The noisy quadratic −½ c |r − t + σ ε|², ε ~ Normal(0, I), has its maximum over r at t in expectation, and at
t − σ ε̄ on the 8 common draws that rows are compared on: a deviation of σ/√8 in each coordinate that no stopping
rule can avoid. Limits are that, times 5 (a false alarm rate of 6e-7 a coordinate, 1e-4 over all), plus what the
tolerance in nats leaves.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import Untouched
from torch import Tensor, nn

import ppvae
from ppvae.inference import PerDatapoint
from ppvae.pair.guide_family import set_family
from ppvae.variational.bound import Bound
from ppvae.variational.estimator import Estimator
from ppvae.variational.objectives.elbo import elbo
from ppvae.variational.rows import RowBound, RowFit, RowState, adam_step, fit_rows, row_gradient

LR, TOLERANCE = 0.05, 0.01


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quadratic(target: Tensor, curvature: float = 1.0, noise: float = 0.0) -> RowBound:
    """−½ c |r − t + σ ε|² of each row."""

    def bound(rows: Tensor, which: Tensor) -> Tensor:
        off = rows - target[which] + (noise * torch.randn_like(target)[which] if noise else 0.0)
        return -0.5 * curvature * off.square().sum(-1)

    return bound


def optimise(bound: RowBound, start: Tensor, max_steps: int = 2000, seed: int = 0) -> RowFit:
    return fit_rows(start, bound, lr=LR, max_steps=max_steps, tolerance=TOLERANCE, seed=seed)


# adam_step


def test_one_row_is_torchs_adam() -> None:
    """The same 100 gradients, of sizes from 1e-3 to 1e3, take a row along torch.optim.Adam's path."""
    gradients = torch.randn(100, 1, 4, generator=generator(), dtype=torch.float64)
    gradients *= torch.logspace(-3, 3, 4, dtype=torch.float64)
    rows, reference = torch.zeros(1, 4, dtype=torch.float64), nn.Parameter(torch.zeros(1, 4, dtype=torch.float64))
    state, optimizer = RowState.zeros(rows), torch.optim.Adam([reference], lr=LR, maximize=True)
    for gradient in gradients:
        adam_step(rows, gradient, state, LR)
        reference.grad = gradient
        optimizer.step()
        torch.testing.assert_close(rows, reference.detach(), rtol=1e-10, atol=1e-12)


def test_each_row_has_its_own_count() -> None:
    """A row visited at every third step ends where torch's Adam takes it alone."""
    gradients = torch.randn(30, 2, 3, generator=generator(), dtype=torch.float64)
    rows, alone = torch.zeros(2, 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)
    state, own = RowState.zeros(rows), RowState.zeros(alone)
    for step, gradient in enumerate(gradients):
        index = torch.tensor([0, 1] if step % 3 == 0 else [0])
        part, chosen = rows[index], state.select(index)
        adam_step(part, gradient[index], chosen, LR)
        rows[index] = part
        state.exp_avg[index], state.exp_avg_sq[index], state.steps[index] = (
            chosen.exp_avg,
            chosen.exp_avg_sq,
            chosen.steps,
        )
        if step % 3 == 0:
            adam_step(alone, gradient[1:], own, LR)
    assert state.steps.tolist() == [30, 10]
    torch.testing.assert_close(rows[1:], alone, rtol=0, atol=0)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_the_first_step_is_as_long_as_the_learning_rate(size: float) -> None:
    """Whatever the gradient's size, and however many steps other rows have taken."""
    rows = torch.zeros(2, 3, dtype=torch.float64)
    state = RowState.zeros(rows)
    state.steps[0] = 1000
    gradient = size * torch.randn(2, 3, generator=generator(), dtype=torch.float64)
    adam_step(rows, gradient, state, LR)
    # eps = 1e-8 shortens the step where the gradient is as small
    torch.testing.assert_close(rows[1].abs(), torch.full_like(rows[1], LR), rtol=0.2 if size < 1e-3 else 1e-6, atol=0)
    assert (rows[1].abs() <= LR).all()


def test_a_row_gradient_is_the_rows_own() -> None:
    """Of −½ |r − t|²: t − r, in any gradient mode, leaving no gradient behind."""
    rows, target = torch.randn(2, 5, 3, generator=generator())
    with torch.no_grad():
        gradient = row_gradient(rows, lambda r: -0.5 * (r - target).square().sum(-1))
    torch.testing.assert_close(gradient, target - rows)
    assert rows.grad is None
    assert not rows.requires_grad


# fit_rows


@pytest.mark.parametrize("curvature", [0.3, 1.0, 30.0])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_rows_reach_a_known_optimum(curvature: float, noise: float) -> None:
    """50 rows of 3 coordinates, each to within the noise of the common draws and a few tolerances, and so flagged."""
    target = torch.randn(50, 3, generator=generator())
    result = optimise(quadratic(target, curvature, noise), torch.zeros(50, 3))
    assert result.converged.all()
    left = math.sqrt(2 * 4 * TOLERANCE / curvature)
    assert (result.rows - target).abs().max() < 5 * noise / math.sqrt(8) + left


def test_too_few_steps_are_not_convergence() -> None:
    """A row that is still on its way is returned where it is, better than at the start, and not flagged."""
    target = torch.full((4, 2), 50.0)
    start = torch.zeros(4, 2)
    result = optimise(quadratic(target), start, max_steps=100)
    assert result.steps == 100
    assert not result.converged.any()
    assert (result.rows > 2).all()
    assert (result.bound > quadratic(target)(start, torch.arange(4))).all()


@pytest.mark.parametrize("seed", range(5))
def test_noise_does_not_pass_for_progress(seed: int) -> None:
    """Without a slope but for noise, ε · r: rows stop, and none is worse than it was on the common draws."""

    def bound(rows: Tensor, which: Tensor) -> Tensor:
        return (rows * torch.randn(20, 3)[which]).sum(-1)

    start = torch.zeros(20, 3)
    result = optimise(bound, start, seed=seed)
    assert result.converged.all()
    assert (result.bound >= optimise(bound, start, max_steps=0, seed=seed).bound).all()


def test_the_bound_is_that_of_the_rows() -> None:
    """What is reported is the objective at the rows returned, on the common draws of the seed."""
    bound = quadratic(torch.randn(6, 3, generator=generator()), noise=0.5)
    result = optimise(bound, torch.zeros(6, 3), seed=4)
    again = optimise(bound, result.rows, max_steps=0, seed=4)
    torch.testing.assert_close(again.bound, result.bound)
    assert torch.equal(again.rows, result.rows)


def test_constant_noise_is_seen_through() -> None:
    """Noise that is the same wherever the row is, of 100 nats, does not delay or stop the rows."""
    target = torch.randn(20, 3, generator=generator())
    plain = quadratic(target)

    def bound(rows: Tensor, which: Tensor) -> Tensor:
        return plain(rows, which) + 100 * torch.randn(len(target))[which]

    result = optimise(bound, torch.zeros(20, 3))
    assert result.converged.all()
    assert (result.rows - target).abs().max() < math.sqrt(2 * 4 * TOLERANCE)


def test_easy_rows_do_not_wait_for_hard_ones() -> None:
    """Near rows converge and cost no further gradient; far ones take all the steps there are and are flagged."""
    target = torch.cat([torch.full((6, 2), 0.3), torch.full((2, 2), 500.0)])
    plain, sizes = quadratic(target), []

    def bound(rows: Tensor, which: Tensor) -> Tensor:
        if rows.requires_grad:
            sizes.append(len(which))
        return plain(rows, which)

    result = optimise(bound, torch.zeros(8, 2), max_steps=400)
    assert result.converged.tolist() == [True] * 6 + [False] * 2
    assert result.steps == len(sizes) == 400
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 8
    assert sizes[-1] == 2


def test_rows_do_not_depend_on_their_company() -> None:
    """Without noise a row ends at the same place alone and beside others."""
    target = torch.randn(8, 3, generator=generator())
    together = optimise(quadratic(target), torch.zeros(8, 3))
    alone = optimise(quadratic(target[5:6]), torch.zeros(1, 3))
    torch.testing.assert_close(together.rows[5:6], alone.rows, rtol=0, atol=1e-6)


def test_rows_of_no_width_have_converged() -> None:
    """A family without local parameters has nothing to optimise."""
    result = optimise(lambda rows, which: rows.sum(-1), torch.zeros(5, 0))
    assert result.converged.tolist() == [True] * 5
    assert result.steps == 0


def test_a_row_without_a_finite_bound_has_not_converged() -> None:
    """The objective of row 0 is NaN throughout; the others do not mind."""
    target = torch.randn(3, 2, generator=generator())
    plain = quadratic(target)

    def bound(rows: Tensor, which: Tensor) -> Tensor:
        return torch.where(which == 0, torch.nan, plain(rows, which))

    assert optimise(bound, torch.zeros(3, 2)).converged.tolist() == [False, True, True]


def test_a_step_over_the_edge_is_taken_back() -> None:
    """An objective that is NaN for r > 1, rising towards 0.97: the row ends near there, or is not called converged."""

    def bound(rows: Tensor, which: Tensor) -> Tensor:
        return -50 * (rows - 0.97).square().sum(-1) + 0 * (1 - rows).sqrt().sum(-1)

    result = fit_rows(torch.zeros(1, 1), bound, lr=0.3, max_steps=1000, tolerance=TOLERANCE, seed=0)
    assert result.rows.isfinite().all()
    assert not result.converged.item() or abs(result.rows.item() - 0.97) < 0.05


def test_optimising_leaves_no_trace(untouched: Untouched) -> None:
    """The start, the random state and the gradient mode are as they were, and the seed alone decides the result."""
    target, start = torch.randn(5, 3, generator=generator()), torch.zeros(5, 3)
    bound = quadratic(target, noise=0.3)
    with untouched():
        one = optimise(bound, start, max_steps=100, seed=3)
    torch.rand(1)
    again, other = (optimise(bound, start, max_steps=100, seed=seed) for seed in (3, 4))
    assert not start.any()
    assert torch.equal(one.rows, again.rows)
    assert not torch.equal(one.rows, other.rows)


# The table


class Line(ppvae.Model):
    """x = z + noise."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.ones(()))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.slope * z, 0.5).to_event(1), obs=x)


def step(strategy: PerDatapoint, model: ppvae.Model, x: Tensor, index: Tensor) -> None:
    """What the training loop does with a batch, θ left alone."""
    phi = strategy(ppvae.Batch(x[index], index), Bound(model, x[index], Estimator(kl="mc")))
    densities = ppvae.log_densities(model, ppvae.Posterior(model, phi), x[index])
    (-elbo(densities, kl="analytic").mean()).backward()
    strategy.step_rows()


def table(n: int = 50, inner_steps: int = 1) -> tuple[PerDatapoint, ppvae.Model, Tensor]:
    x = torch.randn(n, 2, generator=generator())
    model = set_family(Line(), x)
    return PerDatapoint(model, x, inner_steps=inner_steps, lr=LR), model, x


@pytest.mark.parametrize("inner_steps", [1, 4])
def test_a_step_touches_the_rows_of_the_batch_alone(inner_steps: int) -> None:
    """B rows of the table, of both moments and of the counts, which rise by as many as there are inner steps."""
    strategy, model, x = table(inner_steps=inner_steps)
    before = {name: value.clone() for name, value in strategy.state_dict().items()}
    index = torch.tensor([41, 7, 19])
    step(strategy, model, x, index)
    for name in ("table", "exp_avg", "exp_avg_sq", "steps"):
        changed = (strategy.state_dict()[name] != before[name]).reshape(50, -1).any(-1)
        assert changed.nonzero().flatten().tolist() == [7, 19, 41], name
    assert strategy.steps[index].tolist() == [inner_steps] * 3
    assert torch.equal(strategy.start, before["start"])


def test_a_row_first_visited_late_takes_no_longer_step() -> None:
    """After 100 steps on others, a row moves by no more than lr at its first."""
    strategy, model, x = table()
    for _ in range(100):
        step(strategy, model, x, torch.tensor([0, 1]))
    before = strategy.table.detach().clone()
    step(strategy, model, x, torch.tensor([2, 0]))
    moved = (strategy.table.detach() - before)[2].abs()
    assert (moved > 0.5 * LR).all()
    assert (moved < LR * (1 + 1e-5)).all()


@pytest.mark.parametrize("size", [1, 2, 50])
def test_a_row_has_the_gradient_of_its_own_bound(size: int) -> None:
    """Not of the batch's mean: after one step the first moment is (1 − β₁) times it, whatever B."""
    strategy, model, x = table()
    index = torch.arange(size)
    phi = strategy(ppvae.Batch(x[index], index), Bound(model, x[index], Estimator(kl="mc")))
    slope = torch.tensor([3.0, -0.5])
    (-(slope * phi["z_loc"]).sum(-1).mean()).backward()
    strategy.step_rows()
    torch.testing.assert_close(strategy.exp_avg[:size, :2], 0.1 * slope.expand(size, 2))


def test_a_step_costs_the_same_for_any_number_of_data() -> None:
    """The rows that autograd sees are a batch: no gradient of the table's size is made."""
    strategy, model, x = table(n=1000)
    step(strategy, model, x, torch.arange(5))
    assert strategy.table.grad is None
    assert strategy.dense_parameters() == []
