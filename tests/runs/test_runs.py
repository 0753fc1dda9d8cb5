"""Runs that are kept: comparisons that go on, evaluations, samples, reports, lists, models to start from."""

from __future__ import annotations

import base64
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from stops import Killed, stopped_before

import ppvae
from ppvae.cli.main import main
from ppvae.comparison.run import Comparison
from ppvae.report.sentences import reading
from ppvae.report.write import FIGURES, REPORT, write_report
from ppvae.runs.folder import CONFIG, EVIDENCE, FITS, OUTCOME, RESULTS, read_config
from ppvae.runs.index import find
from ppvae.runs.results import Row, read_results, write_results
from ppvae.training.loop import Training

#: models, strategies and seeds of a comparison that takes a second
SMALL: dict[str, Any] = {
    "models": {"small": {"model": "vae", "latent_dim": 2, "hidden": [8]}, "ppca": {"latent_dim": 2}},
    "inference": ["amortized", "exact"],
    "seeds": [0, 1],
    "data": "pinwheel",
    "num_train": 100,
    "num_samples": 50,
    "epochs": 3,
    "eval_every": 1,
    "batch_size": 20,
    "patience": None,
}


def small(place: Path | None, **changes: Any) -> Comparison:
    return ppvae.compare(**{**SMALL, "inference": ["amortized"], **changes}, run_dir=place)


