"""Pictures: what is drawn is what the data say, and what cannot be drawn is refused by name."""

import math
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import AxLine
from pictures import drawn, labels
from torch import Tensor
from torch.distributions import MultivariateNormal

import ppvae
from ppvae import PpvaeError, plots
from ppvae.catalogue import STRATEGIES
from ppvae.models import GMM, PPCA, VAE
from ppvae.tasks.clustering import cluster
from ppvae.tasks.density import density_on_grid

# Colours


def test_a_colour_is_a_function_of_the_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another strategy of an earlier name shifts none, and the zoo's are apart from those of all others."""
    before = {name: plots.colour(name) for name in ("amortized", "per-datapoint", "exact", "semi-amortized", "mine")}
    monkeypatch.setitem(STRATEGIES.__dict__, "_elsewhere", {})
    STRATEGIES.register("a-strategy")(type("AStrategy", (ppvae.Strategy,), {}))
    assert {name: plots.colour(name) for name in before} == before
    zoo = {plots.colour(name) for name in ("amortized", "per-datapoint", "exact", "semi-amortized")}
    assert len(zoo) == 4
    others = {plots.colour(f"mine-{i}") for i in range(50)}
    assert len(others) == 3
    assert not zoo & others


# Bounds over time


def history(*bounds: float, start: float = 1.0) -> list[dict[str, float]]:
    return [
        {"step": 10 * i, "epoch": i, "seconds": start + i, "train_bound": bound + 1, "valid_bound": bound}
        for i, bound in enumerate(bounds)
    ]


def test_a_line_a_seed_in_the_colour_of_its_strategy(ax: Axes) -> None:
    histories = {"amortized": [history(-9, -5, -4), history(-8, -5, -3)], "exact": [history(-7, -2)]}
    assert plots.bound_against_seconds(histories, ax) is ax
    lines = ax.get_lines()
    assert [np.asarray(line.get_ydata()).tolist() for line in lines] == [[-9, -5, -4], [-8, -5, -3], [-7, -2]]
    assert np.asarray(lines[0].get_xdata()).tolist() == [1, 2, 3]
    assert [line.get_color() for line in lines] == [plots.colour(n) for n in ("amortized", "amortized", "exact")]
    assert labels(ax) == ["amortized", "exact"]
    assert "seconds" in ax.get_xlabel()
    assert "nats/datum" in ax.get_ylabel()
    assert "cut" not in ax.get_ylabel()
    low, high = ax.get_ylim()
    assert low < -9 < -2 < high
    assert ax.get_xlim()[0] == 0
    drawn(ax)


def test_an_awful_start_is_cut_off_and_the_axis_says_so(ax: Axes) -> None:
    """Nine tenths of every line stay in sight, also of the one that is bad throughout."""
    rising = [-30 + 10 * (1 - math.exp(-i / 5)) for i in range(39)]
    plots.bound_against_seconds({"amortized": [history(-5000, *rising)], "exact": [history(*[-60.0] * 20)]}, ax)
    low, high = ax.get_ylim()
    assert -100 < low < -60
    assert max(rising) < high < -10
    assert "cut off" in ax.get_ylabel()
    drawn(ax)


def test_bounds_that_are_not_finite_do_not_decide_the_limits(ax: Axes) -> None:
    plots.bound_against_seconds({"exact": [history(-math.inf, math.nan, -5, -4)]}, ax)
    low, high = ax.get_ylim()
    assert -10 < low < -5 < -4 < high < 0
    drawn(ax)


def test_a_single_evaluation_is_a_dot(ax: Axes) -> None:
    plots.bound_against_seconds({"exact": [history(-5)]}, ax)
    assert ax.get_lines()[0].get_marker() == "o"
    drawn(ax)


@pytest.mark.parametrize("histories", [{}, {"exact": []}, {"exact": [[]]}, {"exact": [history(math.nan)]}])
def test_no_bound_is_no_picture(histories: Any, ax: Axes) -> None:
    with pytest.raises(PpvaeError, match="no history holds a validation bound"):
        plots.bound_against_seconds(histories, ax)


# Estimates


def estimates(values: list[float], se: float = 0.1, ok: list[bool] | None = None, running: Any = None) -> xr.Dataset:
    size = len(values)
    found = xr.Dataset(
        {
            "log_marginal": ("datum", np.array(values)),
            "log_marginal_se": ("datum", np.full(size, se)),
            "ok": ("datum", np.ones(size, bool) if ok is None else np.array(ok)),
        }
    )
    if running is not None:
        found["running"] = (("datum", "num_draws"), np.array(running, dtype=float))
        found = found.assign_coords(num_draws=[1, 2, 3])
    return found


