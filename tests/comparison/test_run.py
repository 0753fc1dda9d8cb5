"""The comparison: its plan, its rows and results.json, what may be ranked beside what, tables and pictures."""

import importlib
import inspect
import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import matplotlib as mpl
import numpy as np
import pytest
import torch
from conftest import Untouched
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from rich.console import Console

import ppvae
from ppvae import plots
from ppvae.comparison.evaluation import evaluate
from ppvae.comparison.job import Job
from ppvae.comparison.options import CompareOptions
from ppvae.comparison.place import Place
from ppvae.comparison.plan import plan
from ppvae.comparison.run import Comparison
from ppvae.data.dataset import Data
from ppvae.report.table import tables
from ppvae.runs import averages
from ppvae.runs.averages import lines
from ppvae.runs.folder import versions
from ppvae.runs.results import Row, read_results, write_results

DOCUMENTED = """model, inference, seed, data, treatment, split, num_data, elbo, elbo_mc_se, iwae_bound, log_marginal,
log_marginal_mc_se, log_marginal_data_se, log_marginal_method, num_samples, ess_median, ess_min,
khat_bad_fraction, approximation_gap, amortization_gap, train_seconds, infer_seconds_per_1000, num_parameters, family"""
FIELDS = re.findall(r"\w+", DOCUMENTED)
TIMES = ("train_seconds", "infer_seconds_per_1000")
#: what a comparison keeps of a fit
KEPT = {"config.yaml", "metrics.csv", "weights.safetensors", "fit.yaml", "results.json", "evidence.nc"}
#: rows of their own need not converge here
HURRIED = {"per-datapoint": {"max_steps": 5}}
STRATEGIES = ("amortized", "exact", "per-datapoint")


@cache
def data(name: str, treatment: str | None = None) -> Data:
    return ppvae.load_data(name, treatment=treatment)


def compare(models: Any = "ppca", inference: Any = "exact", **changes: Any) -> Comparison:
    arguments: dict[str, Any] = {"data": data("iris"), "seeds": [0], "num_samples": 30, "epochs": 2}
    arguments |= {"progress": False, **changes}
    return ppvae.compare(models, inference, **arguments)


def timeless(rows: list[Row]) -> list[dict[str, Any]]:
    """What rows say apart from the clock."""
    return [{name: value for name, value in vars(row).items() if name not in TIMES} for row in rows]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """pPCA and the mixture on iris under every strategy, two seeds."""
    return compare(["ppca", "gmm"], STRATEGIES, seeds=[0, 1], inference_options=HURRIED).rows


def a_row(**changes: Any) -> Row:
    row = Row(
        model="vae",
        inference="amortized",
        seed=0,
        data="digits",
        treatment="static",
        split="test",
        num_data=269,
        elbo=-25.0,
        elbo_mc_se=0.01,
        iwae_bound=-24.0,
        log_marginal=-24.0,
        log_marginal_mc_se=0.02,
        log_marginal_data_se=0.3,
        log_marginal_method="importance",
        num_samples=1000,
        ess_median=300.0,
        ess_min=20.0,
        khat_bad_fraction=0.1,
        approximation_gap=None,
        amortization_gap=None,
        train_seconds=3.0,
        infer_seconds_per_1000=0.01,
        num_parameters=12345,
    )
    return replace(row, **changes)


# The plan


def planned(*given: Any, **changes: Any) -> list[Job]:
    named = dict(zip(("models", "inference", "data"), given, strict=False))
    return plan(CompareOptions.of({**named, **changes}))


@cache
def main_plan() -> tuple[Job, ...]:
    return tuple(planned())


def test_without_arguments_the_main_job_is_planned() -> None:
    jobs = main_plan()
    assert {(job.model, job.data.name, job.data.treatment, job.settings.inference) for job in jobs} == {
        *(("gmm", "iris", "real", inference) for inference in ("amortized", "exact", "per-datapoint")),
        *((model, "digits", "static", i) for model in ("dlgm", "vae") for i in ("amortized", "per-datapoint")),
    }
    assert len(jobs) == 21
    for one in jobs:
        assert sorted(
            job.settings.seed
            for job in jobs
            if (job.model, job.settings.inference) == (one.model, one.settings.inference)
        ) == [0, 1, 2]
    assert list(inspect.signature(ppvae.compare).parameters["seeds"].default) == [0, 1, 2]


