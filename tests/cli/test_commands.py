"""The command line at work: every command, its options and its files; `test_bad_input.py` has what it refuses."""

import inspect
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
import xarray as xr
import yaml
from conftest import Untouched

import ppvae
from ppvae.catalogue import COMMANDS
from ppvae.cli import main as cli
from ppvae.cli.command import Command
from ppvae.comparison.options import CompareOptions
from ppvae.data.loading import list_data
from ppvae.data.options import DataOptions
from ppvae.randomness import block_seed
from ppvae.runs.results import Row, read_results
from ppvae.training.fitting import fit
from ppvae.training.settings import Settings

USER_FILE = '''"""Files of a user may say what they like here."""

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import ppvae


class Mine(ppvae.Model):
    """A linear model of my own."""

    def __init__(self, x_dim: int, latent_dim: int = 2):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(latent_dim, x_dim))
        self.phi = {"loc": ppvae.Local(torch.zeros(latent_dim))}

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(self.weight)), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight, 1.0).to_event(1), obs=x)

    def guide(self, x, phi):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(phi["loc"], 0.5).to_event(1))


class Story(ppvae.Model):
    def __init__(self, x_dim, latent_dim=2):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(latent_dim, x_dim))

    model = Mine.model
'''
#: what a fit keeps, and a comparison
KEPT = {"config.yaml", "metrics.csv", "weights.safetensors", "fit.yaml"}
COMPARED = {"config.yaml", "results.json", "fits", "figures", "report.html"}
QUICK = "--data iris --epochs 2"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "my.py").write_text(USER_FILE)
    return tmp_path


