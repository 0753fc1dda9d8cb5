"""A folder of bad input, which the tests of bad input work in: spoilt files, models, fits and comparisons."""

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stops import Killed, stopped_before

import ppvae
from ppvae.cli.main import main
from ppvae.data.dataset import Data

USER_FILE = '''
import pyro
import pyro.distributions as dist
import torch
from torch import nn

import ppvae


class Linear(ppvae.Model):
    def __init__(self, x_dim, latent_dim=2):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(latent_dim, x_dim))
        self.latent_dim = latent_dim

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.latent_dim), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight, 1.0).to_event(1), obs=x)


class Needy(Linear):
    """Wants what nobody gives."""

    def __init__(self, x_dim, taste):
        super().__init__(x_dim)


class NoEvent(Linear):
    """Lacks a to_event."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.latent_dim), 1.0))
            pyro.sample("x", dist.Normal(z @ self.weight, 1.0).to_event(1), obs=x)


class WrongSize(Linear):
    """Multiplies matrices that do not fit."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(7), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight, 1.0).to_event(1), obs=x)


class Blind(Linear):
    """Observes nothing."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(self.latent_dim), 1.0).to_event(1))


class Guided(Linear):
    """The guide reads a φ that nobody declared."""

    def __init__(self, x_dim):
        super().__init__(x_dim)
        self.phi = {"loc": ppvae.Local(torch.zeros(2))}

    def guide(self, x, phi):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(phi["loc"], phi["scale"]).to_event(1))


class Hidden(Linear):
    """A submodule takes the name of a method."""

    def __init__(self, x_dim):
        super().__init__(x_dim)
        self.encoder = nn.Linear(x_dim, 3)


class Failing(Linear):
    """Cannot be made."""

    def __init__(self, x_dim):
        super().__init__(x_dim)
        raise RuntimeError("no luck\\ntoday")


class FailingStart(Linear):
    """Cannot be started."""

    def start(self, x):
        raise RuntimeError("no start\\ntoday")


class FailingLater(Linear):
    """Passes every check, and breaks in training."""

    def encoder(self):
        return Breaking()


class Breaking(nn.Module):
    def forward(self, x):
        if self.training:
            raise RuntimeError("broke\\nin training")
        return x


class NoModel:
    pass
'''