def test_the_main_job_uses_the_settings_that_models_registered() -> None:
    settings = {job.model: job.settings for job in main_plan()}
    assert (settings["gmm"].lr, settings["gmm"].epochs, settings["gmm"].patience) == (0.02, 640, None)
    assert settings["vae"].epochs == settings["dlgm"].epochs == 90


def test_one_data_set_is_loaded_once_for_all() -> None:
    assert len({id(job.data) for job in main_plan()}) == 2


def test_arguments_come_before_registered_settings() -> None:
    jobs = planned("gmm", "exact", "mixture", fit={"epochs": 7}, seeds=[4])
    assert [(job.data.name, job.settings.seed, job.settings.epochs) for job in jobs] == [("mixture", 4, 7)]


def test_a_model_takes_its_sizes_and_likelihood_from_the_data() -> None:
    (job,) = planned("vae", "amortized", "iris", seeds=[0], model_options={"latent_dim": 3})
    assert job.model_options == {"x_dim": 4, "likelihood": "gaussian", "latent_dim": 3}
    (job,) = planned("vae", "amortized", "digits", seeds=[0])
    assert job.model_options == {"x_dim": 64, "likelihood": "bernoulli"}


def test_strategies_that_do_not_apply_are_left_out_unless_asked_for() -> None:
    assert {job.settings.inference for job in planned("vae")} == {*ppvae.list_inference()} - {"exact"}
    assert {job.settings.inference for job in planned("vae", treatment="dynamic")} == {"amortized", "semi-amortized"}
    with pytest.raises(ppvae.PpvaeError, match="exact posterior"):
        planned("vae", ["amortized", "exact"])
    with pytest.raises(ppvae.PpvaeError, match="dynamic"):
        planned("vae", "per-datapoint", treatment="dynamic")


def test_a_model_that_sums_everything_out_has_exact_inference() -> None:
    jobs = planned("gmm", "exact", "iris", model_options={"assignment": "summed"})
    assert len(jobs) == 3


def test_data_in_hand_are_treated_and_cut_as_named_ones_are() -> None:
    (job,) = planned("ppca", "exact", data("iris"), seeds=[0], treatment="standardised", num_train=50)
    assert (job.data.treatment, len(job.data.train)) == ("standardised", 50)


def test_a_learning_rate_of_rows_goes_to_strategies_that_keep_rows() -> None:
    jobs = planned("vae", ["amortized", "per-datapoint"], seeds=[0], fit={"lr_phi": 0.1})
    assert {job.settings.inference: job.settings.lr_phi for job in jobs} == {"amortized": None, "per-datapoint": 0.1}


def test_options_of_a_strategy_go_to_it_alone() -> None:
    jobs = planned(
        "vae", ["amortized", "per-datapoint"], seeds=[0], inference_options={"per-datapoint": {"inner_steps": 3}}
    )
    assert {job.settings.inference: job.settings.inference_options for job in jobs} == {
        "amortized": {},
        "per-datapoint": {"inner_steps": 3},
    }


def test_a_users_file_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from ppvae.models import PPCA\n\nclass Mine(PPCA):\n    pass\n")
    jobs = planned(f"{path}:Mine", None, "iris")
    path.write_text("raise RuntimeError('edited meanwhile')")
    assert len({job.kind for job in jobs}) == 1
    assert len(jobs) == 3 * len(ppvae.list_inference())


def test_a_model_in_double_precision_is_planned(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from ppvae.models import PPCA\n\nclass Mine(PPCA):\n    def __init__(self, x_dim):\n"
        "        super().__init__(x_dim)\n        self.double()\n"
    )
    (row,) = compare(f"{path}:Mine", "amortized").rows
    assert row.log_marginal is not None


def test_planning_leaves_the_world_alone(untouched: Untouched) -> None:
    with untouched():
        planned("gmm", None, "iris")


# The rows


def test_a_row_has_exactly_the_documented_fields(rows: list[Row]) -> None:
    assert [field.name for field in fields(Row)] == FIELDS
    assert all(list(vars(row)) == FIELDS for row in rows)


def test_values_have_their_types(rows: list[Row]) -> None:
    for name, hint in get_type_hints(Row).items():
        assert all(isinstance(getattr(row, name), hint) for row in rows)
        assert all(type(getattr(row, name)) in (str, int, float, type(None)) for row in rows)


