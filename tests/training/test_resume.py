"""A fit that is killed at any step and resumed ends, to the last bit, as one left alone."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from checks import refusal
from stops import stopped_before

import ppvae
from ppvae.cli.main import main
from ppvae.runs.folder import CHECKPOINT, CONFIG, METRICS, OUTCOME, WEIGHTS

STEPS_AN_EPOCH, EPOCHS = 5, 4
STEPS = STEPS_AN_EPOCH * EPOCHS
#: name → model, its options, treatment, inference, its options
CASES: dict[str, tuple[str, dict[str, Any], str, str, dict[str, Any]]] = {
    "amortized": ("vae", {"latent_dim": 3, "hidden": [8]}, "static", "amortized", {}),
    "dynamic": ("vae", {"latent_dim": 3, "hidden": [8]}, "dynamic", "amortized", {}),
    "chain": ("dlgm", {"latent_dims": [3, 2], "hidden": 8}, "static", "amortized", {}),
    "rows": ("vae", {"latent_dim": 3, "hidden": [8]}, "static", "per-datapoint", {"max_steps": 50}),
    "inner": ("vae", {"latent_dim": 3, "hidden": [8]}, "static", "per-datapoint", {"inner_steps": 2, "max_steps": 50}),
    "converge": (
        "dlgm", {"latent_dims": [2, 2], "hidden": 8}, "static", "per-datapoint",
        {"inner_steps": "converge", "max_steps": 50},
    ),
    "refined": ("vae", {"latent_dim": 3, "hidden": [8]}, "dynamic", "semi-amortized", {"refine_steps": 2}),
    "exact": ("gmm", {"num_components": 3}, "real", "exact", {}),
}  # fmt: skip

#: one process that imports once, and forks a child for every run to be killed
HARNESS = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {tests!r}
import torch
torch.set_num_threads({threads})
from ppvae.training.loop import Training
import test_resume
for case, step, how, place in {runs!r}:
    child = os.fork()
    if child == 0:
        die = lambda: os.kill(os.getpid(), signal.SIGKILL)
        if how == "writing":  # the new checkpoint is written, and not yet in place
            replace = Path.replace
            def replacing(self, target):
                if self.name == ".checkpoint.pt.partial" and test_resume.COUNT[0] == step:
                    die()
                return replace(self, target)
            Path.replace = replacing
        take = Training.take_step
        def counted(self, index):
            test_resume.COUNT[0] = self.steps + 1
            if how == "step" and self.steps == step:
                die()
            return take(self, index)
        Training.take_step = counted
        test_resume.run(case, place)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (case, step, how, status)
"""
COUNT = [0]


def run(case: str, place: str | Path | None, resume: bool = False) -> ppvae.Fit:
    """A fit of a few steps that writes a checkpoint at each, in a directory."""
    name, options, treatment, inference, more = CASES[case]
    data = ppvae.load_data("digits", treatment=treatment, num_train=100)
    torch.manual_seed(7)
    model = ppvae.create(name, x_dim=64, **options)
    return ppvae.fit(
        model, data, inference, inference_options=more, lr=0.01, batch_size=20, epochs=EPOCHS, eval_every=1,
        patience=3, seed=3, progress=False, run_dir=place, resume=resume, checkpoint_seconds=0.0,
    )  # fmt: skip


def outcome(fit: ppvae.Fit) -> tuple[dict[str, torch.Tensor], list[dict[str, float]], str]:
    """What must be the same: weights, history but for the clock, and why it stopped."""
    state = {f"model.{k}": v for k, v in fit.model.state_dict().items()}
    state |= {f"strategy.{k}": v for k, v in fit.strategy.state_dict().items()}
    return state, [{k: v for k, v in entry.items() if k != "seconds"} for entry in fit.history], fit.stopped