Run = Callable[[str], str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """What a command prints on stdout; it must succeed and leave stderr empty."""

    def run(command: str) -> str:
        status = cli.main(shlex.split(command))
        out, err = capsys.readouterr()
        assert (status, err) == (0, "")
        return out

    return run


def number(label: str, out: str) -> float:
    """The number behind a label of `ppvae evaluate`."""
    (found,) = re.findall(rf"^{re.escape(label)}\s+(\S+)", out, re.MULTILINE)
    return float(found)


def weights(folder: str) -> dict[str, torch.Tensor]:
    fit = ppvae.load(folder)
    return {**fit.model.state_dict(), **{f"strategy.{k}": v for k, v in fit.strategy.state_dict().items()}}


def timeless(row: Row) -> dict[str, Any]:
    return {k: v for k, v in vars(row).items() if k not in ("train_seconds", "infer_seconds_per_1000")}


# list and show


def test_list_names_everything_with_its_first_line(run: Run) -> None:
    out = run("list")
    for name in (*ppvae.list_models(), *ppvae.list_inference(), *list_data()):
        assert re.search(rf"^\s+{name}\s", out, re.MULTILINE)
    assert "Gaussian mixture model." in out
    assert "one row φᵢ per datapoint" in out


@pytest.mark.parametrize("name", [*ppvae.list_models(), *ppvae.list_inference()])
def test_show_tells_the_story_and_the_options(name: str, run: Run) -> None:
    out = run(f"show {name}")
    assert len(out.splitlines()) > 8
    options = out.partition("Options:\n")[2].splitlines()
    for option in options:
        assert re.fullmatch(r"  \w+: .+  \((required|default .+)\)", option)
    assert "\n    self" not in out


def test_show_gives_types_and_defaults(run: Run) -> None:
    out = run("show vae")
    assert "p_θ" in out or "f_θ" in out
    assert "  x_dim: int  (required)" in out
    assert "  latent_dim: int  (default 20)" in out
    assert "latent_dim: size of z." in out


def test_show_a_users_own_class(run: Run) -> None:
    out = run("show my.py:Mine")
    assert "A linear model of my own." in out
    assert "  latent_dim: int  (default 2)" in out
    assert "Hooks" not in out


def test_show_does_not_pass_off_what_is_inherited(run: Run) -> None:
    assert run("show my.py:Story") == "Options:\n  x_dim  (required)\n  latent_dim  (default 2)\n"


def test_show_does_not_take_another_module_for_a_users_file(here: Path, run: Run) -> None:
    (here / "json.py").write_text(USER_FILE)
    assert "JavaScript" not in run("show json.py:Mine")


# fit and evaluate


def test_fit_saves_and_evaluate_reads(run: Run) -> None:
    said = run(f"fit ppca {QUICK} --run_dir mine --model.latent_dim 3 --seed 5")
    assert "ppca under amortized on iris (real): 4 steps" in said
    assert "nats/datum" in said
    assert "saved to mine; next: ppvae evaluate mine" in said
    fit = ppvae.load("mine")
    assert fit.model.latent_dim == 3
    assert fit.settings.seed == 5
    out = run("evaluate mine --num_samples 30 --num_data 20")
    assert out.startswith("iris (real), 20 test data, amortized, nats/datum\n")
    x = ppvae.load_data("iris").test[:20]
    estimates = ppvae.log_marginal(fit, x, num_samples=30)
    assert number("importance bound", out) == pytest.approx(ppvae.summarise(estimates).mean, abs=6e-4)
    assert number("ELBO", out) == pytest.approx(ppvae.summarise(estimates, "elbo").mean, abs=6e-4)
    with torch.no_grad():
        assert number("log p(x)", out) == pytest.approx(fit.model.log_prob(x).mean().item(), abs=6e-4)
    assert "method            exact 100%" in out
    out = run("evaluate mine --num_samples 30 --num_data 20 --method importance")
    assert "log p(x)        ≥" in out  # thirty draws cannot pass
    assert number("effective samples", out) == pytest.approx(float(estimates["ess"].median()), abs=0.5)
    assert "± " in out
    assert "nan" not in out


def test_fit_is_the_fit_of_python(run: Run) -> None:
    run(f"fit ppca {QUICK} --run-dir mine --inference exact --lr 0.05 --num-train 50 --batch-size 20 --seed 3")
    data = ppvae.load_data("iris", num_train=50)
    with torch.random.fork_rng():
        torch.manual_seed(block_seed(3))
        model = ppvae.create("ppca", x_dim=4)
    fit = ppvae.fit(model, data, "exact", lr=0.05, batch_size=20, epochs=2, seed=3, progress=False)
    theta = fit.model.state_dict()
    assert all(torch.equal(value, theta[name]) for name, value in ppvae.load("mine").model.state_dict().items())


@pytest.mark.parametrize("model", ["ppca", "gmm"])
def test_evaluate_exactly(model: str, run: Run) -> None:
    run(f"fit {model} {QUICK} --run-dir mine")
    out = run("evaluate mine --method exact")
    fit, x = ppvae.load("mine"), ppvae.load_data("iris").test
    with torch.no_grad():
        assert number("log p(x)", out) == pytest.approx(fit.model.log_prob(x).mean().item(), abs=6e-4)
    assert "± 0.000 sampling" in out
    assert "effective samples" not in out


def test_evaluate_an_enumerated_guide_gives_no_diagnostics(run: Run) -> None:
    run(f"fit gmm {QUICK} --run-dir mine")
    out = run("evaluate mine --num_samples 30")
    assert number("ELBO", out) <= number("log p(x)", out)
    assert "effective samples" not in out
    assert "nan" not in out


def test_evaluate_one_draw_of_one_datum_has_no_error_to_tell(run: Run) -> None:
    run(f"fit ppca {QUICK} --run-dir mine")
    out = run("evaluate mine --num_samples 1 --num_data 1")
    assert "nan" not in out
    assert "± –" in out


def test_evaluate_writes_the_estimates_of_every_datum(run: Run) -> None:
    run(f"fit ppca {QUICK} --run-dir mine")
    assert "estimates of every datum: each.nc" in run(
        "evaluate mine --num_samples 30 --method importance --out each.nc"
    )
    direct = ppvae.log_marginal(ppvae.load("mine"), ppvae.load_data("iris").test, num_samples=30)
    with xr.open_dataset("each.nc", engine="h5netcdf") as found:
        assert found.sizes["datum"] == 22
        assert found.attrs["num_samples"] == 30
        for name in ("log_marginal", "log_marginal_se", "elbo", "ess", "khat", "ok", "method"):
            assert found[name].dims == ("datum",)
        assert (found["log_marginal"] == direct["log_marginal"]).all()


def test_evaluate_other_data_and_other_splits(here: Path, run: Run) -> None:
    run(f"fit ppca {QUICK} --run-dir mine")
    rows = "\n".join("5.0,3.5,1.5,0.2" for _ in range(20))
    (here / "other.csv").write_text(rows)
    assert run("evaluate mine --num_samples 30 --data other.csv").startswith("other.csv (real), 20 all data")
    assert run("evaluate mine --num_samples 30 --split train").startswith("iris (real), 106 train data")
    assert run("evaluate mine --num_samples 30 --split valid").startswith("iris (real), 22 valid data")


def test_digits_under_every_treatment_and_strategy(run: Run) -> None:
    tiny = "--num_train 200 --epochs 2 --model.latent_dim 2 --model.hidden '[8]'"
    run(f"fit vae {tiny} --treatment dynamic --run-dir dynamic")
    run(f"fit vae {tiny} --treatment threshold --inference per-datapoint --run-dir rows")
    quick = "--num_samples 30 --num_data 20"
    assert run(f"evaluate dynamic {quick}").startswith("digits (dynamic), 20 test data, amortized")
    assert run(f"evaluate rows {quick}").startswith("digits (threshold), 20 test data, per-datapoint")


def test_data_from_a_file_are_found_again(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 3, generator=generator)
    (here / "mine.csv").write_text("\n".join(",".join(map(str, row)) for row in rows.tolist()))
    run("fit ppca --data mine.csv --epochs 2 --run-dir mine")
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert run("evaluate ../mine --num_samples 30").startswith("mine.csv (real), 6 test data")


# Where options come from


@pytest.mark.parametrize("option", ["--run-dir", "--run_dir"])
def test_hyphens_and_underscores(option: str, run: Run) -> None:
    run(f"fit ppca {QUICK} {option} mine")
    run(f"fit ppca {QUICK} {option}=mine-too")
    assert weights("mine").keys() == weights("mine-too").keys()


def test_hyphens_in_options_of_the_model(run: Run) -> None:
    run(f"fit ppca {QUICK} --run-dir mine --model.latent-dim 3")
    assert ppvae.load("mine").model.latent_dim == 3


def test_a_yaml_file_of_options(here: Path, run: Run) -> None:
    options = {"name": "ppca", "data": "iris", "epochs": 2, "run_dir": "mine", "model": {"latent_dim": 3}}
    (here / "options.yaml").write_text(yaml.safe_dump(options))
    run("fit --config options.yaml")
    assert ppvae.load("mine").model.latent_dim == 3
    run("fit --config options.yaml --run-dir other --epochs 1 --model.noise diagonal")
    fit = ppvae.load("other")
    assert fit.settings.epochs == 1
    assert fit.model.options == {"x_dim": 4, "latent_dim": 3, "noise": "diagonal"}


def test_a_yaml_file_for_compare(here: Path, run: Run) -> None:
    options = {
        "models": ["ppca"],
        "inference": ["amortized", "per-datapoint"],
        "data": "iris",
        "seeds": [1],
        "fit": {"epochs": 1},
        "inference_options": {"per-datapoint": {"max_steps": 5}},
        "num_samples": 30,
        "run_dir": "mine",
    }
    (here / "options.yaml").write_text(yaml.safe_dump(options))
    run("compare --config options.yaml")
    assert [(row.inference, row.seed) for row in read_results("mine/results.json")] == [
        ("amortized", 1),
        ("per-datapoint", 1),
    ]


def test_printed_options_are_a_yaml_file(here: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main(shlex.split(f"fit ppca {QUICK} --model.latent_dim 3 --print_config"))
    assert not done.value.code
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["model"] == {"latent_dim": 3}
    assert not (here / "runs").exists()
    (here / "options.yaml").write_text(printed)
    run("fit --config options.yaml --run-dir mine")
    assert ppvae.load("mine").settings.epochs == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each option by the name that the command line has for it, and the one text that Python shows too."""
    with pytest.raises(SystemExit) as done:
        cli.main([command, "--help"])
    assert not done.value.code
    shown = squeezed(capsys.readouterr().out)
    kind, facts = COMMANDS[command], COMMANDS.facts(command)
    words = {option: word for word, option in kind.words.items()}
    for name, each in kind.options().items():
        assert f"--{words.get(name, name)}" in shown
        assert squeezed(each.text) in shown
    assert squeezed(COMMANDS.summary(command)) in shown
    subject = str(facts.get("subject", "")).upper()
    asked = subject if facts.get("required") or not subject else f"[{subject}]"
    assert shown.startswith(squeezed(f"usage: ppvae {command} {asked} [options]"))


def squeezed(text: str) -> str:
    """Without spaces, whichever way lines are broken."""
    return re.sub(r"\s", "", text)


def test_help_of_a_model_explains_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("fit", "compare"):
        with pytest.raises(SystemExit) as done:
            cli.main([command, "vae", "--help"])
        assert not done.value.code
        shown = " ".join(capsys.readouterr().out.split())
        assert "options of vae:" in shown
        assert "--model.latent_dim size of z. (int, default: 20)" in shown


def test_help_of_the_whole_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {command} " in shown for command in COMMANDS)
    assert "--debug" in shown


def test_fit_has_the_options_of_settings_and_data() -> None:
    """One list: what Python's Settings and DataOptions have, with the same defaults and texts."""
    ours = COMMANDS["fit"].options()
    for name, each in (Settings.options() | DataOptions.options()).items():
        if name != "data":  # a fit to continue from has data of its own
            assert ours[name] == each
    parameters = inspect.signature(fit).parameters
    for name, each in Settings.options().items():
        assert (parameters[name].default, parameters[name].annotation) == (each.default, each.hint)
        assert squeezed(f"{name}: {each.text}") in squeezed(inspect.getdoc(fit) or "")


def test_evaluate_has_the_arguments_and_defaults_of_python() -> None:
    ours, theirs = COMMANDS["evaluate"].options(), inspect.signature(ppvae.log_marginal).parameters
    renamed = {"method_options": "options"}
    assert not theirs.keys() - {renamed.get(name, name) for name in ours} - {
        "pair", "x", "index", "chunk_size", "progress", "smooth"
    }  # fmt: skip
    for name in (theirs.keys() & ours.keys()) - {"method"}:  # what judges is careful, what is called is exact
        assert ours[name].default == theirs[name].default


def test_compare_has_the_options_of_python() -> None:
    ours = COMMANDS["compare"].options()
    parameters = inspect.signature(ppvae.compare).parameters
    for name, each in CompareOptions.options().items():
        assert (ours[name].default, ours[name].hint) == (each.default, each.hint)
        assert parameters[name].default == each.default


# Where results go


def test_fits_without_a_place_get_folders_of_their_own(here: Path, run: Run) -> None:
    said = [run(f"fit ppca {QUICK}") for _ in range(3)]
    folders = sorted((here / "runs").iterdir())
    assert len(folders) == 3
    assert all(re.fullmatch(r"fit-\d{8}-\d{6}(-\d+)?", folder.name) for folder in folders)
    assert all(any(f"saved to runs/{folder.name};" in text for text in said) for folder in folders)
    assert {path.name for path in here.iterdir()} == {"my.py", "runs"}


def test_comparisons_without_a_place_get_folders_of_their_own(here: Path, run: Run) -> None:
    quick = "compare --models ppca --inference exact --data iris --seeds 0 --fit.epochs 1 --num_samples 30"
    said = [run(quick) for _ in range(2)]
    folders = sorted((here / "runs").iterdir())
    assert len(folders) == 2
    for folder in folders:
        assert re.fullmatch(r"compare-\d{8}-\d{6}(-\d+)?", folder.name)
        assert {path.name for path in folder.iterdir()} == COMPARED
        assert any(f"runs/{folder.name}/results.json" in text for text in said)


def test_a_run_fills_an_empty_folder_and_makes_missing_ones(here: Path, run: Run) -> None:
    (here / "empty").mkdir()
    run(f"fit ppca {QUICK} --run-dir empty")
    run(f"fit ppca {QUICK} --run-dir deep/er/still")
    assert weights("empty").keys() == weights("deep/er/still").keys()
    assert {path.name for path in (here / "empty").iterdir()} == KEPT


def test_a_run_fills_the_empty_folder_one_stands_in(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "empty").mkdir()
    monkeypatch.chdir(here / "empty")
    run(f"fit ppca {QUICK} --run-dir .")
    assert {path.name for path in (here / "empty").iterdir()} == KEPT


# compare


def test_compare_prints_a_table_and_writes_its_files(here: Path, run: Run) -> None:
    out = run(
        "compare --models '[vae, my.py:Mine]' --inference amortized --data iris --seeds '[0, 1]' --run-dir mine "
        "--fit.epochs 2 --num_test 20 --num_samples 30"
    )
    assert "iris (real), 20 test data, 30 samples; nats/datum" in out
    assert "my.py:Mine" in out
    assert " ± " in out
    assert "nan" not in out.lower()
    rows = read_results("mine/results.json")
    assert [(row.model, row.seed) for row in rows] == [("vae", 0), ("vae", 1), ("my.py:Mine", 0), ("my.py:Mine", 1)]
    assert {path.name for path in (here / "mine").iterdir()} == COMPARED
    assert (here / "mine" / "figures" / "bounds.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (here / "mine" / "fits").iterdir()} == {
        *(f"vae-amortized-{seed}" for seed in (0, 1)),
        *(f"my-Mine-amortized-{seed}" for seed in (0, 1)),
    }
    assert "<html" in (here / "mine" / "report.html").read_text()
    assert "mine/report.html" in out


def test_compare_takes_one_name_or_several(run: Run) -> None:
    quick = "--data iris --fit.epochs 1 --num_samples 30"
    run(f"compare --models ppca --inference exact --seeds 3 --run-dir one {quick}")
    run(f"compare --models '[ppca]' --inference '[exact]' --seeds '[3]' --run-dir several {quick}")
    one, several = (read_results(f"{place}/results.json") for place in ("one", "several"))
    assert [timeless(row) for row in one] == [timeless(row) for row in several]
    assert [row.seed for row in one] == [3]


def test_compare_hands_options_on(run: Run) -> None:
    run(
        "compare --models vae --data digits --treatment threshold --num_train 200 --num_test 20 --num_samples 30 "
        "--inference '[amortized, per-datapoint]' "
        "--seeds 0 --model.latent_dim 3 --model.hidden '[8]' --fit.epochs 2 --fit.lr_phi 0.1 --run-dir mine "
        "--inference_options '{per-datapoint: {inner_steps: 2, max_steps: 5}}'"
    )
    amortized, rows = read_results("mine/results.json")
    assert (amortized.inference, rows.inference) == ("amortized", "per-datapoint")
    assert amortized.treatment == rows.treatment == "threshold"
    assert amortized.num_data == 20
    decoder = 3 * 8 + 8 + 8 * 64 + 64
    assert rows.num_parameters == decoder + 200 * 6


# A user's own file


@pytest.mark.parametrize("name", ["Mine", "Story"])
def test_a_users_file_goes_wherever_a_name_goes(name: str, run: Run) -> None:
    run(f"fit my.py:{name} {QUICK} --model.latent_dim 3 --run-dir mine")
    assert run("evaluate mine --num_samples 30").startswith("iris (real), 22 test data, amortized")
    run(
        f"compare --models my.py:{name} --inference '[amortized, per-datapoint]' --data iris --seeds 0 "
        "--fit.epochs 1 --num_samples 30 --inference_options '{per-datapoint: {max_steps: 5}}' --run-dir both"
    )
    assert [row.model for row in read_results("both/results.json")] == [f"my.py:{name}"] * 2


def test_a_saved_fit_finds_its_file_from_elsewhere(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run(f"fit my.py:Mine {QUICK} --run-dir mine")
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert run("evaluate ../mine --num_samples 30").startswith("iris (real), 22 test data")


# The same command, the same numbers


def test_the_same_fit_twice(run: Run) -> None:
    said = [run(f"fit ppca {QUICK} --inference amortized --run-dir {place}") for place in ("one", "two")]
    bounds = [re.findall(r"bound (-?[\d.]+)", text) for text in said]
    assert bounds[0] == bounds[1] != []
    one, two = weights("one"), weights("two")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert Path("one/weights.safetensors").read_bytes() == Path("two/weights.safetensors").read_bytes()
    run(f"fit ppca {QUICK} --run-dir three --seed 1")
    assert not torch.equal(one["weight"], weights("three")["weight"])


def test_the_same_evaluation_twice(run: Run) -> None:
    run(f"fit ppca {QUICK} --run-dir mine")
    said = [run(f"evaluate mine --num_samples 30 --seed {seed} --overwrite") for seed in (0, 0, 1)]
    one, two, other = (text.partition("mine/results.json")[0] for text in said)
    assert one == two != other


def test_evaluate_keeps_its_results_in_the_run(here: Path, run: Run) -> None:
    """Once; then they are left alone unless --overwrite says otherwise, and --out writes elsewhere."""
    run(f"fit ppca {QUICK} --run-dir mine")
    assert "mine/results.json  mine/evidence.nc" in run("evaluate mine --num_samples 30")
    assert {path.name for path in (here / "mine").iterdir()} == {*KEPT, "results.json", "evidence.nc"}
    names = ("results.json", "evidence.nc")
    first = [(here / "mine" / name).read_bytes() for name in names]
    assert "was not replaced" in run("evaluate mine --num_samples 40")
    run("evaluate mine --num_samples 40 --out each.nc")
    assert [(here / "mine" / name).read_bytes() for name in names] == first
    run("evaluate mine --num_samples 40 --overwrite")
    (row,) = read_results("mine/results.json")
    assert row.num_samples == 40
    with xr.open_dataset("mine/evidence.nc", engine="h5netcdf") as found:
        assert found.attrs["num_samples"] == 40


def test_the_same_comparison_twice(run: Run) -> None:
    quick = "compare --models '[ppca, gmm]' --data iris --seeds 0 --fit.epochs 2 --num_samples 30"
    options = "--inference '[amortized, exact, per-datapoint]' --inference_options '{per-datapoint: {max_steps: 5}}'"
    for place in ("one", "two"):
        run(f"{quick} {options} --run-dir {place}")
    one, two = (read_results(f"{place}/results.json") for place in ("one", "two"))
    assert len(one) == 6
    assert [timeless(row) for row in one] == [timeless(row) for row in two]


def test_a_command_leaves_the_process_as_it_was(run: Run, untouched: Untouched) -> None:
    with untouched():
        run(f"fit ppca {QUICK} --run-dir mine")
        run("evaluate mine --num_samples 30")


# When something goes wrong


@pytest.mark.parametrize("command", ["--debug fit vea", "fit vea --debug", "fit --debug vea"])
def test_debug_shows_the_traceback(command: str) -> None:
    with pytest.raises(ppvae.PpvaeError, match="vea"):
        cli.main(shlex.split(command))


def test_debug_changes_nothing_else(run: Run) -> None:
    run(f"--debug fit ppca {QUICK} --run-dir mine")
    assert run("evaluate mine --num_samples 30 --debug").startswith("iris (real)")


def test_a_fault_of_ours_is_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(self: Command) -> None:
        raise ZeroDivisionError("one\ntwo")

    monkeypatch.setattr(COMMANDS["list"], "run", broken)
    assert cli.main(["list"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "ppvae: error: ZeroDivisionError: one two (--debug shows where)\n")
    with pytest.raises(ZeroDivisionError):
        cli.main(["list", "--debug"])


def test_an_interrupt_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(self: Command) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(COMMANDS["list"], "run", interrupted)
    assert cli.main(["list"]) == 130
    assert capsys.readouterr().err == "ppvae: interrupted\n"


# As a process


def test_the_installed_command_is_main() -> None:
    (script,) = entry_points(group="console_scripts", name="ppvae")
    assert script.load() is cli.main


def test_as_a_process_from_end_to_end(here: Path) -> None:
    def process(*words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([sys.executable, "-m", "ppvae.cli", *words], capture_output=True, check=False)

    done = process(
        *shlex.split(
            "compare --models ppca --inference exact --data iris --seeds 0 --fit.epochs 1 --num_samples 30 "
            "--run-dir mine"
        )
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert "k̂ bad" in done.stdout.decode("utf-8")
    assert json.loads((here / "mine" / "results.json").read_text())["schema"] == 1
