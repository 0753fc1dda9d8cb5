"""The Gaussian mixture's start, its variance floor, and weights of earlier versions."""

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.mixture import GaussianMixture
from torch import Tensor

import ppvae
from ppvae.models import GMM

both_covariances = pytest.mark.parametrize("covariance", ["diagonal", "full"])


def iris() -> Tensor:
    return ppvae.load_data("iris").train


def made(x_dim: int = 4, **options: Any) -> GMM:
    return cast(GMM, ppvae.create("gmm", x_dim=x_dim, **options))


def started(x: Tensor, seed: int = 0, **options: Any) -> GMM:
    torch.manual_seed(seed)
    model = made(x.shape[1], **options)
    model.start(x)
    return model


def spreads(model: GMM) -> Tensor:
    """The variances of the components, [K, x_dim]."""
    return model.components().variance.detach()


def fitted(x: Tensor, **options: Any) -> GMM:
    """A mixture after 30 epochs on x."""
    data = ppvae.Data("rows", x, x[:20], x[:20], "gaussian", "real")
    model = made(x.shape[1], **options)
    return cast(GMM, ppvae.fit(model, data, "exact", lr=0.02, epochs=30, batch_size=len(x), progress=False).model)


# Start


@both_covariances
def test_the_start_depends_on_torchs_random_state_alone(
    covariance: str, untouched: Callable[..., AbstractContextManager[None]]
) -> None:
    first, again = (started(iris(), covariance=covariance).state_dict() for _ in range(2))
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    with untouched(), torch.random.fork_rng():  # NumPy's and Python's random states stay as they are
        started(iris())


def test_ten_starts_reach_one_optimum_and_a_single_one_does_not() -> None:
    """Centres after ten starts agree for ten seeds, in units of the data's deviations; after one they do not."""

    def spread(num_starts: int) -> float:
        centres = torch.stack([started(iris(), seed, num_starts=num_starts).raw_loc.detach() for seed in range(10)])
        centres = centres.gather(1, centres[..., :1].argsort(1).expand_as(centres))
        return (centres.amax(0) - centres.amin(0)).max().item()

    assert spread(10) < 0.1
    assert spread(1) > 0.5


@both_covariances
def test_centres_and_weights_are_those_of_the_best_em(covariance: str) -> None:
    """The best of ten runs of scikit-learn, each made alone, by the log likelihood of the training data."""
    x = ppvae.load_data("mixture").train
    standard = ((x - x.mean(0)) / x.std(0, correction=0)).double().numpy()
    runs = [
        GaussianMixture(4, covariance_type="full" if covariance == "full" else "diag", random_state=s).fit(standard)
        for s in range(10)
    ]
    best = max(runs, key=lambda run: run.score(standard))
    model = started(x, covariance=covariance, num_components=4)
    order = torch.as_tensor(best.weights_).argsort(descending=True)
    weights = model.logits.softmax(-1).double()
    torch.testing.assert_close(weights, torch.as_tensor(best.weights_)[order], rtol=0, atol=0.02)
    torch.testing.assert_close(model.raw_loc.double(), torch.as_tensor(best.means_)[order], rtol=0, atol=0.02)
    torch.testing.assert_close(spreads(model), (1.001 * x.var(0, correction=0)).expand(4, 2))


def test_every_strategy_and_seed_of_the_comparison_ends_at_scikit_learns_optimum() -> None:
    """log p of the test data within 0.01 nats/datum of GaussianMixture's, with the settings that are registered."""
    data = ppvae.load_data("iris")
    em = GaussianMixture(3, covariance_type="diag", n_init=10, tol=1e-8, max_iter=5000, random_state=0)
    expected = em.fit(data.train.numpy()).score(data.test.numpy())
    rows = ppvae.compare("gmm", ["amortized", "exact", "per-datapoint"], seeds=[0, 1], progress=False).rows
    assert len(rows) == 6
    for row in rows:
        assert row.log_marginal == pytest.approx(expected, abs=0.01)


@both_covariances
def test_few_rows_and_equal_rows_start_without_a_warning(covariance: str) -> None:
    alone = started(torch.tensor([[1.0, 2.0]]), num_components=1, covariance=covariance)
    torch.testing.assert_close(alone.components().mean, torch.tensor([[1.0, 2.0]]))
    equal = torch.tensor([[1.0, 2.0], [3.0, 5.0]]).repeat_interleave(4, 0)
    assert started(equal, num_components=3, covariance=covariance).log_prob(equal).isfinite().all()
    with pytest.raises(ppvae.PpvaeError, match="at least as many data, got 1"):
        started(equal[:1], num_components=2)


