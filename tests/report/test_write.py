"""What a report says of gaps, of each datum, and of how to cite: in words, in bars, in points."""

from __future__ import annotations

import base64
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from matplotlib.axes import Axes
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from PIL import Image

import ppvae
from ppvae import plots
from ppvae.plots.gap_bars import bars, figure_of_gaps
from ppvae.report import citation
from ppvae.report.scatter import MOST, Series, Sprite, scatter, series
from ppvae.report.sentences import read_gap, reading
from ppvae.report.write import write_report
from ppvae.runs.averages import lines
from ppvae.runs.gap_means import Amount, SplitGap, split_gaps
from ppvae.runs.results import Row

ROW = Row(
    model="vae", inference="amortized", seed=0, data="digits", treatment="static", split="test", num_data=5, elbo=-21.7,
    elbo_mc_se=0.1, iwae_bound=-20.1, log_marginal=-20.0, log_marginal_mc_se=0.1, log_marginal_data_se=0.5,
    log_marginal_method="importance", num_samples=100, ess_median=50.0, ess_min=10.0, khat_bad_fraction=0.0,
    approximation_gap=0.4, amortization_gap=1.3, train_seconds=1.0, infer_seconds_per_1000=0.1, num_parameters=10,
)  # fmt: skip


def row(**changes: Any) -> Row:
    return Row(**{**vars(ROW), **changes})


def evidence(approximation: list[float], amortization: list[float], ok: list[bool] | None = None) -> xr.Dataset:
    """Of as many data, each lower in log p than the one before, with gaps of their own."""
    n = len(approximation)
    log_p = -20.0 - np.arange(n)
    columns = {
        "log_marginal": log_p,
        "log_marginal_se": np.full(n, 0.125),
        "elbo": log_p - np.nan_to_num(approximation) - np.nan_to_num(amortization),
        "ok": np.ones(n, bool) if ok is None else np.array(ok),
        "approximation_gap": np.array(approximation),
        "amortization_gap": np.array(amortization),
    }
    return xr.Dataset({name: ("datum", values) for name, values in columns.items()})


def gap(
    approximation: Amount, amortization: Amount, *, num_data: int = 50, bound: bool = False, **changes: Any
) -> SplitGap:
    ((line,),) = lines([row(**changes)]).values()
    return SplitGap(line, approximation, amortization, num_data, bound)


# Gaps in numbers


def test_the_error_of_a_gap_is_that_of_its_mean_over_data() -> None:
    """Seeds are averaged on each datum first, and data without gaps are left out."""
    first, second = row(seed=0), row(seed=1)
    judged = {
        first: evidence([0.2, 0.4, 0.6, math.nan], [1.0, 1.0, 4.0, math.nan]),
        second: evidence([0.4, 0.6, 0.8, math.nan], [1.0, 3.0, 2.0, math.nan]),
    }
    ((found,),) = split_gaps(judged).values()
    assert found.num_data == 3
    assert found.approximation.mean == pytest.approx(0.5)
    assert found.approximation.error == pytest.approx(0.2 / math.sqrt(3))  # of 0.3, 0.5, 0.7
    assert found.amortization.mean == pytest.approx(2.0)
    assert found.amortization.error == pytest.approx(1.0 / math.sqrt(3))  # of 1, 2, 3
    assert not found.bound


def test_a_lower_bound_is_that_of_the_data_that_have_gaps() -> None:
    gaps = [0.2, 0.4, math.nan]
    elsewhere, here = evidence(gaps, gaps, [True, True, False]), evidence(gaps, gaps, [True, False, True])
    assert [split_gaps({ROW: found})["digits", "static"][0].bound for found in (elsewhere, here)] == [False, True]


def test_no_gaps_are_no_gaps() -> None:
    """Of a row without them, of a line with a seed without them, and of one without a finite number."""
    with_gaps = evidence([0.2, 0.4], [1.0, 1.2])
    without = with_gaps.drop_vars(["approximation_gap", "amortization_gap"])
    assert split_gaps({ROW: without}) == {}
    assert split_gaps({row(seed=0): with_gaps, row(seed=1): without}) == {}
    assert split_gaps({ROW: evidence([math.nan, 0.1], [0.1, math.nan])}) == {}
    with pytest.raises(ppvae.PpvaeError, match="num_gaps"):
        figure_of_gaps({})


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (Amount(1.3141, 0.1234), "1.31 ± 0.12"),
        (Amount(1.3141, 1.234), "1.3 ± 1.2"),
        (Amount(131.41, 12.34), "131.4 ± 12.3"),
        (Amount(0.31415, 0.00123), "0.314 ± 0.001"),
        (Amount(0.5, 0.0), "0.50 ± 0.00"),
        (Amount(-1e-5, 1e-5), "0.000 ± 0.000"),
        (Amount(0.5, None), "0.50"),
    ],
)
def test_amounts_have_the_digits_that_their_error_leaves(amount: Amount, text: str) -> None:
    assert str(amount) == text