def test_there_is_a_row_for_each_model_strategy_and_seed(rows: list[Row]) -> None:
    assert {(row.model, row.inference, row.seed) for row in rows} == {
        (model, inference, seed) for model in ("ppca", "gmm") for inference in STRATEGIES for seed in (0, 1)
    }
    assert len(rows) == 12


def test_every_row_names_its_data_and_treatment(rows: list[Row]) -> None:
    assert {(row.data, row.treatment, row.split, row.num_data) for row in rows} == {("iris", "real", "test", 22)}
    assert {row.num_samples for row in rows} == {30}
    for treatment in ("static", "threshold"):
        (row,) = compare("vae", "amortized", data="digits", treatment=treatment, num_train=100, num_test=5).rows
        assert (row.data, row.treatment, row.num_data) == ("digits", treatment, 5)


def test_what_has_no_meaning_is_none(rows: list[Row]) -> None:
    for row in rows:
        assert row.approximation_gap is None  # not computed yet
        assert row.amortization_gap is None
        assert (row.log_marginal_method, row.log_marginal_mc_se) == ("exact", 0)
        assert (row.ess_median, row.ess_min, row.khat_bad_fraction) == (None, None, None)  # of an exact number
        if row.model == "gmm":  # every assignment is enumerated
            assert row.elbo_mc_se == 0
    (row,) = compare("vae", "amortized", num_samples=1, num_test=1).rows
    assert (row.elbo_mc_se, row.log_marginal_mc_se, row.log_marginal_data_se) == (None, None, None)
    assert row.log_marginal_method == "importance"
    assert row.elbo == row.iwae_bound == row.log_marginal


def test_diagnostics_and_times_are_in_range(rows: list[Row]) -> None:
    for row in rows:
        assert row.train_seconds > 0
        assert row.infer_seconds_per_1000 > 0
        if row.ess_min is not None and row.ess_median is not None and row.khat_bad_fraction is not None:
            assert 1 <= row.ess_min <= row.ess_median <= 30 * (1 + 1e-6)
            assert 0 <= row.khat_bad_fraction <= 1


def test_parameters_are_counted(rows: list[Row]) -> None:
    theta = 4 * 2 + 4 + 1
    phi = 2 + 4
    counted = {row.inference: row.num_parameters for row in rows if row.model == "ppca"}
    table_of_rows = len(data("iris").train) * phi
    assert counted == {
        "exact": theta,
        "amortized": theta + (4 + 1) * phi,
        "per-datapoint": theta + table_of_rows,
    }


def test_exact_inference_has_the_bound_at_log_p(rows: list[Row]) -> None:
    for row in rows:
        if row.inference == "exact":
            assert row.elbo == pytest.approx(row.log_marginal, abs=1e-4)
            assert row.iwae_bound == pytest.approx(row.log_marginal, abs=1e-4)


def test_bounds_of_an_enumerated_guide_are_in_order(rows: list[Row]) -> None:
    for row in rows:
        if row.model == "gmm":
            assert row.elbo is not None
            assert row.log_marginal is not None
            assert row.elbo <= row.log_marginal + 1e-4
            assert row.iwae_bound == pytest.approx(row.log_marginal, abs=1e-4)


@pytest.mark.parametrize(("name", "latent_dim"), [("iris", 2), ("digits", 10)])
def test_bounds_are_in_order(name: str, latent_dim: int) -> None:
    """ELBO ≤ E[L_K] ≤ log p(x), from an encoder that is somewhat off.

    The first holds draw by draw. The second is about an expectation, and may be missed by 5 standard errors.
    """
    x = data(name, "real")
    model = ppvae.create("ppca", x_dim=math.prod(x.event_shape), latent_dim=latent_dim)
    fit = ppvae.fit(model, x, "amortized", lr=1e-2, epochs=5, progress=False)
    with torch.no_grad():
        dict(fit.strategy.named_parameters())["head.bias"].add_(0.5)
    row, each = evaluate(fit, x, name="ppca", num_samples=40, num_test=100, seed=1)
    assert row.elbo is not None
    assert row.iwae_bound is not None
    assert row.log_marginal is not None
    slack = 5 * float((each["iwae_bound_se"] ** 2).sum() ** 0.5) / row.num_data
    assert row.elbo <= row.iwae_bound
    assert row.iwae_bound <= row.log_marginal + slack
    assert row.log_marginal - row.elbo > 0.1  # there was something to order
    with torch.no_grad():
        exact = fit.model.log_prob(x.test[:100])
    assert row.log_marginal == pytest.approx(exact.mean().item(), rel=1e-5)