def test_of_many_rows_a_random_part_is_enough() -> None:
    """Of 20,000 rows around two points, EM sees 5000, and the centres are the two points' all the same."""
    torch.manual_seed(3)
    x = torch.randn(20_000, 2) + torch.tensor([[-6.0, 2.0], [6.0, 2.0]]).repeat(10_000, 1)
    model = started(x, num_components=2)
    centres = model.components().mean
    torch.testing.assert_close(
        centres[centres[:, 0].argsort()], torch.tensor([[-6.0, 2.0], [6.0, 2.0]]), rtol=0, atol=0.1
    )
    torch.testing.assert_close(model.shift, x.mean(0))


# Floor


@both_covariances
@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_rescaled_data_have_the_same_fit(covariance: str, factor: float) -> None:
    """log p(a x) = log p(x) − D log a, at the start and after training, with a constant column among the D = 5."""
    x = torch.cat([iris(), torch.full((len(iris()), 1), 0.7)], 1)
    for make in (started, fitted):
        torch.manual_seed(0)
        here, there = (make(rows, covariance=covariance).log_prob(rows) for rows in (x, factor * x))
        torch.testing.assert_close(there, here - 5 * math.log(factor), rtol=0, atol=2e-3)


def test_columns_in_units_of_their_own_have_the_same_fit() -> None:
    units = torch.tensor([1e-3, 1.0, 30.0, 1e4])
    here, there = (fitted(rows).log_prob(rows) for rows in (iris(), iris() * units))
    torch.testing.assert_close(there, here - units.log().sum(), rtol=0, atol=2e-3)


@both_covariances
def test_the_floor_is_a_fraction_of_each_columns_variance(covariance: str) -> None:
    """However narrow the components become, their variances are the fraction."""
    x = iris()
    model = started(x, covariance=covariance, relative_floor=0.02)
    with torch.no_grad():
        model.log_scale.fill_(-30)
    torch.testing.assert_close(spreads(model), (0.02 * x.var(0, correction=0)).expand(3, 4))
    absolute = started(x, covariance=covariance, variance_floor=0.3, relative_floor=0.02)
    with torch.no_grad():
        absolute.log_scale.fill_(-30)
    torch.testing.assert_close(spreads(absolute), torch.full((3, 4), 0.3))


def test_a_constant_column_counts_as_one_of_the_mean_variance_of_the_others() -> None:
    """A column that varies by rounding alone is constant too."""
    torch.manual_seed(1)
    x = torch.randn(50, 4) * torch.tensor([1.0, 3.0, 0.0, 0.0]) + torch.tensor([0.0, 0.0, 0.1, 1e5])
    x[::2, 3] = torch.nextafter(x[0, 3], torch.tensor(torch.inf))
    assert x[:, 3].std() > 0
    model = started(x)
    typical = x[:, :2].var(0, correction=0).mean()
    torch.testing.assert_close(model.floor[2:], 1e-3 * typical.expand(2))
    torch.testing.assert_close(model.scale[2:], typical.sqrt().expand(2))
    assert fitted(x).log_prob(x).isfinite().all()
    assert started(torch.ones(9, 2)).floor.tolist() == pytest.approx([1e-3, 1e-3])


# Weights of earlier versions


@both_covariances
@pytest.mark.parametrize(("options", "floor"), [({}, 1e-6), ({"variance_floor": 0.25}, 0.25)])
def test_weights_without_a_floor_have_the_absolute_one(covariance: str, options: dict[str, Any], floor: float) -> None:
    """Earlier versions added 1e-6, or the option variance_floor, and saved no floor."""
    model = started(iris(), covariance=covariance, **options)
    with torch.no_grad():
        model.log_scale.fill_(-30)
    earlier = model.state_dict()
    del earlier["floor"]
    keys = set(earlier)
    for fresh in (made(covariance=covariance, **options), copy.deepcopy(model)):
        fresh.load_state_dict(earlier)
        torch.testing.assert_close(spreads(fresh), torch.full((3, 4), floor))
    assert set(earlier) == keys
    again = made(covariance=covariance, **options)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.floor, model.floor)
    torch.testing.assert_close(again.log_prob(iris()), model.log_prob(iris()))


def test_weights_of_something_else_are_still_refused() -> None:
    with pytest.raises(RuntimeError, match="floor"):
        GMM(4).load_state_dict({})


@pytest.mark.parametrize("inference", ["exact", "per-datapoint", "amortized"])
def test_a_fit_that_an_earlier_version_saved_is_the_same_model(tmp_path: Path, inference: str) -> None:
    data = ppvae.load_data("iris")
    fit = ppvae.fit(made(), data, inference, epochs=2, progress=False)
    fit.save(tmp_path / "fit")
    weights = load_file(tmp_path / "fit" / "weights.safetensors")
    save_file(
        {name: t for name, t in weights.items() if not name.endswith("floor")},
        tmp_path / "fit" / "weights.safetensors",
    )
    model = cast(GMM, fit.model)
    model.floor.fill_(1e-6)
    read = cast(GMM, ppvae.load(tmp_path / "fit").model)
    assert torch.equal(read.log_prob(data.test), model.eval().log_prob(data.test))
