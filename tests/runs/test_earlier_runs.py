"""Runs that an earlier version wrote: they load, give the numbers they gave, continue, and can be listed and reported.

`earlier/` holds them as version 0.1.0 wrote them before settings were renamed (max_epochs, no optimizer, no schedule),
with the numbers of that version in expected.json. Tolerances are those of float32 sums, 1e-5 of the value.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import ppvae
from ppvae.cli.main import main
from ppvae.runs.results import read_results

EARLIER = Path(__file__).parent / "earlier"
EXPECTED: dict[str, Any] = json.loads((EARLIER / "expected.json").read_text(encoding="utf-8"))
FITS = ("vae", "rows", "mixture", "flow")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The checkpoint was written with one thread, and says so where it continues with several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", FITS)
def test_a_fit_loads_and_gives_the_same_numbers(name: str) -> None:
    fit = ppvae.load(EARLIER / name)
    assert fit.data.source is not None
    x = fit.as_input(ppvae.load_data(**fit.data.source).test[:6])
    found = ppvae.log_marginal(fit, x, num_samples=50, method="importance")["log_marginal"].values
    assert found.tolist() == pytest.approx(EXPECTED[name]["log_marginal"], rel=1e-5)
    assert fit.history[-1]["valid_bound"] == EXPECTED[name]["valid"]
    assert (fit.settings.optimizer, fit.settings.schedule, fit.settings.compile) == ("adam", "constant", False)


def test_budgets_have_their_new_names() -> None:
    assert ppvae.load(EARLIER / "mixture").settings.seconds == 100
    assert ppvae.load(EARLIER / "mixture").settings.epochs == 4
    assert ppvae.load(EARLIER / "rows").settings.steps == 4
    assert ppvae.load(EARLIER / "rows").settings.inference_options["lr"] == 0.1


def test_a_configuration_repeats_its_fit(tmp_path: Path) -> None:
    assert main(["fit", "--config", str(EARLIER / "vae" / "config.yaml"), "--run-dir", str(tmp_path / "again")]) == 0
    again = ppvae.load(tmp_path / "again")
    # encoders of later versions see x in units of its deviations, so that the 3 epochs end elsewhere
    assert again.history[-1]["valid_bound"] == pytest.approx(EXPECTED["vae"]["valid"], abs=0.05)
    assert again.settings == ppvae.load(EARLIER / "vae").settings


def test_a_stopped_fit_continues(tmp_path: Path, one_thread: None) -> None:
    shutil.copytree(EARLIER / "stopped", tmp_path / "run")
    assert main(["fit", "--resume", str(tmp_path / "run")]) == 0
    fit = ppvae.load(tmp_path / "run")
    assert fit.history[-1]["valid_bound"] == pytest.approx(EXPECTED["stopped"]["valid"], rel=1e-5)


def test_a_comparison_continues_and_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row whose fit is missing is made again; the others are read."""
    run = tmp_path / "run"
    shutil.copytree(EARLIER / "compared", run)
    shutil.rmtree(run / "fits" / "ppca-exact-1")
    assert main(["compare", "--resume", str(run)]) == 0
    rows = [
        [row.model, row.inference, row.seed, row.elbo, row.log_marginal] for row in read_results(run / "results.json")
    ]
    for row, expected in zip(rows, EXPECTED["compared"], strict=True):
        assert row[:3] == expected[:3]
        # the parameters of a ppca have other units in later versions, so that its steps round differently
        again = row[:3] == ["ppca", "exact", 1]
        assert row[3:] == (pytest.approx(expected[3:], abs=1e-3) if again else expected[3:])
    assert (run / "report.html").is_file()
    assert main(["list", "--runs", "--folder", str(tmp_path)]) == 0
    assert "finished, 4 rows" in capsys.readouterr().out