def test_a_row_is_what_python_says() -> None:
    fit = ppvae.fit(ppvae.create("ppca", x_dim=4), data("iris"), "amortized", epochs=2, seed=3, progress=False)
    row, each = evaluate(fit, data("iris"), name="mine", num_samples=30, num_test=10, seed=3)
    estimates = ppvae.log_marginal(fit, data("iris").test[:10], num_samples=30, seed=3)
    elbo, bound = ppvae.summarise(estimates, "elbo"), ppvae.summarise(estimates)
    assert (row.model, row.inference, row.seed, row.num_data) == ("mine", "amortized", 3, 10)
    assert (row.elbo, row.elbo_mc_se, row.iwae_bound) == (elbo.mean, elbo.mc_se, bound.mean)
    plain, _ = evaluate(fit, data("iris"), name="mine", num_samples=30, num_test=10, method="importance", seed=3)
    assert plain.ess_median == float(estimates["ess"].median())
    assert plain.ess_min == float(estimates["ess"].min())
    assert plain.khat_bad_fraction == pytest.approx(1 - float(estimates["ok"].mean()))
    assert plain.log_marginal == row.iwae_bound == plain.iwae_bound
    assert each["elbo"].identical(estimates["elbo"])
    assert row.train_seconds == fit.seconds
    assert row.num_parameters == fit.num_parameters()
    exact = ppvae.summarise(ppvae.log_marginal(fit, data("iris").test[:10], method="exact"))
    assert (row.log_marginal, row.log_marginal_data_se) == (exact.mean, exact.data_se)


def test_any_split_can_be_judged_but_intensities_cannot() -> None:
    digits = data("digits", "dynamic")
    model = ppvae.create("vae", x_dim=64, latent_dim=2, hidden=[8])
    fit = ppvae.fit(model, digits, epochs=1, progress=False)
    row, _ = evaluate(fit, digits, name="vae", num_samples=2, num_test=3, split="valid")
    assert (row.split, row.num_data) == ("valid", 3)
    with pytest.raises(ppvae.PpvaeError, match="intensities"):
        evaluate(fit, digits, name="vae", num_samples=2, num_test=3, split="train")
    with pytest.raises(ppvae.PpvaeError, match="train, valid, test"):
        evaluate(fit, digits, name="vae", num_samples=2, num_test=3, split="tset")


# Reproducibility


def test_rows_do_not_depend_on_the_order_of_jobs(rows: list[Row]) -> None:
    backwards = compare(
        ["gmm", "ppca"], ["per-datapoint", "exact", "amortized"], seeds=[1, 0], inference_options=HURRIED
    ).rows
    assert [row.inference for row in backwards] != [row.inference for row in rows]

    def sort(given: list[Row]) -> list[Row]:
        return sorted(given, key=lambda row: (row.model, row.inference, row.seed))

    assert timeless(sort(backwards)) == timeless(sort(rows))


def test_rows_do_not_depend_on_the_others(rows: list[Row]) -> None:
    (alone,) = compare("gmm", "amortized", seeds=[1]).rows
    assert timeless([alone])[0] in timeless(rows)


def test_seeds_differ(rows: list[Row]) -> None:
    zero, one = ([row for row in timeless(rows) if row["seed"] == seed] for seed in (0, 1))
    assert all(a["log_marginal"] != b["log_marginal"] for a, b in zip(zero, one, strict=True))


def test_rows_side_by_side_are_the_same_but_for_rounding(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from ppvae.models import PPCA\n\nclass Mine(PPCA):\n    pass\n")
    models = [f"{path}:Mine", "gmm"]
    two = compare(models, "amortized", seeds=[0, 1], workers=2, run_dir=tmp_path / "two").rows
    one = compare(models, "amortized", seeds=[0, 1]).rows
    for ours, theirs in zip(timeless(two), timeless(one), strict=True):
        for name, value in ours.items():
            assert value == (pytest.approx(theirs[name], rel=1e-3) if isinstance(value, float) else theirs[name])
    assert [vars(row) for row in read_results(tmp_path / "two" / "results.json")] == [vars(row) for row in two]


def test_a_row_that_fails_beside_another_is_the_users_one_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from ppvae.models import PPCA\n\nclass Mine(PPCA):\n    def log_prob(self, x):\n"
        "        raise RuntimeError('no luck')\n"
    )
    with pytest.raises((ppvae.PpvaeError, RuntimeError), match="no luck"):
        compare(f"{path}:Mine", "amortized", seeds=[0, 1], workers=2, run_dir=tmp_path / "two")