#: files of options, by name
YAML = {
    "broken.yaml": "data: [iris",
    "list.yaml": "- data",
    "empty.yaml": "",
    "word.yaml": "iris",
    "unknown.yaml": "dta: iris",
    "wrong.yaml": "seed: soon",
    "tag.yaml": 'data: !!python/object/apply:os.system ["touch owned"]',
    "infinite.yaml": "lr: .inf",
    "nan.yaml": "lr: .nan",
    "beyond.yaml": "epochs: 1e999",
    "infinite-epochs.yaml": "epochs: .inf",
    "infinite-seconds.yaml": "seconds: -.inf",
    "nested.yaml": "fit: {data: iris}",
    "deep.yaml": "data: {name: iris}",
    "flat-model.yaml": "data: iris\nlatent_dim: 3",
    "word-model.yaml": "data: iris\nmodel: latent_dim",
    "list-model.yaml": "data: iris\nmodel: [latent_dim, 3]",
    "bad-model.yaml": "name: ppca\ndata: iris\nmodel: {latnet_dim: 3}",
    "bad-value.yaml": "name: ppca\ndata: iris\nmodel: {latent_dim: .inf}",
    "bad-inference.yaml": "name: ppca\ndata: iris\ninference_options: {encoder: mlp}",
    "date.yaml": "name: 2026-01-01",
    "number-name.yaml": "name: 3",
    "list-name.yaml": "name: [ppca]",
    "number-data.yaml": "name: ppca\ndata: 3",
    "null-data.yaml": "name: ppca\ndata: null",
    "zero.yaml": 'name: ppca\nrun_dir: "a\\0b"',
    "twice.yaml": "name: ppca\ndata: iris\nlr: 0.1\nlr: fast",
    "own-config.yaml": "config: own-config.yaml",
    "resume.yaml": "resume: stopped-fit\nlr: 0.5",
    "versions.yaml": "name: ppca\ndata: iris\nversions: 3",
    "alias.yaml": "model: &a {b: *a}",
    "tab.yaml": "data:\tiris\n\tlr: 1",
    "binary.yaml": "data: !!binary aaaa",
    "models-list.yaml": "models: [{ppca: {latent_dim: 2}}]\ndata: iris",
    "models-number.yaml": "models: 3\ndata: iris",
    "models-empty.yaml": "models: {}\ndata: iris",
    "models-word.yaml": "models: {ppca: latent_dim}\ndata: iris",
    "models-loose.yaml": "models: {ppca: {latnet_dim: 3}}\ndata: iris",
    "models-value.yaml": "models: {ppca: {latent_dim: two}}\ndata: iris",
    "models-infinite.yaml": "models: {ppca: {latent_dim: .inf}}\ndata: iris",
    "models-unknown.yaml": "models: {large: {latent_dim: 3}}\ndata: iris",
    "models-kind.yaml": "models: {large: {model: pca}}\ndata: iris",
    "models-kind-number.yaml": "models: {large: {model: 3}}\ndata: iris",
    "models-kind-list.yaml": "models: {large: {model: [ppca]}}\ndata: iris",
    "models-kind-null.yaml": "models: {large: {model: null}}\ndata: iris",
    "models-nested.yaml": "models: {ppca: {model: {latent_dim: 3}}}\ndata: iris",
    "models-null.yaml": "models: [null]\ndata: iris",
    "fit-word.yaml": "models: ppca\ndata: iris\nfit: fast",
    "fit-list.yaml": "models: ppca\ndata: iris\nfit: [lr, 0.1]",
    "fit-unknown.yaml": "models: ppca\ndata: iris\nfit: {epoch: 3}",
    "fit-nan.yaml": "models: ppca\ndata: iris\nfit: {lr: .nan}",
    "fit-infinite.yaml": "models: ppca\ndata: iris\nfit: {epochs: .inf}",
    "fit-nested.yaml": "models: ppca\ndata: iris\nfit: {fit: {lr: 0.1}}",
    "seeds-infinite.yaml": "models: ppca\ndata: iris\nseeds: [.inf]",
    "seeds-null.yaml": "models: ppca\ndata: iris\nseeds: [null]",
    "seeds-map.yaml": "models: ppca\ndata: iris\nseeds: {0: 1}",
    "inference-map.yaml": "models: ppca\ndata: iris\ninference: {exact: {}}",
    "inference-options.yaml": "models: ppca\ndata: iris\ninference_options: {per-datapoint: {inner_stepz: 3}}",
    "inference-flat.yaml": "models: ppca\ndata: iris\ninference_options: {inner_steps: 3}",
}