def timeless(rows: list[Row]) -> list[Row]:
    return [replace(row, train_seconds=0.0, infer_seconds_per_1000=0.0) for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison; copy it before changing it."""
    place = tmp_path_factory.mktemp("whole") / "run"
    small(place)
    return place


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fit of images, evaluated."""
    place = tmp_path_factory.mktemp("digits") / "fit"
    options = ["--model.latent_dim", "2", "--model.hidden", "[8]", "--epochs", "2", "--num-train", "100"]
    assert main(["fit", "vae", "--run-dir", str(place), *options]) == 0
    assert main(["evaluate", str(place), "--num-samples", "40"]) == 0
    return place


def stamps(place: Path) -> dict[str, int]:
    return {str(path.relative_to(place)): path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("row", "step"), [(0, 1), (1, 0), (2, 7), (3, 14)])
def test_a_comparison_goes_on_where_it_was_killed(
    row: int, step: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are finished are not made again, the one that was killed goes on, and the rest is as if nothing was."""
    place, go = tmp_path / "run", Training.run
    trained: list[tuple[str, int]] = []

    def counted(self: Training) -> ppvae.Fit:
        trained.append((self.settings.inference, self.settings.seed))
        return go(self)

    monkeypatch.setattr(Training, "run", counted)
    with stopped_before(step, Killed, when=lambda: len(trained) == row + 1):
        small(place, checkpoint_seconds=0.0)
    assert len(read_results(place / RESULTS) if row else []) == row
    before = stamps(place / FITS)
    trained.clear()
    found = small(place, checkpoint_seconds=0.0, resume=True)
    assert len(trained) == len(found.rows) - row
    assert timeless(found.rows) == timeless(read_results(whole / RESULTS))
    after = stamps(place / FITS)
    finished = sorted({name.split("/")[0] for name in before if name.endswith(RESULTS)})
    assert len(finished) == row
    assert all(after[name] == before[name] for name in before if name.split("/")[0] in finished)
    trained.clear()
    again = small(place, checkpoint_seconds=0.0, resume=True)
    assert (again.rows, trained) == (found.rows, [])


def test_a_comparison_goes_on_from_the_command_line(whole: Path, tmp_path: Path) -> None:
    """The configuration alone says what there was to do."""
    place = tmp_path / "run"
    shutil.copytree(whole, place)
    rows = read_results(place / RESULTS)
    write_results(place / RESULTS, rows[:2], 0.0)
    for path in (place / FITS).iterdir():
        if path.name.startswith("ppca"):
            shutil.rmtree(path)
    assert main(["compare", "--resume", str(place)]) == 0
    assert timeless(read_results(place / RESULTS)) == timeless(rows)
    assert (place / REPORT).is_file()


def test_another_comparison_is_not_gone_on_with(whole: Path) -> None:
    before = stamps(whole)
    with pytest.raises(ppvae.PpvaeError, match=r"holds a comparison with num_samples 50, not 60"):
        small(whole, num_samples=60, resume=True)
    with pytest.raises(ppvae.PpvaeError, match=r"holds a comparison with fit .*, not .*: continue"):
        small(whole, lr=0.5, resume=True)
    with pytest.raises(ppvae.PpvaeError, match="not an empty folder"):
        small(whole)
    assert stamps(whole) == before


def test_the_configuration_repeats_the_run(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "--config", str(whole / CONFIG), "--run-dir", "again"]) == 0
    assert timeless(read_results("again/results.json")) == timeless(read_results(whole / RESULTS))
    for place in sorted((whole / FITS).iterdir()):
        other = tmp_path / "again" / FITS / place.name
        assert (place / "weights.safetensors").read_bytes() == (other / "weights.safetensors").read_bytes()
        assert xr.load_dataset(place / EVIDENCE).identical(xr.load_dataset(other / EVIDENCE))
        one = tmp_path / f"one-{place.name}"
        assert main(["fit", "--config", str(place / CONFIG), "--run-dir", str(one)]) == 0
        assert (place / "weights.safetensors").read_bytes() == (one / "weights.safetensors").read_bytes()


def test_models_by_label_have_options_of_their_own(whole: Path) -> None:
    rows = read_results(whole / RESULTS)
    assert [row.model for row in rows] == ["small", "small", "ppca", "ppca"]
    assert read_config(whole / FITS / "small-amortized-0")["model"]["latent_dim"] == 2
    assert rows[0].num_parameters != rows[2].num_parameters


def test_a_class_is_compared_without_a_file() -> None:
    class Mine(ppvae.models.PPCA):
        """Not in the zoo."""

    found = small(None, models=[Mine], seeds=0)
    assert [row.model for row in found.rows] == ["Mine"]


def test_evidence_is_what_the_row_says(whole: Path) -> None:
    for place in (whole / FITS).iterdir():
        (row,) = read_results(place / RESULTS)
        estimates = xr.load_dataset(place / EVIDENCE)
        assert estimates.sizes["datum"] == row.num_data
        assert row.iwae_bound == pytest.approx(float(estimates.iwae_bound.mean()), abs=1e-9)
        assert row.log_marginal == pytest.approx(float(estimates.log_marginal.mean()), abs=1e-9)
        assert estimates.log_marginal.units == "nats/datum"


def test_evaluate_does_not_replace_results_unasked(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = stamps(digits)
    assert main(["evaluate", str(digits), "--num-samples", "60"]) == 0
    assert "not replaced: --overwrite replaces it" in capsys.readouterr().out
    assert stamps(digits) == before
    assert main(["evaluate", str(digits), "--num-samples", "40", "--overwrite"]) == 0
    assert stamps(digits) != before
    assert read_results(digits / RESULTS)[0].num_samples == 40


@pytest.mark.parametrize("suffix", ["npy", "csv", "png"])
def test_samples_of_a_run(suffix: str, digits: Path, tmp_path: Path) -> None:
    path = tmp_path / f"drawn.{suffix}"
    words = ["sample", str(digits), "--num-samples", "5", "--out", str(path), "--seed", "3"]
    assert main(words) == 0
    first = path.read_bytes()
    expected = ppvae.sample(ppvae.load(digits), 5, seed=3).x
    if suffix == "png":
        assert first.startswith(b"\x89PNG")
    else:
        drawn = np.load(path) if suffix == "npy" else np.loadtxt(path, delimiter=",")
        assert np.array_equal(drawn, expected.numpy())
    assert main(words) == 2  # it is there already
    assert path.read_bytes() == first


class Page(HTMLParser):
    """Tags, and the text outside of styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_is_one_file_that_says_what_was_found(whole: Path, tmp_path: Path) -> None:
    place = tmp_path / "run"
    shutil.copytree(whole, place)
    page = Page(write_report(place).read_text())
    assert not [attrs for tag, attrs in page.tags if tag in ("link", "iframe") or (tag == "script" and attrs)]
    sources = [attrs["src"] or "" for tag, attrs in page.tags if tag == "img"]
    pictures = {path.read_bytes() for path in (place / FIGURES).iterdir()}
    assert {base64.b64decode(src.removeprefix("data:image/png;base64,")) for src in sources} == pictures
    assert all(attrs["alt"] for tag, attrs in page.tags if tag == "img")
    rows = read_results(place / RESULTS)
    means = {
        name: float(np.mean([row.log_marginal or 0.0 for row in rows if row.model == name]))
        for name in ("small", "ppca")
    }
    assert all(f"{mean:.2f}" in page.text for mean in means.values())
    best = max(means, key=lambda name: means[name])
    assert f"{best} under amortized has the highest log p" in page.text
    assert f"ppvae compare --config {place / CONFIG}" in page.text
    assert f"torch {torch.__version__}" in page.text
    names = {path.stem for path in (place / FIGURES).iterdir()}
    assert names >= {"bounds", "training-small", "training-ppca", "samples-small", "density-small"}


def test_the_report_of_a_fit_of_images(digits: Path, tmp_path: Path) -> None:
    place = tmp_path / "fit"
    shutil.copytree(digits, place)
    assert main(["report", str(place)]) == 0
    assert {path.stem for path in (place / FIGURES).iterdir()} >= {"drawn-vae", "reconstructed-vae", "training-vae"}
    assert "vae · amortized" in Page((place / REPORT).read_text()).text


def test_a_report_escapes_what_comes_from_outside(whole: Path, tmp_path: Path) -> None:
    place, evil = tmp_path / "run", "<script>alert('&')</script>"
    shutil.copytree(whole, place)
    rows = read_results(place / RESULTS)
    write_results(place / RESULTS, [replace(row, model=evil, data=evil) for row in rows], 0.0)
    config = yaml.safe_load((place / CONFIG).read_text())
    (place / CONFIG).write_text(yaml.safe_dump({**config, evil: evil, "versions": {evil: evil}}))
    text = write_report(place).read_text()
    assert evil not in text
    assert text.count("<script") == 1  # the page's own
    assert evil in Page(text).text


def test_the_reading_weighs_differences_against_their_errors(whole: Path) -> None:
    """Two seeds a strategy: means −1 and −1.5, spreads of 0.1 or of 2."""
    row = read_results(whole / RESULTS)[0]

    def rows(spread: float) -> list[Row]:
        return [
            replace(row, inference=name, seed=seed, log_marginal=mean + sign * spread, khat_bad_fraction=0.9)
            for name, mean in (("amortized", -1.0), ("per-datapoint", -1.5))
            for seed, sign in ((0, 1), (1, -1))
        ]

    sure, unsure = reading(rows(0.1)), reading(rows(2.0))
    # the standard error of a mean of two is spread·√2/√2, of a difference √2 times that
    assert any("amortized is 0.50 ± 0.14 nats/datum above per-datapoint, more than 2" in text for text in sure)
    assert any("amortized is 0.50 ± 2.83 nats/datum above per-datapoint, less than 2" in text for text in unsure)
    assert any("highest log p, at least -1.00" in text for text in sure)


def test_nothing_to_report_is_said(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / RESULTS).unlink()
    with pytest.raises(ppvae.PpvaeError, match="has no results yet"):
        write_report(tmp_path / "run")
    with pytest.raises(ppvae.PpvaeError, match="is not a run"):
        write_report(tmp_path)


@pytest.fixture
def runs(whole: Path, digits: Path, tmp_path: Path) -> Path:
    """A folder with a comparison, a fit, an unfinished one, a damaged one, and things that are no runs."""
    for name, source in (("compare", whole), ("fit", digits), ("cut", digits), ("bad", digits)):
        shutil.copytree(source, tmp_path / name)
    (tmp_path / "cut" / OUTCOME).unlink()
    (tmp_path / "cut" / "checkpoint.pt").touch()
    (tmp_path / "bad" / CONFIG).write_text("name: [")
    (tmp_path / "notes").mkdir()
    (tmp_path / "a.txt").touch()
    return tmp_path


def test_runs_are_listed_with_their_state(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {run.path.name: run for run in find(runs)}
    assert list(found) == ["bad", "compare", "cut", "fit"]
    assert found["bad"].state.startswith("damaged")
    assert found["fit"].state == "finished"
    assert found["fit"].what == "vae · amortized · digits (static) · seed 0"
    mean = read_results(runs / "fit" / RESULTS)[0].log_marginal
    assert f"{mean:.2f}" in found["fit"].result
    assert found["cut"].state.endswith(f"ppvae fit --resume {runs / 'cut'}")
    assert "small, ppca · pinwheel" in found["compare"].what
    assert main(["list", "--runs", "--folder", str(runs)]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in found)


def test_a_new_model_runs_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "my_model.py"]) == 0
    command = re.search(r"ppvae (compare .*)$", capsys.readouterr().out, re.MULTILINE)
    assert command is not None
    words = [*command[1].split(), "--fit.epochs", "2", "--num_train", "100", "--num_test", "20", "--seeds", "0"]
    assert words[1] == "my_model.py:MyModel"
    assert main([*words, "--run-dir", "run"]) == 0
    assert {row.inference for row in read_results("run/results.json")} == {
        "amortized",
        "per-datapoint",
        "semi-amortized",
    }
    before = Path("my_model.py").read_bytes()
    assert main(["new", "my_model.py"]) == 2
    assert Path("my_model.py").read_bytes() == before
    assert main(["new", "model.txt"]) == main(["new", "1.py"]) == main(["new", "nowhere/my.py"]) == 2
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["my_model.py", "run"]