def test_a_comparison_leaves_the_world_alone(untouched: Untouched) -> None:
    with untouched():
        compare("ppca", ["amortized", "exact"])


def test_without_a_place_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert compare().run_dir is None
    assert not list(tmp_path.iterdir())


# results.json


def strict(path: Path) -> Any:
    """JSON, without the NaN and Infinity that Python alone reads."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_results_are_versioned_and_complete(tmp_path: Path) -> None:
    found = compare("gmm", ["exact", "amortized"], seeds=[0, 1], run_dir=tmp_path / "mine")
    assert found.run_dir is not None
    assert found.run_dir == tmp_path / "mine"
    assert sorted(path.name for path in found.run_dir.iterdir()) == ["config.yaml", "fits", "results.json"]
    places = sorted(path.name for path in (found.run_dir / "fits").iterdir())
    assert places == ["gmm-amortized-0", "gmm-amortized-1", "gmm-exact-0", "gmm-exact-1"]
    for row, place in zip(found.rows, [places[2], places[3], places[0], places[1]], strict=True):
        assert {path.name for path in (found.run_dir / "fits" / place).iterdir()} == KEPT
        assert read_results(found.run_dir / "fits" / place / "results.json") == [row]
        assert ppvae.load(found.run_dir / "fits" / place).num_parameters() == row.num_parameters
    document = strict(found.run_dir / "results.json")
    assert set(document) == {"schema", "versions", "seconds", "rows"}
    assert document["schema"] == 1
    assert document["versions"] == versions()
    assert versions().items() >= {"ppvae": ppvae.__version__, "torch": str(torch.__version__)}.items()
    assert document["seconds"] > 0
    assert [list(row) for row in document["rows"]] == [FIELDS] * 4
    assert all(row["ess_median"] is None for row in document["rows"])
    assert read_results(found.run_dir / "results.json") == found.rows


def test_a_missing_error_is_null(tmp_path: Path) -> None:
    compare("vae", "amortized", num_samples=1, num_test=1, run_dir=tmp_path / "mine")
    (row,) = strict(tmp_path / "mine" / "results.json")["rows"]
    assert row["elbo_mc_se"] is row["log_marginal_mc_se"] is row["log_marginal_data_se"] is None
    assert isinstance(row["iwae_bound"], float)


def test_results_round_trip(rows: list[Row], tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(path, rows, 1.5)
    assert read_results(path) == rows
    assert read_results(str(path)) == rows
    write_results(path, [], 0.0)
    assert read_results(path) == []


def test_results_with_nan_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(path, [a_row()], 0.0)
    with pytest.raises(ValueError, match="JSON"):
        write_results(path, [a_row(elbo=math.nan)], 0.0)
    assert read_results(path) == [a_row()]


@pytest.mark.parametrize(
    ("damage", "fragment"),
    [
        (lambda document: "", "damaged"),
        (lambda document: json.dumps(document)[:-20], "damaged"),
        (lambda document: "[]", "damaged"),
        (lambda document: json.dumps({k: v for k, v in document.items() if k != "schema"}), "schema"),
        (lambda document: json.dumps({**document, "schema": 2}), "schema 2, this version reads 1"),
        (lambda document: json.dumps({k: v for k, v in document.items() if k != "rows"}), "rows"),
        (lambda document: json.dumps({**document, "rows": None}), "damaged"),
        (lambda document: json.dumps({**document, "rows": [7]}), "damaged"),
        (lambda document: json.dumps({**document, "rows": [{**document["rows"][0], "extra": 1}]}), "extra"),
        (lambda document: json.dumps({**document, "rows": [{"model": "vae"}]}), "missing"),
    ],
)
def test_damaged_results_are_refused_in_one_line(damage: Callable[[Any], str], fragment: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(path, [a_row()], 0.0)
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(ppvae.PpvaeError) as caught:
        read_results(path)
    assert fragment in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["missing", "folder", "bytes"])
def test_unreadable_results_are_refused_in_one_line(what: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    if what == "folder":
        path.mkdir()
    if what == "bytes":
        path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ppvae.PpvaeError, match=r"results\.json") as caught:
        read_results(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_comparison_leaves_the_rows_done(
    failure: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("ppvae.comparison.run")
    done = module.run

    def run(job: Job, *arguments: Any, **judged: Any) -> Row:
        if job.settings.seed == 2:
            raise failure
        return done(job, *arguments, **judged)

    monkeypatch.setattr(module, "run", run)
    with pytest.raises(failure):
        compare("gmm", "exact", seeds=[0, 1, 2, 3], run_dir=tmp_path / "mine")
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["config.yaml", "fits", "results.json"]
    assert sorted(path.name for path in (tmp_path / "mine" / "fits").iterdir()) == ["gmm-exact-0", "gmm-exact-1"]
    assert [row.seed for row in read_results(tmp_path / "mine" / "results.json")] == [0, 1]
    assert strict(tmp_path / "mine" / "results.json")["schema"] == 1


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("failure", [RuntimeError, ppvae.PpvaeError])
def test_a_first_fit_that_fails_leaves_the_disk_as_it_was(
    failure: type[Exception], resume: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it fails in training or before; a folder that was there stays, and so does a run gone on with."""

    def step(*arguments: Any) -> float:
        raise failure("no luck")

    with monkeypatch.context() as patch:
        patch.setattr("ppvae.training.loop.Training.take_step", step)
        with pytest.raises(failure, match="no luck"):
            compare(run_dir=tmp_path / "deep" / "er")
        assert not list(tmp_path.iterdir())
        (tmp_path / "empty").mkdir()
        with pytest.raises(failure, match="no luck"):
            compare(run_dir=tmp_path / "empty" / "mine")
        with pytest.raises(failure, match="no luck"):
            compare(run_dir=tmp_path / "empty", resume=resume)
        assert [path.name for path in tmp_path.rglob("*")] == ["empty"]
        if resume:
            with pytest.MonkeyPatch.context() as killed:
                killed.setattr(Place, "__exit__", lambda *arguments: None)  # as a kill would have it
                with pytest.raises(failure):
                    compare(run_dir=tmp_path / "mine")
            with pytest.raises(failure, match="no luck"):
                compare(run_dir=tmp_path / "mine", resume=True)
            assert (tmp_path / "mine" / "config.yaml").is_file()
    if resume:
        assert len(compare(run_dir=tmp_path / "mine", resume=True).rows) == 1