def points(ax: Axes) -> dict[tuple[float, float], tuple[Any, Any]]:
    """(x, y) → the colours of the edge and of the face, of every point with an error bar."""
    out = {}
    for container in ax.containers:
        assert isinstance(container, ErrorbarContainer)
        assert container.has_xerr
        assert container.has_yerr
        line = container.lines[0]
        assert line is not None
        for x, y in zip(*(np.asarray(data) for data in line.get_data()), strict=True):
            out[float(x), float(y)] = (line.get_color(), line.get_markerfacecolor())
    return out


def test_points_per_datum_say_which_is_higher_and_which_is_ok(ax: Axes) -> None:
    one = estimates([-10, -20, -30, -40], ok=[True, True, False, True])
    other = estimates([-9, -22, -27, -41], ok=[True, True, True, False])
    assert plots.per_datum(one, other, ax, names=("amortized", "exact")) is ax
    low, high = plots.colour("amortized"), plots.colour("exact")
    assert points(ax) == {
        (-10, -9): (high, high),
        (-20, -22): (low, low),
        (-30, -27): (high, "white"),
        (-40, -41): (low, "white"),
    }
    assert labels(ax) == ["amortized higher", "exact higher", "not ok (k̂, ESS)"]
    difference = np.array([1, -2, 3, -1])
    se = difference.std(ddof=1) / 2
    assert ax.get_title() == f"exact − amortized: +0.250 ± {se:.3f} nats/datum"
    assert ax.get_xlabel() == "log p̂(x) under amortized (nats)"
    assert ax.get_ylabel() == "log p̂(x) under exact (nats)"
    (diagonal,) = (line for line in ax.get_lines() if isinstance(line, AxLine))
    assert diagonal.get_slope() == 1
    assert diagonal.get_xy1() == (-10, -10)
    drawn(ax)


def test_error_bars_are_standard_errors(ax: Axes) -> None:
    plots.per_datum(estimates([-10.0], se=0.25), estimates([-9.0], se=0.5), ax, names=("amortized", "exact"))
    segments = [s for c in ax.containers for bars in c.lines[2] for s in bars.get_segments()]  # type: ignore[attr-defined]
    assert sorted(np.abs(s[1] - s[0]).max() for s in segments) == [0.5, 1.0]
    assert ax.get_title() == "exact − amortized: +1.000 nats/datum"  # a single datum has no standard error
    drawn(ax)


def test_data_without_a_density_are_left_out_and_counted(ax: Axes) -> None:
    plots.per_datum(estimates([-1, -math.inf, -3]), estimates([-2, -2, -4]), ax, names=("amortized", "exact"))
    assert set(points(ax)) == {(-1, -2), (-3, -4)}
    assert ax.get_title() == "exact − amortized: −1.000 ± 0.000 nats/datum (without 1 data)"
    drawn(ax)


@pytest.mark.parametrize(
    ("one", "other", "named"),
    [([-1.0], [-1.0, -2.0], "amortized has 1 data and exact 2"), ([-math.inf], [-1.0], "finite estimate under both")],
)
def test_estimates_that_make_no_pairs_are_refused(one: list[float], other: list[float], named: str, ax: Axes) -> None:
    with pytest.raises(PpvaeError, match=named):
        plots.per_datum(estimates(one), estimates(other), ax, names=("amortized", "exact"))