# Gaps in bars


def test_bars_are_stacked_and_their_ends_have_the_errors() -> None:
    """The first part from 0, the second from its end, to the ELBO gap; lines from top to bottom as in the table."""
    found = [
        gap(Amount(0.4, 0.1), Amount(1.3, 0.2)),
        gap(Amount(0.5, 0.05), Amount(0.1, None), inference="per-datapoint"),
    ]
    ax = bars(found, Figure(layout="constrained").subplots())
    parts = [container.patches[0] for container in ax.containers if isinstance(container, BarContainer)]
    # [start, length] from the bottom: of the last line, then of the first
    drawn = [(cast(Any, part).get_x(), cast(Any, part).get_width()) for part in parts]
    assert drawn == [pytest.approx(pair) for pair in ((0.0, 0.5), (0.5, 0.1), (0.0, 0.4), (0.4, 1.3))]
    errors = [
        ends for container in ax.containers if isinstance(container, ErrorbarContainer) if (ends := spans(container))
    ]
    assert errors == [pytest.approx(pair) for pair in ((0.45, 0.55), (0.3, 0.5), (1.5, 1.9))]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["vae\nper-datapoint", "vae\namortized"]
    assert ax.get_title() == "digits (static), 50 test data"


def spans(container: ErrorbarContainer) -> tuple[float, float] | None:
    """The ends of a horizontal error bar; None where there is none."""
    segments = [segment for collection in container[2] for segment in cast(Any, collection).get_segments()]
    segments = [segment for segment in segments if len(segment)]
    return (float(segments[0][0, 0]), float(segments[0][-1, 0])) if segments else None


def test_parts_of_different_signs_lie_on_either_side() -> None:
    ax = bars([gap(Amount(-0.1, 0.1), Amount(1.0, 0.1))], Figure(layout="constrained").subplots())
    parts = [container.patches[0] for container in ax.containers if isinstance(container, BarContainer)]
    drawn = [(cast(Any, part).get_x(), cast(Any, part).get_width()) for part in parts]
    assert [sorted((x, x + width)) for x, width in drawn] == [[-0.1, 0.0], [0.0, 1.0]]


def test_a_figure_of_gaps_has_a_panel_a_treatment() -> None:
    found = gap(Amount(0.4, 0.1), Amount(1.3, 0.2))
    figure = figure_of_gaps({("digits", "static"): [found], ("digits", "real"): [found, found]})
    figure.savefig(io.BytesIO(), format="png")
    assert [len(cast(Axes, ax).get_yticks()) for ax in figure.axes] == [1, 2]


# Gaps in words


def said(approximation: Amount, amortization: Amount, **changes: Any) -> str:
    return read_gap(gap(approximation, amortization, **changes))


def test_gaps_that_are_clear_are_said_with_their_errors() -> None:
    text = said(Amount(0.41, 0.12), Amount(1.31, 0.14))
    assert text == (
        "vae under amortized, on 50 test data: amortization costs 1.31 ± 0.14 nats/datum; a richer family would gain "
        "up to 0.41 ± 0.12."
    )


@pytest.mark.parametrize(
    ("inference", "word"),
    [
        ("amortized", "amortization"),
        ("semi-amortized", "amortization"),
        ("per-datapoint", "optimisation"),
        ("exact", "exact inference"),
        ("mine", "amortization"),
    ],
)
def test_the_second_gap_has_the_name_of_what_costs_it(inference: str, word: str) -> None:
    assert f": {word} costs 1.31 ± 0.14 nats/datum;" in said(
        Amount(0.41, 0.12), Amount(1.31, 0.14), inference=inference
    )