@pytest.mark.parametrize(
    ("damage", "fragment"),
    [
        (lambda place: (place / "results.json").write_text("{"), "results.json is damaged"),
        (lambda place: (place / "results.json").write_text('{"schema": 7}'), "schema 7"),
        (lambda place: (place / "results.json").write_text('{"schema": 1, "rows": []}'), "results.json is damaged"),
    ],
)
def test_going_on_with_damaged_rows_is_refused(damage: Callable[[Path], object], fragment: str, tmp_path: Path) -> None:
    compare(run_dir=tmp_path / "mine")
    damage(tmp_path / "mine" / "fits" / "ppca-exact-0")
    with pytest.raises(ppvae.PpvaeError, match=fragment) as caught:
        compare(run_dir=tmp_path / "mine", resume=True)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "mine" / "config.yaml").is_file()


def test_an_existing_empty_folder_is_used(tmp_path: Path) -> None:
    compare(run_dir=tmp_path)
    assert len(read_results(tmp_path / "results.json")) == 1
    with pytest.raises(ppvae.PpvaeError, match="not an empty folder"):
        compare(run_dir=tmp_path)


REFUSALS: dict[str, dict[str, Any]] = {
    "model": {"models": "vea"},
    "the second model": {"models": ["ppca", "vea"]},
    "inference": {"inference": "svi"},
    "inference that does not apply": {"models": ["gmm", "vae"], "inference": "exact"},
    "data": {"data": "nowhere"},
    "data that do not suit": {"models": ["vae", "gmm"], "inference": "amortized", "data": "digits"},
    "seeds": {"seeds": [0, -1]},
    "treatment": {"treatment": "static"},
    "num_train": {"num_train": 10**6},
    "num_test": {"num_test": 0},
    "num_samples": {"num_samples": 0},
    "unknown option of the model": {"model_options": {"latnet_dim": 1}},
    "value of the model": {"model_options": {"latent_dim": 0}},
    "x_dim of other data": {"model_options": {"x_dim": 3}},
    "unknown option of a strategy": {"inference": "per-datapoint", "inference_options": {"per-datapoint": {"lrr": 1}}},
    "value of the last strategy": {"inference": None, "inference_options": {"per-datapoint": {"inner_steps": 0}}},
    "option of a strategy left out": {"inference_options": {"amortized": {}, "per-datapoint": {"lr": 0.1}}},
    "unknown option of fit": {"epoch": 3},
    "epochs": {"epochs": 0},
    "lr": {"lr": -1.0},
    "batch_size": {"batch_size": 0},
    "objective": {"objective": "elbow"},
    "accelerator": {"accelerator": "abacus"},
}