def furnish(place: Path) -> None:
    """A user's files, good and bad, and saved fits and runs, whole and damaged."""
    files = {
        "my.py": USER_FILE,
        "raises.py": 'raise OSError("the disk\\nis gone")',
        "exits.py": "import sys\nsys.exit(3)",
        "syntax.py": "def model(",
        "imports.py": "import no_such_module",
        "my.txt": "a text",
        "letters.csv": "a,b\n1,two\n",
        "ragged.csv": "1,2\n3\n",
        "full/something": "mine",
        **YAML,
    }
    for name, text in files.items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(text)
    (place / "empty").mkdir()
    for name in ("empty.npy", "empty.npz", "empty.csv"):
        (place / name).touch()
    holes = np.ones((20, 3))
    holes[4, 1] = np.nan
    np.save(place / "holes.npy", holes)
    np.save(place / "counts.npy", np.arange(60.0).reshape(20, 3))
    np.save(place / "objects.npy", np.array([{}, {}]), allow_pickle=True)
    iris, digits = ppvae.load_data("iris"), ppvae.load_data("digits", num_train=100)
    short: dict[str, Any] = {"epochs": 1, "progress": False}
    ppvae.fit(ppvae.create("gmm", x_dim=4), iris, **short).save(str(place / "gmm"))
    vae = ppvae.create("vae", x_dim=64, latent_dim=3, hidden=[8])
    ppvae.fit(vae, digits, **short).save(str(place / "vae"))
    ppvae.fit(vae, ppvae.load_data("digits", treatment="dynamic"), **short).save(str(place / "dynamic"))
    by_hand = Data("mine", iris.train, iris.valid, iris.test, "gaussian", "real")
    ppvae.fit(ppvae.create("ppca", x_dim=4), by_hand, **short).save(str(place / "by_hand"))
    for name, damage in {
        "no-weights": lambda folder: (folder / "weights.safetensors").unlink(),
        "no-config": lambda folder: (folder / "config.yaml").unlink(),
        "cut-weights": lambda folder: (folder / "weights.safetensors").write_bytes(b"\x08"),
        "cut-config": lambda folder: (folder / "config.yaml").write_text("schema: ["),
        "list-config": lambda folder: (folder / "config.yaml").write_text("[]"),
        "empty-config": lambda folder: (folder / "config.yaml").write_text(""),
        "short-config": lambda folder: _replace(folder / "config.yaml", "kl:", "lk:"),
        "bad-option": lambda folder: _replace(folder / "config.yaml", "x_dim:", "x_dmi:"),
        "no-outcome": lambda folder: (folder / "fit.yaml").unlink(),
        "cut-outcome": lambda folder: (folder / "fit.yaml").write_text("schema: 2\ndata: [iris"),
        "list-outcome": lambda folder: (folder / "fit.yaml").write_text("[]"),
        "empty-outcome": lambda folder: (folder / "fit.yaml").write_text(""),
        "short-outcome": lambda folder: _replace(folder / "fit.yaml", "seconds:", "minutes:"),
        "no-metrics": lambda folder: (folder / "metrics.csv").unlink(),
        "cut-metrics": lambda folder: (folder / "metrics.csv").write_text("step,epoch\n1"),
        "empty-metrics": lambda folder: (folder / "metrics.csv").write_text(""),
        "other-model": lambda folder: _replace(folder / "config.yaml", "name: gmm", "name: ppca"),
        "unknown-model": lambda folder: _replace(folder / "config.yaml", "name: gmm", "name: gmn"),
        "schema": lambda folder: _replace(folder / "fit.yaml", "schema: 2", "schema: 99"),
    }.items():
        shutil.copytree(place / "gmm", place / name)
        damage(place / name)
    _stopped(place)