def assert_same(one: ppvae.Fit, other: ppvae.Fit) -> None:
    (weights, history, why), (others, other_history, other_why) = outcome(one), outcome(other)
    assert weights.keys() == others.keys()
    assert [name for name in weights if not torch.equal(weights[name], others[name])] == []
    assert (history, why) == (other_history, other_why)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int, str], Path]:
    """Runs of every case that were killed at steps of chance: in the middle of an epoch, at its end, while writing."""
    place, chance = tmp_path_factory.mktemp("killed"), random.Random(20)
    wanted = []
    for case in CASES:
        steps = {*chance.sample(range(1, STEPS), 2), STEPS_AN_EPOCH * chance.randrange(1, EPOCHS)}
        wanted += [(case, step, "step") for step in sorted(steps)]
        wanted.append((case, chance.randrange(2, STEPS), "writing"))
    wanted.append(("amortized", 0, "step"))
    runs = [(case, step, how, str(place / f"{case}-{step}-{how}")) for case, step, how in wanted]
    text = HARNESS.format(
        tests=[str(Path(__file__).parents[at]) for at in (0, 1)], threads=torch.get_num_threads(), runs=runs
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return {(case, step, how): Path(where) for case, step, how, where in runs}


@pytest.mark.parametrize("case", CASES)
def test_killed_and_resumed_ends_as_one_left_alone(case: str, killed: dict[tuple[str, int, str], Path]) -> None:
    alone = run(case, None)
    places = [(step, how, where) for (name, step, how), where in killed.items() if name == case]
    assert len(places) >= 3
    for step, how, where in places:
        assert not (where / OUTCOME).exists()
        state = torch.load(where / CHECKPOINT, weights_only=True)
        assert state["steps"] == (step if how == "step" else step - 1)  # the one being written was not taken for whole
        assert_same(run(case, where, resume=True), alone)
        assert {path.name for path in where.iterdir()} == {CONFIG, METRICS, WEIGHTS, OUTCOME}
        assert_same(ppvae.load(where), alone)
        assert_same(run(case, where, resume=True), alone)  # finished: read, not trained again


def test_a_run_kept_is_the_run_not_kept(tmp_path: Path) -> None:
    assert_same(run("dynamic", tmp_path / "run"), run("dynamic", None))


def interrupted(place: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """A run of the command line that gets Ctrl-C once it has evaluated twice."""
    command = [sys.executable, "-m", "ppvae.cli", "fit", "vae", "--epochs", "5000", "--eval-every", "1",
               "--patience", "null", "--model.hidden", "[8]", "--num-train", "200", "--run-dir", str(place),
               *options]  # fmt: skip
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **threads}
    )
    deadline = time.monotonic() + 60
    while not (place / METRICS).exists() or len((place / METRICS).read_text().splitlines()) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def test_ctrl_c_keeps_the_run_and_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "run"
    done = interrupted(place)
    assert done.returncode == 130
    assert f"the run is kept: ppvae fit --resume {place}" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    steps = torch.load(place / CHECKPOINT, weights_only=True)["steps"]
    assert f"interrupted at step {steps}" in done.stderr
    # shortened, so that the test need not wait for 5,000 epochs; everything else is as it was
    config = yaml.safe_load((place / CONFIG).read_text())
    config["epochs"] = epochs = steps // 2 + 3
    (place / CONFIG).write_text(yaml.safe_dump(config))
    assert main(["fit", "--resume", str(place)]) == 0
    config.pop("versions")
    whole = {**config, "run_dir": str(tmp_path / "whole")}
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(whole))
    assert main(["fit", "--config", str(tmp_path / "whole.yaml")]) == 0
    capsys.readouterr()
    one, other = ppvae.load(place), ppvae.load(tmp_path / "whole")
    assert one.history[-1]["epoch"] == epochs
    assert_same(one, other)
    assert main(["fit", "--resume", str(place)]) == 2
    assert "is finished" in capsys.readouterr().err


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run with a checkpoint and no outcome, as a kill leaves it."""
    with stopped_before(7):
        run("amortized", tmp_path / "stopped")
    return tmp_path / "stopped"


def test_an_unfinished_run_is_no_saved_fit(stopped: Path) -> None:
    assert f"not finished: ppvae fit --resume {stopped}" in refusal(lambda: ppvae.load(stopped))


def test_another_run_is_not_gone_on_with(stopped: Path) -> None:
    data = ppvae.load_data("digits", num_train=100)
    model = ppvae.create("vae", x_dim=64, latent_dim=3, hidden=[8])
    before = (stopped / CHECKPOINT).read_bytes()
    text = refusal(lambda: ppvae.fit(model, data, batch_size=30, run_dir=stopped, resume=True))
    assert "holds a run with batch_size 20, not 30" in text
    larger = ppvae.create("vae", x_dim=64, latent_dim=4, hidden=[8])
    text = refusal(lambda: ppvae.fit(larger, data, batch_size=20, run_dir=stopped, resume=True))
    assert "holds a run with model" in text
    assert "exists and is not an empty folder" in refusal(lambda: ppvae.fit(model, data, run_dir=stopped))
    assert "resume needs run_dir" in refusal(lambda: ppvae.fit(model, data, resume=True))
    assert (stopped / CHECKPOINT).read_bytes() == before


class Payload:
    """Would make a file if it were unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("how", ["payload", "pickle", "cut", "empty", "another", "gone", "list"])
def test_a_bad_checkpoint_is_refused(how: str, stopped: Path, tmp_path: Path) -> None:
    """Nothing in it runs, the directory is left as it was, and the line names the file."""
    path, bait = stopped / CHECKPOINT, tmp_path / "bait"
    whole = path.read_bytes()
    if how == "payload":
        torch.save({"weights": Payload(bait)}, path)
    elif how == "pickle":
        path.write_bytes(pickle.dumps(Payload(bait), protocol=2))
    elif how == "another":
        torch.save({**torch.load(path, weights_only=True), "weights": {}}, path)
    elif how == "gone":
        path.unlink()
    elif how == "list":
        torch.save([1, 2], path)
    else:
        path.write_bytes(whole[: len(whole) // 2] if how == "cut" else b"")
    text = refusal(lambda: run("amortized", stopped, resume=True))
    assert str(path) in text
    assert "start again" in text
    assert not bait.exists()


def test_other_threads_are_said(stopped: Path) -> None:
    state = torch.load(stopped / CHECKPOINT, weights_only=True)
    torch.save({**state, "threads": 77}, stopped / CHECKPOINT)
    with pytest.warns(UserWarning, match="started with 77 threads"):
        run("amortized", stopped, resume=True)


def test_what_cannot_be_saved_is_refused_before_training(tmp_path: Path) -> None:
    class Odd(ppvae.Model):
        def __init__(self, x_dim: int, net: torch.nn.Module) -> None:
            super().__init__()
            self.net = net

        def model(self, x: torch.Tensor) -> None:
            import pyro
            from pyro.distributions import Normal

            with pyro.plate("data", len(x)):
                pyro.sample("x", Normal(self.net(x.new_zeros(1)).expand(x.shape[1]), 1.0).to_event(1), obs=x)

    x = torch.randn(30, 2)
    data = ppvae.Data("noise", x[:20], x[20:25], x[25:], "gaussian", "real")
    text = refusal(lambda: ppvae.fit(Odd(2, torch.nn.Linear(1, 1)), data, "exact", run_dir=tmp_path / "run"))
    assert "cannot be saved as plain YAML" in text
    assert not (tmp_path / "run").exists()