@pytest.mark.parametrize("refused", REFUSALS)
def test_what_is_refused_is_refused_before_anything_is_written(
    refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ppvae.PpvaeError) as caught:
        compare(**{"run_dir": "deep/er", **REFUSALS[refused]})
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


# Ranking and tables


def show(rows: list[Row]) -> str:
    console = Console(file=io.StringIO(), width=160)
    for one in tables(rows):
        console.print(one)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def ranking(rows: list[Row]) -> dict[tuple[str, str], list[str]]:
    return {key: [f"{line.model} {line.inference}" for line in group] for key, group in lines(rows).items()}


def test_ranks_are_within_one_treatment_of_one_data_set() -> None:
    rows = [
        a_row(model="worse", log_marginal=-30.0),
        a_row(model="better", log_marginal=-20.0),
        a_row(model="worse", treatment="threshold", log_marginal=-15.0),
        a_row(model="better", treatment="threshold", log_marginal=-10.0),
        a_row(model="worse", data="mnist", log_marginal=-90.0),
    ]
    expected = {
        ("digits", "static"): ["better amortized", "worse amortized"],
        ("digits", "threshold"): ["better amortized", "worse amortized"],
        ("mnist", "static"): ["worse amortized"],
    }
    assert ranking(rows) == ranking(rows[::-1]) == expected
    titles = [str(one.title) for one in tables(rows)]
    assert [title.partition(",")[0] for title in titles] == [
        "digits (static)",
        "digits (threshold)",
        "mnist (static)",
    ]
    assert all("nats/datum" in title for title in titles)
    assert [one.row_count for one in tables(rows)] == [2, 2, 1]


def test_ranks_are_by_the_mean_over_seeds() -> None:
    rows = [a_row(model="a", seed=seed, log_marginal=value) for seed, value in enumerate((-10.0, -30.0))]
    rows += [a_row(model="b", seed=seed, log_marginal=value) for seed, value in enumerate((-18.0, -19.0))]
    (group,) = lines(rows).values()
    assert [line.model for line in group] == ["b", "a"]
    a = group[1]
    assert a.mean(averages.log_marginal) == -20
    assert a.spread(averages.log_marginal) == pytest.approx(math.sqrt(200))
    assert a.sampling_error(lambda row: row.log_marginal_mc_se) == pytest.approx(0.02 / math.sqrt(2))


def test_zero_is_a_value_and_none_comes_last() -> None:
    rows = [a_row(model=f"m{value}", log_marginal=value) for value in (None, -1.0, 0.0, 1.0)]
    assert ranking(rows)["digits", "static"] == [f"m{v} amortized" for v in (1.0, 0.0, -1.0, None)]


def test_a_table_shows_errors_and_no_nan(rows: list[Row]) -> None:
    text = show(rows)
    assert "iris (real), 22 test data, 30 samples; nats/datum" in text
    assert re.search(r"= -?\d+\.\d\d", text)  # exact log p
    assert "nan" not in text.lower()
    assert "none" not in text.lower()
    text = show([a_row(), a_row(seed=1, log_marginal=-23.5), a_row(model="dlgm", log_marginal=-22.0)])
    assert "-23.75 ± 0.014" in text
    assert "-22.00 ± 0.020" in text
    assert "0.35" in text  # the spread of two seeds
    assert "12,345" in text
    assert re.search(r"1 │ dlgm", text)
    assert re.search(r"2 │ vae", text)


def test_a_table_says_what_it_does_not_know() -> None:
    unknown = dict.fromkeys(
        ("elbo", "elbo_mc_se", "iwae_bound", "log_marginal", "log_marginal_mc_se", "ess_median", "khat_bad_fraction")
    )
    text = show([a_row(**unknown)])
    assert "nan" not in text.lower()
    assert "none" not in text.lower()
    assert text.count("–") >= 6