def test_gaps_within_two_errors_are_not_claimed() -> None:
    text = said(Amount(0.19, 0.10), Amount(-0.19, 0.10))
    assert "the cost of amortization cannot be distinguished from 0 (-0.19 ± 0.10 nats/datum)" in text
    assert "the gain by a richer family cannot be distinguished from 0 (0.19 ± 0.10)" in text
    assert "would gain up to" not in text


def test_negative_and_negligible_gaps_are_said_as_such() -> None:
    text = said(Amount(-0.41, 0.12), Amount(-1.31, 0.14))
    assert "amortization seems to cost -1.31 ± 0.14 nats/datum: the search for a better q did not succeed" in text
    assert "a richer family seems to gain -0.41 ± 0.12: log p is estimated too low" in text
    text = said(Amount(0.002, 0.0005), Amount(0.0, 0.0))
    assert "amortization costs less than 0.01 nats/datum; a richer family would gain less than 0.01." in text


def test_one_datum_has_no_error_and_a_bound_is_said() -> None:
    text = said(Amount(0.41, None), Amount(1.31, None), num_data=1)
    assert "on one datum: amortization costs 1.31 nats, with no known error" in text
    assert "up to 0.41, with no known error." in text
    assert "lower bound" in said(Amount(0.4, 0.1), Amount(1.3, 0.1), bound=True)
    assert "lower bound" not in said(Amount(0.4, 0.1), Amount(1.3, 0.1))


def test_nothing_is_said_of_gaps_that_were_not_estimated() -> None:
    plain = row(approximation_gap=None, amortization_gap=None)
    assert not [sentence for sentence in reading([plain]) if "family" in sentence or "amortization" in sentence]
    splits = split_gaps({ROW: evidence([0.3, 0.5, 0.4], [1.2, 1.4, 1.3])})
    (sentence,) = set(reading([ROW], splits)) - set(reading([ROW]))
    assert "amortization costs 1.300 ± 0.058 nats/datum; a richer family would gain up to 0.400 ± 0.058" in sentence


# Datum by datum