def test_convergence_is_the_mean_of_the_running_estimates(ax: Axes) -> None:
    """Open where fewer than half of the data are ok; a level line for what took no samples, and for the truth."""
    found = {
        "amortized": estimates([-4, -6], ok=[True, False], running=[[-8, -6, -4], [-10, -8, -6]]),
        "per-datapoint": estimates([-4, -6], ok=[False, False], running=[[-9, -6, -4], [-9, -9, -6]]),
        "exact": estimates([-4, -5]),
    }
    assert plots.convergence(found, ax, exact=-4.25) is ax
    amortized, rows, exact, truth = ax.get_lines()
    assert np.asarray(amortized.get_xdata()).tolist() == [1, 2, 3]
    assert np.asarray(amortized.get_ydata()).tolist() == [-9, -7, -5]
    assert amortized.get_color() == amortized.get_markerfacecolor() == plots.colour("amortized")
    assert np.asarray(rows.get_ydata()).tolist() == [-9, -7.5, -5]
    assert (rows.get_color(), rows.get_markerfacecolor()) == (plots.colour("per-datapoint"), "white")
    assert set(np.asarray(exact.get_ydata())) == {-4.5}
    assert exact.get_color() == plots.colour("exact")
    assert set(np.asarray(truth.get_ydata())) == {-4.25}
    assert truth.get_linestyle() == "--"
    assert labels(ax) == ["amortized, 50% of data ok", "per-datapoint, 0% of data ok", "exact, exact", "exact log p"]
    assert ax.get_xscale() == "log"
    assert ax.get_xlabel() == "importance samples per datum"
    assert "nats/datum; open: most data not ok" in ax.get_ylabel()
    drawn(ax)


def test_estimates_without_samples_alone_are_a_level_line(ax: Axes) -> None:
    plots.convergence({"exact": estimates([-4, -5])}, ax)
    assert set(np.asarray(ax.get_lines()[0].get_ydata())) == {-4.5}
    assert "open" not in ax.get_ylabel()
    drawn(ax)


def test_convergence_of_real_estimates(ax: Axes) -> None:
    """What log_marginal returns goes in as it is, and nothing is open where all is well."""
    fit = gaussian_fit()
    x = torch.randn(20, 3)
    found = ppvae.log_marginal(fit, x, num_samples=100)
    plots.convergence({"exact": found}, ax)
    (line,) = ax.get_lines()
    assert np.asarray(line.get_xdata()).tolist() == [1, 2, 4, 8, 16, 32, 64, 100]
    assert float(np.asarray(line.get_ydata())[-1]) == pytest.approx(ppvae.summarise(found).mean)
    assert "open" not in ax.get_ylabel()


def gaussian_fit() -> ppvae.Fit:
    torch.manual_seed(3)
    x = torch.randn(40, 3)
    data = ppvae.Data("noise", x, x[:4], x[:4], "gaussian", "real")
    return ppvae.fit(PPCA(3, 1), data, "exact", epochs=1, progress=False)


# Images


def shown(ax: Axes) -> np.ndarray:
    (image,) = ax.get_images()
    return np.asarray(image.get_array())


def tile(grid: np.ndarray, row: int, column: int, side: tuple[int, int]) -> np.ndarray:
    """One image of a grid with a pixel between."""
    top, left = 1 + row * (side[0] + 1), 1 + column * (side[1] + 1)
    return grid[top : top + side[0], left : left + side[1]]


SHAPES = {"flat": (16,), "grey": (4, 4), "one channel": (1, 4, 4)}