def test_names_in_a_table_are_no_markup() -> None:
    text = show([a_row(model="/somewhere/[red]mine.py:Mine", data="[bold]x.npy")])
    assert "[red]mine.py:Mine" in text
    assert "[bold]x.npy" in text


def test_no_rows_give_no_table() -> None:
    assert tables([]) == []


# Pictures


def draw(rows: list[Row]) -> tuple[Axes, Axes]:
    """(the axes given, the axes returned) for the first treatment of the rows."""
    ax = Figure().subplots()
    group = next(iter(lines(rows).values()))
    return ax, plots.bounds(group, ax)


def colours(ax: Axes) -> set[str]:
    return {to_hex(line.get_color()).upper() for line in ax.get_lines()}


def test_bounds_draws_on_the_axes_and_returns_it(rows: list[Row]) -> None:
    ax, returned = draw(rows)
    assert returned is ax
    assert "nats/datum" in ax.get_xlabel()
    assert "ELBO" in ax.get_xlabel()
    assert "iris (real)" in ax.get_title()
    assert {text.get_text() for text in ax.get_yticklabels()} == {
        f"{model}\n{inference}" for model in ("ppca", "gmm") for inference in STRATEGIES
    }


def test_the_best_is_on_top() -> None:
    ax, _ = draw([a_row(model="worse", log_marginal=-30.0), a_row(model="better", log_marginal=-20.0)])
    names = [text.get_text().split("\n")[0] for text in ax.get_yticklabels()]
    labels = dict(zip(names, ax.get_yticks(), strict=True))
    low, high = ax.get_ylim()
    assert low < labels["worse"] < labels["better"] < high


def test_points_are_where_the_numbers_are() -> None:
    ax, _ = draw([a_row(elbo=-25.0, log_marginal=-24.0)])
    drawn = {float(x) for line in ax.get_lines() for x in np.asarray(line.get_xdata()).flatten()}
    assert {-25.0, -24.0} <= drawn


def test_every_strategy_has_a_colour_of_its_own() -> None:
    tones = {name: plots.colour(name) for name in ppvae.list_inference()}
    assert len(set(tones.values())) == len(tones)
    assert plots.colour("from-elsewhere") not in tones.values()


def test_the_colour_of_a_strategy_is_the_same_in_every_picture() -> None:
    for inference in STRATEGIES:
        alone, _ = draw([a_row(model="gmm", inference=inference)])
        assert colours(alone) == {plots.colour(inference).upper()}
    both, _ = draw([a_row(inference="per-datapoint", log_marginal=-1.0), a_row(inference="amortized")])
    assert colours(both) == {plots.colour(name).upper() for name in ("per-datapoint", "amortized")}


def test_what_is_unknown_is_not_drawn() -> None:
    ax, _ = draw([a_row(elbo=None), a_row(model="other")])
    assert len(ax.get_yticks()) == 2
    assert {to_hex(line.get_color()) for line in ax.get_lines()} == {plots.colour("amortized").lower()}


def test_a_comparison_is_a_picture(rows: list[Row], tmp_path: Path) -> None:
    figure = plots.comparison([*rows, a_row(), a_row(treatment="threshold")])
    assert len(figure.axes) == 3
    path = tmp_path / "bounds.png"
    figure.savefig(path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert path.stat().st_size > 5000


def test_pictures_leave_matplotlib_alone(rows: list[Row]) -> None:
    before = dict(mpl.rcParams)
    plots.comparison(rows).savefig(io.BytesIO())
    assert dict(mpl.rcParams) == before


def test_no_rows_give_no_picture() -> None:
    with pytest.raises(ppvae.PpvaeError, match="no rows"):
        plots.comparison([])


def test_a_comparison_on_data_made_in_python_continues(tmp_path: Path) -> None:
    """Its config.yaml has the name of the data, which no catalogue has."""
    iris = data("iris")
    mine = ppvae.Data("mine", iris.train, iris.valid, iris.test, "gaussian", "real")
    first = compare(data=mine, run_dir=tmp_path / "run")
    again = compare(data=mine, run_dir=tmp_path / "run", resume=True)
    assert again.rows == first.rows
    with pytest.raises(ppvae.PpvaeError, match="holds a comparison with data 'mine', not 'iris'"):
        compare(run_dir=tmp_path / "run", resume=True)