class Marks(HTMLParser):
    """Points, sprites and legends of a scatter."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.points: list[dict[str, str | None]] = []
        self.pixels = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if "data-datum" in found:
            self.points.append(found)
        self.pixels += (found.get("class") or "").startswith("pixels")


def drawn(found: list[Series], x: torch.Tensor | None = None, sprite: Sprite | None = None) -> str:
    text = scatter(found, x, sprite)
    assert text is not None
    return text


def places(text: str) -> np.ndarray:
    return np.array([[float(v) for v in pair] for pair in re.findall(r"translate\(([\d.]+) ([\d.]+)\)' ", text)])


def test_a_point_a_datum_open_where_it_did_not_pass() -> None:
    """Three data at log p −20, −21, −22 that lose 0, 1 and 4 nats."""
    found = series([("amortized", None, evidence([0.0, 0.5, 1.0], [0.0, 0.5, 3.0], [True, False, True]))])
    text = drawn(found, torch.tensor([[1.5, -2.0], [0.0, 1.0], [3.0, 4.0]]))
    points = Marks(text).points
    assert [point["data-datum"] for point in points] == ["0", "1", "2"]
    assert [point.get("class") for point in points] == [None, "open", None]
    assert points[0]["aria-label"] == "test datum 0, amortized; log p −20.00 ± 0.12; ELBO −20.00; lost 0; x = (1.5, −2)"
    label = points[1]["aria-label"] or ""
    assert "log p ≥ −21.00" in label
    assert "weights did not pass" in label
    across, up = places(text).T
    assert across[0] - across[1] == pytest.approx(across[1] - across[2], abs=0.11)  # places have one decimal
    assert up[0] - up[2] == pytest.approx(4 * (up[0] - up[1]), abs=0.5)
    assert "weights did not pass" not in drawn(series([("exact", None, evidence([0.0, 0.1], [0.0, 0.0]))]))


def test_a_scatter_leaves_out_what_is_not_finite() -> None:
    one = evidence([0.1, 0.2, 0.3], [0.0, 0.0, 0.0])
    one["log_marginal"][1] = -math.inf
    assert [point["data-datum"] for point in Marks(drawn(series([("amortized", None, one)]))).points] == ["0", "2"]
    one["log_marginal"][:] = math.nan
    assert scatter(series([("amortized", None, one)]), None, None) is None
    assert scatter([], None, None) is None


def test_a_scatter_has_no_more_points_than_a_page_bears() -> None:
    many = evidence([0.1] * (2 * MOST), [0.1] * (2 * MOST))
    for names in (["amortized"], ["amortized", "exact", "per-datapoint"]):
        points = Marks(drawn(series([(name, None, many) for name in names]))).points
        assert MOST - len(names) < len(points) <= MOST
        assert len({point["data-datum"] for point in points}) == MOST // len(names)


def test_families_of_a_strategy_differ_in_shape_alone() -> None:
    one = evidence([0.1, 0.2], [0.0, 0.0])
    found = series([("amortized", None, one), ("amortized", "iaf", one), ("exact", None, one)])
    assert found[0].colour == found[1].colour != found[2].colour
    assert found[0].shape == found[2].shape != found[1].shape
    assert "amortized · iaf" in drawn(found)


def test_names_in_a_scatter_are_escaped() -> None:
    evil = "<b title='x'>"
    text = drawn(series([(evil, None, evidence([0.1, 0.2], [0.0, 0.0]))]))
    assert evil not in text
    assert evil in (Marks(text).points[0]["aria-label"] or "")


@pytest.mark.parametrize("event", [(64,), (8, 8), (1, 8, 8), (3, 8, 8), (1, 100, 50), (784,)])
def test_a_sprite_has_each_image_in_its_place(event: tuple[int, ...]) -> None:
    """Datum i at row i // 20 and column i % 20, small ones pixel by pixel."""
    x = torch.rand(45, *event, generator=torch.Generator().manual_seed(0))
    sprite = Sprite.of("sprite-0", x)
    assert sprite is not None
    url = re.search(r"base64,([\w+/=]+)\)", sprite.css)
    assert url is not None
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.group(1)))))
    images = plots.unit_images(x)[..., :: 3 if 100 in event else 1, :: 3 if 100 in event else 1]
    high, wide = images.shape[-2:]
    assert image.shape[:2] == (3 * high, 20 * wide)
    for i in (0, 19, 20, 44):
        part = image[i // 20 * high :, i % 20 * wide :][:high, :wide]
        expected = (255 * images[i]).round().byte().permute(1, 2, 0).numpy()
        assert np.array_equal(part.reshape(expected.shape), expected)


def test_data_that_are_no_images_have_no_sprite() -> None:
    assert Sprite.of("sprite-0", torch.randn(4, 2)) is None
    found = series([("amortized", None, evidence([0.1] * 4, [0.0] * 4))])
    assert Marks(drawn(found, torch.randn(4, 2))).pixels == 0
    images = torch.rand(4, 64)
    text = drawn(found, images, Sprite.of("sprite-0", images))
    assert Marks(text).pixels == 1
    assert "x = (" not in text
    assert ", …)" in drawn(found, torch.randn(4, 13))


def test_data_made_in_python_are_shown_by_number_alone(tmp_path: Path) -> None:
    """They cannot be loaded again, so there are points without images, and the page says so."""
    x = torch.rand(30, 64, generator=torch.Generator().manual_seed(0)).round()
    data = ppvae.Data("mine", x[:20], x[20:25], x[25:], "bernoulli", "static")
    options: dict[str, Any] = {"model_options": {"latent_dim": 2, "hidden": [8]}, "epochs": 1, "num_samples": 20}
    ppvae.compare("vae", "amortized", data, seeds=[0], method="importance", run_dir=tmp_path / "run", **options)
    text = write_report(tmp_path / "run").read_text(encoding="utf-8")
    marks = Marks(text)
    assert (len(marks.points), marks.pixels) == (5, 0)
    assert "The report has no pictures of vae: the data were made in Python" in text


# How to cite


def test_the_citation_is_that_of_the_file() -> None:
    file = yaml.safe_load((Path(__file__).parents[2] / "CITATION.cff").read_text(encoding="utf-8"))
    assert " and ".join(author["name"] for author in file["authors"]) == citation.AUTHORS
    assert (file["title"], file["license"], file["message"]) == (citation.TITLE, citation.LICENSE, citation.MESSAGE)
    assert file["version"] == ppvae.__version__
    text, bibtex = citation.as_text(), citation.as_bibtex()
    for part in (citation.AUTHORS, citation.TITLE, file["version"], file["license"]):
        assert part in text
        assert part in bibtex.replace("{ppvae}:", "ppvae:")
    assert bibtex.count("{") == bibtex.count("}")
    assert citation.as_bibtex("9.8").count("version = {9.8}") == 1
