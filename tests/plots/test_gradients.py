"""The picture of gradient variance: what stands where, and what cannot be drawn."""

import math
from typing import Any, cast

import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.container import ErrorbarContainer
from pictures import drawn

import ppvae
from ppvae import PpvaeError, plots


def variances(**entries: tuple[float, float, float, bool]) -> xr.Dataset:
    """(variance, its error, seconds, unbiased) of each estimator."""
    names = ("variance_phi", "variance_phi_se", "seconds", "unbiased")
    columns = {
        name: ("gradient", list(column))
        for name, column in zip(names, zip(*entries.values(), strict=True), strict=True)
    }
    return xr.Dataset(columns, coords={"gradient": list(entries)}, attrs={"objective": "iwae", "num_particles": 5})


def filled(ax: Axes) -> dict[str, tuple[float, Any, bool]]:
    """Name of the row → (variance, colour, whether it has a bar) of its filled dot."""
    out = {}
    for container in ax.containers:
        assert isinstance(container, ErrorbarContainer)
        line = container.lines[0]
        assert line is not None
        ((x,), (y,)) = (np.asarray(data).tolist() for data in line.get_data())
        out[ax.get_yticklabels()[int(y)].get_text()] = (x, to_rgb(cast(Any, line.get_color())), container.has_xerr)
    return out


def open_dots(ax: Axes) -> list[float]:
    """From the bottom row up."""
    return [float(np.asarray(line.get_xdata())[0]) for line in ax.get_lines() if line.get_markerfacecolor() == "white"]


def test_variances_costs_and_ratios_stand_where_they_belong(ax: Axes) -> None:
    found = variances(
        reparam=(4.0, 0.5, 0.002, True), stl=(1.0, 2.0, 0.002, False), score=(2000.0, 100.0, 0.001, True),
        vimco=(8.0, 1.0, 0.005, True),
    )  # fmt: skip
    assert plots.gradient_variance(found, ax) is ax
    rows = filled(ax)
    assert list(rows) == ["score", "vimco", "reparam", "stl"]  # the least noisy on top
    assert [x for x, _, _ in rows.values()] == [2000, 8, 4, 1]
    assert open_dots(ax) == [1000, 20, 4, 1]
    assert [bar for _, _, bar in rows.values()] == [True, True, True, False]  # one would reach below 0
    assert len({rows[name][1] for name in ("score", "vimco", "reparam")}) == 1
    assert rows["stl"][1] != rows["reparam"][1]
    assert [text.get_text() for text in ax.texts] == [
        "500×,  1 ms", "2×,  5 ms", "1×,  2 ms", "0.25×,  2 ms,  biased",
    ]  # fmt: skip
    assert ax.get_title().splitlines() == ["score has 500× the variance of reparam", "iwae, 5 draws per datum"]
    assert ax.get_xscale() == "log"
    assert "in the time of reparam" in ax.get_xlabel()
    drawn(ax)


def test_without_reparam_the_least_noisy_is_the_reference(ax: Axes) -> None:
    plots.gradient_variance(variances(loo=(3.0, 0.1, 0.001, True), score=(600.0, 9.0, 0.001, True)), ax)
    assert ax.get_title().startswith("score has 200× the variance of loo\n")
    drawn(ax)


def test_one_estimator_is_compared_with_nothing(ax: Axes) -> None:
    plots.gradient_variance(variances(score=(3.0, math.nan, 0.001, True)), ax)
    assert ax.get_title() == "iwae, 5 draws per datum"
    drawn(ax)


def test_what_a_log_axis_cannot_show_is_left_out(ax: Axes) -> None:
    found = variances(
        reparam=(4.0, 0.5, 0.002, True), stl=(0.0, 0.0, 0.002, True), score=(math.inf, 1.0, 0.001, True),
    )  # fmt: skip
    plots.gradient_variance(found, ax)
    assert list(filled(ax)) == ["reparam"]
    drawn(ax)


@pytest.mark.parametrize("found", [xr.Dataset(), 3, variances(stl=(0.0, 0.0, 1.0, True))])
def test_no_variance_is_no_picture(found: Any, ax: Axes) -> None:
    with pytest.raises(PpvaeError, match="variance"):
        plots.gradient_variance(found, ax)


def test_the_picture_of_a_fit(ax: Axes) -> None:
    """Of a VAE on digits reparameterisation has far less variance than the score function, and the title says so."""
    data = ppvae.load_data("digits", num_train=100)
    torch.manual_seed(0)
    fit = ppvae.fit(ppvae.create("vae", x_dim=64, latent_dim=3, hidden=[10]), data, epochs=3, lr=0.01)
    found = ppvae.gradient_variance(fit, data.test[:10], repeats=50)
    plots.gradient_variance(found, ax)
    rows = filled(ax)
    assert {name: x for name, (x, _, _) in rows.items()} == dict(
        zip(found.gradient.values.tolist(), found.variance_phi.values.tolist(), strict=True)
    )
    assert rows["score"][0] > 10 * rows["reparam"][0]
    assert ax.get_title().startswith("score has ")
    drawn(ax)
