"""Learning rates chosen on the validation bound, at equal wall-clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ppvae
from ppvae.comparison import tuning
from ppvae.comparison.tuning import GRID, OWN_GRID
from ppvae.runs.folder import FITS, TUNING, read_config

SMALL: dict[str, Any] = {
    "models": "ppca", "inference": ["amortized", "per-datapoint"], "data": "iris", "seeds": [0, 1], "epochs": 2,
    "num_samples": 30, "tune": True, "tune_seconds": 0.03,
}  # fmt: skip


def test_the_best_of_the_grid_is_what_runs(tmp_path: Path) -> None:
    """Every strategy gets its whole grid, each point the same seconds; all its seeds run with the point chosen."""
    found = ppvae.compare(**SMALL, run_dir=tmp_path / "run")
    grids = {
        name: [trial for trial in found.tuning if trial.inference == name] for name in ("amortized", "per-datapoint")
    }
    assert len(grids["amortized"]) == len(GRID["lr"])
    assert len(grids["per-datapoint"]) == len(GRID["lr"]) * len(OWN_GRID["lr"])
    assert {trial.options["lr"] for trial in grids["amortized"]} == set(GRID["lr"])
    for name, trials in grids.items():
        (chosen,) = [trial for trial in trials if trial.chosen]
        assert chosen.valid_bound == max(trial.valid_bound or -1e9 for trial in trials)
        assert all(trial.seconds >= SMALL["tune_seconds"] for trial in trials)
        for seed in (0, 1):
            config = read_config(tmp_path / "run" / FITS / f"ppca-{name}-{seed}")
            assert config["lr"] == chosen.options["lr"]
            if name == "per-datapoint":
                assert config["inference_options"]["lr"] == chosen.options["inference_options"]["lr"]
    assert json.loads((tmp_path / "run" / TUNING).read_text())[0]["model"] == "ppca"


def test_a_comparison_that_goes_on_does_not_tune_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = ppvae.compare(**SMALL, run_dir=tmp_path / "run")
    monkeypatch.setattr(tuning, "try_rates", lambda *args: pytest.fail("tuned again"))
    again = ppvae.compare(**SMALL, run_dir=tmp_path / "run", resume=True)
    assert (again.rows, again.tuning) == (found.rows, found.tuning)


def test_what_is_given_is_not_tuned() -> None:
    found = ppvae.compare(**{**SMALL, "seeds": 0}, lr=0.005, inference_options={"per-datapoint": {"lr": 0.07}})
    assert [trial.options for trial in found.tuning] == [{}, {}]


def test_a_rate_that_breaks_the_bound_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GRID, "lr", (1e-3, 1e12))
    found = ppvae.compare(**{**SMALL, "inference": "amortized", "seeds": 0})
    assert [trial.options["lr"] for trial in found.tuning if trial.chosen] == [1e-3]
    monkeypatch.setitem(GRID, "lr", (1e30,))
    with pytest.raises(ppvae.PpvaeError, match="no learning rate of the grid"):
        ppvae.compare(**{**SMALL, "inference": "amortized", "seeds": 0})


def test_damage_and_bad_seconds(tmp_path: Path) -> None:
    with pytest.raises(ppvae.PpvaeError, match="tune_seconds must be a finite number > 0"):
        ppvae.compare(**{**SMALL, "tune_seconds": 0.0})
    ppvae.compare(**SMALL, run_dir=tmp_path / "run")
    (tmp_path / "run" / TUNING).write_text("[{")
    with pytest.raises(ppvae.PpvaeError, match="is damaged"):
        ppvae.compare(**SMALL, run_dir=tmp_path / "run", resume=True)