def _stopped(place: Path) -> None:
    """A fit and a comparison that were killed in the middle, a finished comparison, and damaged ones."""

    iris = ppvae.load_data("iris")
    short: dict[str, Any] = {"progress": False, "batch_size": 50, "checkpoint_seconds": 0.0}
    ppca = ppvae.create("ppca", x_dim=4, latent_dim=2)
    compared: dict[str, Any] = {"num_samples": 30, "seeds": [0], **short}
    ppvae.compare("ppca", "exact", "iris", epochs=1, run_dir=place / "compared", **compared)
    by_hand = Data("mine", iris.train, iris.valid, iris.test, "gaussian", "real")
    for name, data in (("stopped-fit", iris), ("stopped-by-hand", by_hand)):
        with stopped_before(3, Killed):
            ppvae.fit(ppca, data, epochs=5, run_dir=place / name, **short)
    with stopped_before(3, Killed):
        ppvae.compare("ppca", "exact", "iris", epochs=5, run_dir=place / "stopped-compare", **compared)
    for source, name, damage in (
        ("stopped-fit", "resume-no-checkpoint", lambda folder: (folder / "checkpoint.pt").unlink()),
        ("stopped-fit", "resume-cut", lambda folder: (folder / "checkpoint.pt").write_bytes(b"PK")),
        ("stopped-fit", "resume-infinite", lambda folder: _replace(folder / "config.yaml", "lr: 0.001", "lr: .inf")),
        ("stopped-fit", "resume-unknown", lambda folder: _replace(folder / "config.yaml", "kl:", "lk:")),
        ("stopped-fit", "resume-other", lambda folder: _replace(folder / "config.yaml", "seed: 0", "seed: 1")),
        (
            "stopped-fit",
            "resume-model",
            lambda folder: _replace(folder / "config.yaml", "latent_dim: 2", "latent_dim: 3"),
        ),
        (
            "stopped-fit",
            "resume-word",
            lambda folder: _replace(folder / "config.yaml", "epochs: 5", "epochs: x"),
        ),
        ("stopped-fit", "resume-no-name", lambda folder: _replace(folder / "config.yaml", "name: ppca", "nme: ppca")),
        ("stopped-fit", "resume-no-versions", lambda folder: _replace(folder / "config.yaml", "versions:", "vrsions:")),
        (
            "stopped-fit",
            "resume-options",
            lambda folder: _replace(folder / "config.yaml", "inference_options: {}", "inference_options: 3"),
        ),
        ("stopped-compare", "go-on-unknown", lambda folder: _replace(folder / "config.yaml", "seeds:", "sedes:")),
        (
            "stopped-compare",
            "go-on-fit",
            lambda folder: _replace(folder / "config.yaml", "epochs: 5", "epoch: 5"),
        ),
        (
            "stopped-compare",
            "go-on-infinite",
            lambda folder: _replace(folder / "config.yaml", "epochs: 5", "epochs: .inf"),
        ),
        (
            "stopped-compare",
            "go-on-word",
            lambda folder: _replace(folder / "config.yaml", "num_samples: 30", "num_samples: many"),
        ),
        ("stopped-compare", "go-on-fits", lambda folder: _replace(folder / "config.yaml", "fit:\n", "fit: 3\nmore:\n")),
        ("stopped-compare", "go-on-list", lambda folder: (folder / "config.yaml").write_text("[1]")),
        ("compared", "results-cut", lambda folder: (folder / "results.json").write_text("{")),
        (
            "compared",
            "results-schema",
            lambda folder: (folder / "results.json").write_text('{"schema": 7, "rows": []}'),
        ),
        ("compared", "results-rows", lambda folder: (folder / "results.json").write_text('{"schema": 1, "rows": [3]}')),
        ("compared", "results-fit", lambda folder: (folder / "fits" / "ppca-exact-0" / "results.json").write_text("{")),
        (
            "compared",
            "evidence-cut",
            lambda folder: (folder / "fits" / "ppca-exact-0" / "evidence.nc").write_bytes(b"nc"),
        ),
        (
            "compared",
            "metrics-cut",
            lambda folder: (folder / "fits" / "ppca-exact-0" / "metrics.csv").write_text("step"),
        ),
        ("compared", "config-cut", lambda folder: (folder / "fits" / "ppca-exact-0" / "config.yaml").write_text("[")),
    ):
        shutil.copytree(place / source, place / name)
        damage(place / name)


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{old!r} is not in {path}: {text}"
    path.write_text(text.replace(old, new))


def enter(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in that folder; downloaded data would lie where no folder can be made."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PPVAE_DATA", str(place / "my.txt" / "root"))


def tree() -> dict[str, tuple[int, int]]:
    """Every file and folder below the current one, with its size and the time when it was last changed."""
    return {str(path): ((stat := path.stat()).st_size, stat.st_mtime_ns) for path in Path().rglob("*")}


def must_refuse(command: str, thing: str, way_out: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The line that refuses the command names the thing and the way out."""
    err = refused(command, capsys)
    assert thing in err
    assert way_out.lower() in err.lower()


def refused(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that is all a refused command gives."""
    before = tree()
    status = main(shlex.split(command))
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith("ppvae: error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert len(err) < 600
    assert tree() == before
    return err