@pytest.mark.parametrize("kind", SHAPES)
def test_images_stand_row_by_row(kind: str, ax: Axes) -> None:
    x = torch.rand(5, *SHAPES[kind])
    assert plots.image_grid(x, ax, columns=3) is ax
    grid = shown(ax)
    assert grid.shape == (11, 16, 3)
    for i in range(5):
        for channel in range(3):
            there = tile(grid, i // 3, i % 3, (4, 4))[..., channel]
            np.testing.assert_allclose(there, x[i].reshape(4, 4).numpy())
    assert not len(ax.get_xticks())
    drawn(ax)


def test_images_in_colour_and_of_a_given_shape(ax: Axes) -> None:
    x = torch.rand(2, 3, 4, 5)
    plots.image_grid(x, ax)
    np.testing.assert_allclose(tile(shown(ax), 0, 1, (4, 5)), x[1].permute(1, 2, 0))
    flat = Figure().subplots()
    plots.image_grid(x.flatten(1), flat, shape=(3, 4, 5))
    np.testing.assert_allclose(shown(flat), shown(ax))


def test_values_outside_0_to_1_are_scaled_together(ax: Axes) -> None:
    """One scale for all images: the faint one stays faint."""
    x = torch.stack([torch.full((4, 4), -2.0), torch.full((4, 4), 0.0), torch.full((4, 4), 6.0)])
    plots.image_grid(x, ax)
    grid = shown(ax)
    assert [float(tile(grid, 0, i, (4, 4)).mean()) for i in range(3)] == pytest.approx([0, 0.25, 1])


def test_faint_means_stay_faint(ax: Axes) -> None:
    plots.image_grid(torch.full((2, 16), 0.2), ax)
    assert float(tile(shown(ax), 0, 0, (4, 4)).max()) == pytest.approx(0.2)


def test_reconstructions_stand_below_their_originals(ax: Axes) -> None:
    x, recon = torch.rand(5, 16), torch.rand(5, 16)
    assert plots.reconstructions(x, recon, ax, columns=3) is ax
    grid = shown(ax)
    assert grid.shape == (1 + 4 * 5, 16, 3)
    for i in range(5):
        for below, images in enumerate((x, recon)):
            there = tile(grid, 2 * (i // 3) + below, i % 3, (4, 4))[..., 0]
            np.testing.assert_allclose(there, images[i].reshape(4, 4).numpy())
    assert [text.get_text() for text in ax.get_yticklabels()] == ["data", "reconstruction"] * 2
    rows = [tile(np.arange(21)[:, None].repeat(16, 1), row, 0, (4, 4)).mean() for row in range(4)]
    assert ax.get_yticks().tolist() == rows
    drawn(ax)


@pytest.mark.parametrize(
    ("x", "options", "named"),
    [
        (torch.rand(3, 5), {}, "holds no images"),
        (torch.rand(3, 2, 4, 4), {}, "holds no images"),
        (torch.rand(0, 16), {}, "holds no images"),
        (torch.rand(3), {}, "holds no images"),
        (torch.rand(3, 16), {"shape": (3, 4)}, r"no images of shape \[3, 4\]"),
        (torch.rand(3, 16), {"columns": 0}, "columns"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(x: Tensor, options: Any, named: str, ax: Axes) -> None:
    for draw in (lambda: plots.image_grid(x, ax, **options), lambda: plots.reconstructions(x, x, ax, **options)):
        with pytest.raises(PpvaeError, match=named) as caught:
            draw()
        assert "\n" not in str(caught.value)


def test_as_many_reconstructions_as_originals(ax: Axes) -> None:
    with pytest.raises(PpvaeError, match="give the same number"):
        plots.reconstructions(torch.rand(3, 16), torch.rand(2, 16), ax)


def test_what_is_an_image_unasked() -> None:
    """Digits are, four measurements of a flower are not."""
    assert all(plots.is_image(event) for event in [(64,), (784,), (4, 5), (1, 8, 8), (3, 8, 8)])
    assert not any(plots.is_image(event) for event in [(), (2,), (4,), (16,), (65,), (2, 8, 8)])


# Densities


@pytest.fixture(scope="module")
def mixture() -> tuple[ppvae.Fit, ppvae.Data]:
    data = ppvae.load_data("mixture")
    model = GMM(2, 2, covariance="full")
    return ppvae.fit(model, data, "exact", epochs=5, lr=0.02, progress=False), data


def scatter(ax: Axes) -> PathCollection:
    return next(c for c in ax.collections if isinstance(c, PathCollection))


def test_a_density_is_that_of_the_model_with_the_data_on_top(mixture: tuple[ppvae.Fit, ppvae.Data], ax: Axes) -> None:
    """The colour at each point is that of the level that exp(log_prob) has there; the test data are the points."""
    fit, data = mixture
    assert plots.density(density_on_grid(fit, data.test), ax) is ax
    np.testing.assert_allclose(np.asarray(scatter(ax).get_offsets()), data.test.numpy())
    contours: Any = next(c for c in ax.collections if hasattr(c, "levels"))
    with torch.no_grad():
        p = fit.model.log_prob(data.test).exp().numpy()
    peak = data.test[int(p.argmax())].numpy()
    outer = data.test[int(p.argmin())].numpy()
    assert contours.levels[0] <= p.min() < p.max() <= contours.levels[-1]
    for where, value in ((peak, p.max()), (outer, p.min())):
        level = int(np.searchsorted(contours.levels, value)) - 1
        near = [i for i, path in enumerate(contours.get_paths()) if path.contains_point(where)]
        assert any(abs(i - level) <= 1 for i in near)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x₁", "x₂")
    assert ax.get_title() == "GMM, exact, mixture (real)"
    assert [a.get_ylabel() for a in ax.figure.axes[1:]] == ["p(x)"]
    drawn(ax)


def test_points_may_be_given(mixture: tuple[ppvae.Fit, ppvae.Data], ax: Axes) -> None:
    fit, data = mixture
    plots.density(density_on_grid(fit, data.train[:30]), ax)
    np.testing.assert_allclose(np.asarray(scatter(ax).get_offsets()), data.train[:30].numpy())


def test_a_density_without_a_closed_form_is_estimated_and_says_so(ax: Axes) -> None:
    data = ppvae.load_data("pinwheel")
    model = VAE(2, 1, hidden=(8,), likelihood="gaussian")
    fit = ppvae.fit(model, data, epochs=2, progress=False)
    plots.density(density_on_grid(fit, data.test), ax)
    (bar,) = ax.figure.axes[1:]
    assert bar.get_ylabel() == "p̂(x), 100 importance samples"
    drawn(ax)


def test_a_density_of_other_than_two_numbers_is_refused() -> None:
    with pytest.raises(PpvaeError, match=r"two numbers, and these have event shape \[3\]"):
        density_on_grid(gaussian_fit(), torch.randn(5, 3))


# Responsibilities


class Given(ppvae.Model):
    """p(k | x) as a test gives it."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(weights)

    def responsibilities(self, x: Tensor) -> Tensor:
        return self.weights[: len(x)]


def given(weights: Tensor, x: Tensor) -> xr.Dataset:
    return cluster(ppvae.Pair(Given(weights), lambda x: {}, x.shape[1:]), x)


def test_colours_mix_as_the_responsibilities_do(ax: Axes) -> None:
    weights = torch.tensor([[1.0, 0.0], [0.25, 0.75], [0.0, 1.0]])
    x = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    assert plots.responsibilities(given(weights, x), ax) is ax
    np.testing.assert_allclose(np.asarray(scatter(ax).get_offsets()), x)
    faces = np.asarray(scatter(ax).get_facecolor())[:, :3]
    legend = ax.get_legend()
    assert legend is not None
    one, other = (np.array(to_rgb(cast(Any, handle).get_color())) for handle in legend.legend_handles)
    np.testing.assert_allclose(faces, [one, 0.25 * one + 0.75 * other, other])
    assert labels(ax) == ["0: 42% of data", "1: 58% of data"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x₁", "x₂")
    drawn(ax)


def test_more_than_two_numbers_are_shown_by_principal_components(ax: Axes) -> None:
    """Their variances, in falling order, are those of the covariance, and the axes say what share they are."""
    torch.manual_seed(5)
    x = MultivariateNormal(torch.zeros(4), torch.diag(torch.tensor([9.0, 4.0, 0.5, 0.1]))).sample((60,))
    plots.responsibilities(given(torch.full((60, 3), 1 / 3), x.unflatten(1, (2, 2))), ax)
    offsets = np.asarray(scatter(ax).get_offsets())
    variances = np.linalg.eigvalsh(np.cov(x.double().numpy().T))[::-1]
    np.testing.assert_allclose(offsets.var(0, ddof=1), variances[:2], rtol=1e-6)
    shares = [f"principal component {i + 1} ({variances[i] / variances.sum():.0%} of variance)" for i in range(2)]
    assert [ax.get_xlabel(), ax.get_ylabel()] == shares
    drawn(ax)


def test_responsibilities_of_a_mixture(mixture: tuple[ppvae.Fit, ppvae.Data], ax: Axes) -> None:
    fit, data = mixture
    plots.responsibilities(cluster(fit, data.test), ax)
    assert len(np.asarray(scatter(ax).get_offsets())) == len(data.test)
    drawn(ax)


def test_models_without_components_and_data_without_a_plane_are_refused(ax: Axes) -> None:
    with pytest.raises(PpvaeError, match=r"PPCA has no responsibilities\(x\)"):
        cluster(gaussian_fit(), torch.randn(5, 3))
    for x in (torch.randn(5, 1), torch.randn(1, 2)):
        with pytest.raises(PpvaeError, match="spans no plane"):
            plots.responsibilities(given(torch.ones(5, 1), x), ax)


def test_pictures_leave_the_world_alone(mixture: tuple[ppvae.Fit, ppvae.Data], ax: Axes, untouched: Any) -> None:
    """Matplotlib's settings, random state and the model are as they were."""
    fit, data = mixture
    before = dict(mpl.rcParams)
    with untouched(fit.model, fit.strategy):
        plots.density(density_on_grid(fit, data.test), ax)
        plots.responsibilities(cluster(fit, data.test), Figure().subplots())
    assert dict(mpl.rcParams) == before
