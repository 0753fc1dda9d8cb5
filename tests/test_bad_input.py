"""Bad input, from Python and from the command line: one clear line that names the thing and the way out.

On the command line that line is all there is: exit status 2, nothing on stdout, no traceback, and the disk as it was.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import constraints

import ppvae
from ppvae.cli import main
from ppvae.compare import read_results
from ppvae.data import Data

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


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a user's files, good and bad, and saved fits, whole and damaged."""
    place = tmp_path_factory.mktemp("place")
    files = {
        "my.py": USER_FILE,
        "raises.py": 'raise OSError("the disk\\nis gone")',
        "exits.py": "import sys\nsys.exit(3)",
        "syntax.py": "def model(",
        "imports.py": "import no_such_module",
        "my.txt": "a text",
        "broken.yaml": "data: [iris",
        "list.yaml": "- data",
        "empty.yaml": "",
        "unknown.yaml": "dta: iris",
        "wrong.yaml": "seed: soon",
        "tag.yaml": 'data: !!python/object/apply:os.system ["touch owned"]',
        "letters.csv": "a,b\n1,two\n",
        "ragged.csv": "1,2\n3\n",
        "full/something": "mine",
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
    short: dict[str, Any] = {"max_epochs": 1, "progress": False}
    ppvae.fit(ppvae.create("gmm", x_dim=4), iris, **short).save(str(place / "gmm"))
    vae = ppvae.create("vae", x_dim=64, latent_dim=2, hidden=[8])
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
        "short-config": lambda folder: _replace(folder / "config.yaml", "history:", "story:"),
        "other-model": lambda folder: _replace(folder / "config.yaml", "name: gmm", "name: ppca"),
        "unknown-model": lambda folder: _replace(folder / "config.yaml", "name: gmm", "name: gmn"),
        "schema": lambda folder: _replace(folder / "config.yaml", "schema: 1", "schema: 99"),
    }.items():
        shutil.copytree(place / "gmm", place / name)
        damage(place / name)
    return place


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is done in that folder; downloaded data would lie where no folder can be made."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PPVAE_DATA", str(place / "my.txt" / "root"))


def tree() -> dict[str, tuple[int, int]]:
    """Every file and folder below the current one, with its size and the time when it was last changed."""
    return {str(path): ((stat := path.stat()).st_size, stat.st_mtime_ns) for path in Path().rglob("*")}


@cache
def iris() -> Data:
    return ppvae.load_data("iris")


@cache
def ppca(inference: str = "amortized") -> ppvae.Fit:
    return ppvae.fit(ppvae.create("ppca", x_dim=4), iris(), inference, max_epochs=1, progress=False)


# The command line: a command, what the line must name, and the way out that it must offer

COMMANDS: list[tuple[str, str, str]] = [
    # commands and names
    ("", "command", "fit"),
    ("frobnicate", "'frobnicate'", "'fit'"),
    ("Fit ppca", "'Fit'", "'fit'"),
    ("fit", "needs a name", "ppvae fit --help"),
    ("show", "needs a name", "ppvae show --help"),
    ("evaluate", "needs a run", "ppvae evaluate --help"),
    ("evaluate --num_samples 30", "needs a run", "ppvae evaluate --help"),
    ("list models", "models", "ppvae list --help"),
    ("show gmm vae", "vae", "ppvae show --help"),
    ("show vea", "'vea'", "'vae'"),
    ("show iris", "'iris'", "known: dlgm, gmm"),
    ("show Amortised", "'Amortised'", "'amortized'"),
    ("show missing.py:Mine", "missing.py", "no such file"),
    ("show my.py", "'my.py'", "path/to/file.py:ClassName"),
    ("fit vea", "unknown model 'vea'", "did you mean 'vae'"),
    ("fit VAE --data iris", "'VAE'", "'vae'"),
    ("fit ppca --data iri", "unknown data 'iri'", "did you mean 'iris'"),
    ("fit ppca --data iris --inference amortised", "'amortised'", "did you mean 'amortized'"),
    ("fit ppca --data iris --inference svi", "'svi'", "per-datapoint"),
    ("fit ppca --data iris --treatment sttic", "treatment 'sttic'", "did you mean 'static'"),
    ("fit ppca --data iris --kl exact", "kl 'exact'", "analytic, mc"),
    ("fit ppca --data iris --precision 16", "precision '16'", "32-true"),
    ("fit ppca --data iris --accelerator abacus", "'abacus'", "cpu"),
    ("fit ppca --data iris --accelerator tpu", "'tpu'", "accelerator"),
    # misspelt and misplaced options
    ("fit ppca --data iris --latnet_dim 3", "'latnet_dim'", "--model.NAME"),
    ("fit ppca --data iris --latent_dim 3", "'latent_dim'", "--model.NAME"),
    ("fit ppca --data iris --max_epoch 3", "'max_epoch'", "did you mean 'max_epochs'"),
    ("fit ppca --data iris --max-epoch 3", "'max_epoch'", "did you mean 'max_epochs'"),
    ("fit ppca --data iris --batchsize 3", "'batchsize'", "did you mean 'batch_size'"),
    ("fit ppca --Data iris", "'Data'", "did you mean 'data'"),
    ("fit ppca --data iris --model.latnet_dim 3", "ppca: unknown option 'latnet_dim'", "did you mean 'latent_dim'"),
    ("fit ppca --data iris --model.hidden 3", "ppca: unknown option 'hidden'", "latent_dim"),
    ("fit ppca --data iris --fit.max_epochs 3", "'fit'", "max_epochs"),
    ("fit ppca iris", "'iris'", "a value follows its option"),
    ("fit ppca -d iris", "'-d iris'", "a value follows its option"),
    ("fit ppca --data", "--data", "expected one argument"),
    ("fit ppca --model.latent_dim", "--model", "expected one argument"),
    ("compare ppca", "'ppca'", "--models"),
    ("compare --models vae gmm", "'gmm'", "--models"),
    ("compare --model vae --data iris", "--model ", "mapping"),
    ("compare --models vae --seed 3", "'seed'", "did you mean 'seeds'"),
    ("compare --models vae --max_epochs 3", "'max_epochs'", "known: models"),
    ("compare --models vae --fit.max_epoch 3", "'max_epoch'", "did you mean 'max_epochs'"),
    ("compare --models vae --fit.seed 3", "'seed'", "known: objective"),
    ("compare --models vae --fit.data iris", "'data'", "known: objective"),
    ("evaluate gmm --samples 3", "'samples'", "did you mean 'num_samples'"),
    ("evaluate gmm --num_sample 3", "'num_sample'", "did you mean 'num_samples'"),
    ("evaluate gmm iris", "'iris'", "--data"),
    (
        "fit ppca --data iris --inference per-datapoint --inference_options.inner_stepz 3",
        "per-datapoint: unknown option 'inner_stepz'",
        "did you mean 'inner_steps'",
    ),
    ("fit ppca --data iris --inference_options.inner_steps 3", "amortized: unknown option 'inner_steps'", "encoder"),
    ("fit ppca --data iris --inference exact --inference_options.lr 0.1", "exact: unknown option 'lr'", "known: none"),
    ("fit ppca --data iris --inference_options.encoder mlp", "encoder", "torch.nn.Module"),
    ("fit ppca --data iris --inference amortized --lr_phi 0.1", "lr_phi", "leave it out"),
    # values that are no such thing
    ("fit ppca --data iris --max_epochs two", "--max_epochs", "a whole number, got 'two'"),
    ("fit ppca --data iris --max_epochs 2.5", "--max_epochs", "a whole number, got '2.5'"),
    ("fit ppca --data iris --max_epochs true", "--max_epochs", "a whole number, got 'True'"),
    ("fit ppca --data iris --max_epochs null", "--max_epochs", "a whole number, got 'None'"),
    ("fit ppca --data iris --lr fast", "--lr", "a number, got 'fast'"),
    ("fit ppca --data iris --lr true", "--lr", "a number, got 'True'"),
    ("fit ppca --data iris --lr nan", "--lr", "a number, got 'nan'"),
    ("fit ppca --data iris --lr inf", "--lr", "a number, got 'inf'"),
    ("fit ppca --data iris --lr [1]", "--lr", "a number, got '[1]'"),
    ("fit ppca --data iris --lr_encoder nan", "--lr_encoder", "a number or null, got 'nan'"),
    ("fit ppca --data iris --max_seconds long", "--max_seconds", "a number or null, got 'long'"),
    ("fit ppca --data iris --patience never", "--patience", "a whole number or null, got 'never'"),
    ("fit ppca --data iris --seed 1.5", "--seed", "a whole number, got '1.5'"),
    ("fit ppca --data iris --seed abc", "--seed", "a whole number, got 'abc'"),
    ("fit ppca --data iris --num_train 1e2.5", "--num_train", "a whole number or null"),
    ("fit ppca --data iris --model 3", "--model", "a mapping like {a: 1}"),
    ("fit ppca --data iris --model '{'", "--model", "a mapping like {a: 1}"),
    ("fit ppca --data iris --model '[1]'", "--model", "a mapping like {a: 1}"),
    ("fit ppca --data iris --model '{latent_dim: }'", "latent_dim", "a whole number ≥ 1, got None"),
    ("fit ppca --data iris --inference_options 5", "--inference_options", "a mapping like {a: 1}"),
    ("compare --models vae --inference_options 7", "--inference_options", "a mapping like {a: {b: 1}}"),
    ("compare --models vae --inference_options '{exact: 5}'", "--inference_options", "a mapping like {a: {b: 1}}"),
    ("compare --models vae --inference_options.exact 5", "--inference_options", "a mapping like {a: {b: 1}}"),
    ("compare --models vae --fit 3", "--fit", "a mapping like {a: 1}"),
    ("compare --models vae --seeds x", "--seeds", "a list like [a, b]"),
    ("compare --models vae --seeds '[1,'", "--seeds", "a list like [a, b]"),
    ("compare --models vae --seeds 1,2", "--seeds", "a list like [a, b]"),
    ("compare --models vae --seeds '[0.5]'", "--seeds", "a whole number"),
    ("compare --models vae --seeds '[true]'", "--seeds", "a whole number"),
    ("compare --models vae --seeds 0 1 2", "'1 2'", "a value follows its option"),
    ("evaluate gmm --num_samples many", "--num_samples", "a whole number, got 'many'"),
    ("evaluate gmm --method exakt", "method 'exakt'", "did you mean 'exact'"),
    ("evaluate gmm --split all", "split 'all'", "train, valid, test"),
    # numbers out of range
    ("fit ppca --data iris --lr 0", "lr", "> 0, got 0"),
    ("fit ppca --data iris --lr -1", "lr", "> 0, got -1"),
    ("fit ppca --data iris --lr 1e999", "lr", "finite number > 0, got inf"),
    ("fit ppca --data iris --lr .nan", "lr", "finite number > 0, got nan"),
    ("fit ppca --data iris --lr-encoder 0", "lr_encoder", "> 0, got 0"),
    ("fit ppca --data iris --inference per-datapoint --lr-phi -1", "lr_phi", "> 0, got -1"),
    ("fit ppca --data iris --max_epochs 0", "max_epochs", "≥ 1, got 0"),
    ("fit ppca --data iris --max_epochs -1", "max_epochs", "≥ 1, got -1"),
    ("fit ppca --data iris --max_steps 0", "max_steps", "≥ 1, got 0"),
    ("fit ppca --data iris --max_seconds 0", "max_seconds", "> 0, got 0"),
    ("fit ppca --data iris --max_seconds .inf", "max_seconds", "finite number > 0, got inf"),
    ("fit ppca --data iris --batch_size 0", "batch_size", "≥ 1, got 0"),
    ("fit ppca --data iris --patience 0", "patience", "≥ 1, got 0"),
    ("fit ppca --data iris --eval_every 0", "eval_every", "≥ 1, got 0"),
    ("fit ppca --data iris --num_particles 0", "num_particles", "≥ 1, got 0"),
    ("fit ppca --data iris --seed -1", "seed", "≥ 0, got -1"),
    ("fit ppca --data iris --num_train 0", "num_train", "≥ 1, got 0"),
    ("fit ppca --data iris --num_train 100000", "num_train", "106 training rows"),
    ("fit ppca --data iris --max_epochs 1 --lr 1e30", "loss became nan", "lower the learning rates"),
    ("fit ppca --data iris --model.latent_dim 0", "latent_dim", "≥ 1, got 0"),
    ("fit ppca --data iris --model.latent_dim two", "latent_dim", "≥ 1, got 'two'"),
    ("fit ppca --data iris --model.latent_dim 2.5", "latent_dim", "≥ 1, got 2.5"),
    ("fit ppca --data iris --model.latent_dim true", "latent_dim", "≥ 1, got True"),
    ("fit ppca --data iris --model.latent_dim '[2]'", "latent_dim", "≥ 1, got [2]"),
    ("fit ppca --data iris --model.latent_dim 1000000000000", "ppca cannot be made", "check its options"),
    ("fit ppca --data iris --model.x_dim 5", "x_dim is 5", "leave x_dim out"),
    ("fit ppca --data iris --model.noise loud", "noise 'loud'", "isotropic, diagonal"),
    ("fit ppca --data iris --model.min_scale 0", "min_scale", "> 0, got 0"),
    ("fit ppca --data iris --model.min_scale .nan", "min_scale", "finite number > 0, got nan"),
    ("fit gmm --data iris --model.variance_floor -1", "variance_floor", "> 0, got -1"),
    ("fit gmm --data iris --model.reg_covar -1", "reg_covar", "≥ 0, got -1"),
    ("fit gmm --data iris --model.covariance spherical", "covariance 'spherical'", "diagonal, full"),
    ("fit gmm --data iris --model.num_components 1000", "1000 components", "at least as many data, got 106"),
    ("fit vae --model.hidden 0", "hidden", "whole numbers ≥ 1, got [0]"),
    ("fit vae --model.hidden '[]'", "hidden", "whole numbers ≥ 1, got []"),
    ("fit vae --model.hidden '[200, x]'", "hidden", "whole numbers ≥ 1, got [200, 'x']"),
    ("fit vae --model.hidden big", "hidden", "whole numbers ≥ 1, got 'big'"),
    ("fit vae --model.likelihood poisson", "likelihood 'poisson'", "bernoulli, gaussian"),
    ("fit dlgm --model.latent_dims '[]'", "latent_dims", "whole numbers ≥ 1, got []"),
    ("fit dlgm --model.latent_dims '[3, -1]'", "latent_dims", "whole numbers ≥ 1, got [3, -1]"),
    ("fit dlgm --model.family chained", "family 'chained'", "did you mean 'chain'"),
    ("fit ppca --data iris --inference per-datapoint --inference_options.inner_steps 0", "inner_steps", "≥ 1, got 0"),
    (
        "fit ppca --data iris --inference per-datapoint --inference_options.inner_steps forever",
        "inner_steps",
        "or 'converge', got 'forever'",
    ),
    ("fit ppca --data iris --inference per-datapoint --inference_options.lr 0", "lr", "> 0, got 0"),
    ("fit ppca --data iris --inference per-datapoint --inference_options.tolerance -1", "tolerance", "> 0, got -1"),
    ("evaluate gmm --num_samples 0", "num_samples", "≥ 1, got 0"),
    ("evaluate gmm --num_data 0", "num_data", "≥ 1, got 0"),
    ("evaluate gmm --seed -1", "seed", "≥ 0, got -1"),
    ("compare --models vae --fit.max_epochs 0", "max_epochs", "≥ 1, got 0"),
    ("compare --models vae --fit.max_epochs two", "max_epochs", "≥ 1, got 'two'"),
    ("compare --models vae --fit.lr -1", "lr", "> 0, got -1"),
    ("compare --models vae --fit.objective iwae", "objective 'iwae'", "known: elbo"),
    ("compare --models vae --fit.accelerator abacus", "'abacus'", "cpu"),
    ("compare --models vae --max_seconds -1", "max_seconds", "> 0, got -1"),
    ("compare --models vae --num_samples 0", "num_samples", "≥ 1, got 0"),
    ("compare --models vae --num_test 0", "num_test", "≥ 1, got 0"),
    ("compare --models vae --seeds '[-1]'", "seed", "≥ 0, got -1"),
    ("compare --models vae --inference_options '{per-datapoint: {inner_steps: 0}}'", "inner_steps", "≥ 1, got 0"),
    # lists of names
    ("compare --models '[]'", "models", "name at least one"),
    ("compare --models vae --inference '[]'", "inference", "name at least one"),
    ("compare --models vae --seeds '[]'", "seeds", "name at least one"),
    ("compare --models '[vae, vae]'", "models names 'vae' twice", "once"),
    ("compare --models vae --inference '[amortized, amortized]'", "inference names 'amortized' twice", "once"),
    ("compare --models vae --seeds '[0, 1, 0]'", "seeds names 0 twice", "once"),
    ("compare --models '[vae'", "'[vae'", "'vae'"),
    ("compare --models vae,gmm", "'vae,gmm'", "known: dlgm"),
    ("compare --models vea", "'vea'", "did you mean 'vae'"),
    ("compare --models '[vae, gmn]'", "'gmn'", "did you mean 'gmm'"),
    ("compare --models vae --inference amortised", "'amortised'", "did you mean 'amortized'"),
    ("compare --models vae --model.latnet_dim 1", "'latnet_dim'", "did you mean 'latent_dim'"),
    ("compare --models '[vae, ppca]' --data iris --model.hidden 9", "ppca: unknown option 'hidden'", "latent_dim"),
    (
        "compare --models vae --inference_options '{amortised: {encoder: 1}}'",
        "'amortised'",
        "did you mean 'amortized'",
    ),
    (
        "compare --models vae --inference amortized --inference_options '{per-datapoint: {inner_steps: 2}}'",
        "'per-datapoint'",
        "not among the strategies compared",
    ),
    (
        "compare --models vae --inference_options '{per-datapoint: {inner_stepz: 2}}'",
        "'inner_stepz'",
        "did you mean 'inner_steps'",
    ),
    ("compare --models vae --inference amortized --fit.lr_phi 0.1", "lr_phi", "leave it out"),
    # models, data and strategies that do not go together
    ("fit vae --inference exact", "VAE has no exact posterior", "another strategy"),
    ("fit dlgm --inference exact", "DLGM has no exact posterior", "another strategy"),
    ("compare --models vae --inference exact", "no exact posterior", "another strategy"),
    ("fit vae --treatment dynamic --inference per-datapoint", "per-datapoint", "static"),
    ("compare --models vae --treatment dynamic --inference per-datapoint", "per-datapoint", "other than dynamic"),
    ("fit vae --data iris --model.likelihood bernoulli", "VAE", "support (Boolean())"),
    ("compare --models vae --data iris --model.likelihood bernoulli", "VAE", "support (Boolean())"),
    ("fit ppca --data iris --treatment static", "treatment 'static'", "use 'real'"),
    ("compare --models gmm --data digits", "gmm gives site 'x' a density", 'treatment="real"'),
    ("compare --models ppca", "ppca gives site 'x' a density", 'treatment="real"'),
    ("compare --models '[vae, gmm]' --data digits", "gmm gives site 'x' a density", 'treatment="real"'),
    ("compare --models vae --model.likelihood gaussian", "vae gives site 'x' a density", 'treatment="real"'),
    # a user's own file
    ("fit missing.py:Mine", "missing.py", "no such file"),
    ("fit my.py", "'my.py'", "path/to/file.py:ClassName"),
    ("fit my.py:", "'my.py:'", "path/to/file.py:ClassName"),
    ("fit :Linear", "':Linear'", "path/to/file.py:ClassName"),
    ("fit my.txt:Linear", "'my.txt:Linear'", "path/to/file.py:ClassName"),
    ("fit 'my.py:no class'", "'my.py:no class'", "path/to/file.py:ClassName"),
    ("fit my.py:Mine", "my.py has no ppvae.Model called 'Mine'", "it has Linear"),
    ("fit my.py:NoModel", "my.py has no ppvae.Model called 'NoModel'", "it has Linear"),
    ("fit my.py:pyro", "my.py has no ppvae.Model called 'pyro'", "it has Linear"),
    ("fit raises.py:Mine", "raises.py", "OSError: the disk"),
    ("fit exits.py:Mine", "exits.py", "does not import"),
    ("fit syntax.py:Mine", "syntax.py", "SyntaxError"),
    ("fit imports.py:Mine", "imports.py", "no_such_module"),
    ("fit my.py:Needy --data iris", "my.py:Needy", "needs the option 'taste'"),
    ("fit my.py:Linear --data iris --model.taste good", "unknown option 'taste'", "x_dim, latent_dim"),
    ("fit my.py:NoEvent --data iris", "NoEvent", "to_event(1)"),
    ("fit my.py:WrongSize --data iris", "WrongSize", "shapes cannot be multiplied"),
    ("fit my.py:Blind --data iris", "Blind", "obs=x"),
    ("fit my.py:Guided --data iris", "Guided", "self.phi declares loc"),
    ("fit my.py:Hidden --data iris", "Hidden.encoder", "encoder_net"),
    ("fit my.py:Failing --data iris", "my.py:Failing cannot be made", "no luck"),
    ("fit my.py:FailingStart --data iris", "no start", "today"),
    ("fit my.py:FailingLater --data iris", "broke in training", "--debug"),
    ("compare --models my.py:NoEvent --data iris", "NoEvent", "to_event(1)"),
    ("compare --models my.py:Needy --data iris", "my.py:Needy", "needs the option 'taste'"),
    ("compare --models my.py:FailingStart --data iris", "FailingStart: start(x)", "no start"),
    ("compare --models '[vae, my.py:WrongSize]' --data iris", "WrongSize", "shapes cannot be multiplied"),
    ("compare --models my.py:FailingLater --data iris --inference amortized", "broke in training", "--debug"),
    # data files
    ("fit ppca --data missing.npy", "'missing.npy'", "check the path"),
    ("fit ppca --data my.txt", "'my.txt'", ".npy, .npz, .csv"),
    ("fit ppca --data ''", "data ''", ".npy, .npz, .csv"),
    ("fit ppca --data .", "data '.'", ".npy, .npz, .csv"),
    ("fit ppca --data empty.npy", "'empty.npy'", "save plain numbers again"),
    ("fit ppca --data empty.npz", "'empty.npz'", "numpy.savez"),
    ("fit ppca --data empty.csv", "'empty.csv'", "at least one row"),
    ("fit ppca --data letters.csv", "'two'", "only numbers"),
    ("fit ppca --data ragged.csv", "ragged.csv", "make rows alike"),
    ("fit ppca --data holes.npy", "holes.npy", "drop those rows"),
    ("fit ppca --data objects.npy", "objects.npy", "save plain numbers again"),
    ("fit vae --data counts.npy --treatment threshold", "counts.npy", "use 'real'"),
    ("fit vae --data mnist", "MNIST", "name another data root"),
    ("fit vae --data mnist --root my.txt", "'my.txt'", "name a folder"),
    ("compare --models vae --data missing.npy", "'missing.npy'", "check the path"),
    # where results go
    ("fit ppca --data iris --run_dir full", "full exists", "choose another"),
    ("fit ppca --data iris --run-dir gmm", "gmm exists", "choose another"),
    ("fit ppca --data iris --run-dir my.py", "my.py exists", "choose another"),
    ("fit ppca --data iris --run-dir my.py/inside", "my.py/inside", "no folder that you may write to"),
    ("fit ppca --data iris --run-dir new/deep/er --lr -1", "lr", "> 0, got -1"),
    ("fit ppca --data iris --run-dir empty --lr -1", "lr", "> 0, got -1"),
    (f"fit ppca --data iris --run-dir {'x' * 300}", "xxx", "name too long"),
    ("compare --models vae --run_dir full", "full exists", "choose another"),
    ("compare --models vae --run_dir my.py/inside", "my.py/inside", "no folder that you may write to"),
    ("compare --models vae --run_dir new/deep/er --fit.lr -1", "lr", "> 0, got -1"),
    ("evaluate gmm --out my.txt", "'my.txt' exists", "choose another file"),
    ("evaluate gmm --out no/such/folder.nc", "'no/such/folder.nc'", "its folder does not"),
    ("evaluate gmm --out ''", "out: ''", "choose another file"),
    # saved fits
    ("evaluate missing", "missing is not a saved fit", "config.yaml"),
    ("evaluate my.py", "my.py is not a saved fit", "config.yaml"),
    ("evaluate empty", "empty is not a saved fit", "config.yaml"),
    ("evaluate gmm/config.yaml", "is not a saved fit", "config.yaml"),
    ("evaluate no-weights", "no-weights is not a saved fit", "weights.safetensors"),
    ("evaluate no-config", "no-config is not a saved fit", "config.yaml"),
    ("evaluate cut-weights", "cut-weights is damaged", "Error"),
    ("evaluate cut-config", "cut-config is damaged", "Error"),
    ("evaluate list-config", "list-config is damaged", "Error"),
    ("evaluate empty-config", "empty-config is damaged", "Error"),
    ("evaluate short-config", "short-config is damaged", "history"),
    ("evaluate other-model", "other-model", ""),
    ("evaluate unknown-model", "'gmn'", "did you mean 'gmm'"),
    ("evaluate schema", "schema 99", "reads 1"),
    ("evaluate gmm --data digits", "[B, 4]", "(269, 64)"),
    ("evaluate gmm --data iris --treatment static", "treatment 'static'", "use 'real'"),
    ("evaluate gmm --data missing.csv", "'missing.csv'", "check the path"),
    ("evaluate vae --method exact", "VAE has no exact log_prob", "importance"),
    ("evaluate vae --treatment real", "VAE", "support (Boolean())"),
    ("evaluate dynamic --split train", "dynamic", "judge valid or test"),
    ("evaluate by_hand", "data made in Python", "--data"),
    # files of options
    ("fit --config missing.yaml", "missing.yaml", "does not exist"),
    ("fit ppca --config broken.yaml", "config", "did not find expected"),
    ("fit ppca --config unknown.yaml", "'dta'", "ppvae --help"),
    ("fit ppca --config wrong.yaml", "--seed", "a whole number, got 'soon'"),
    ("fit ppca --config list.yaml", "--config", "a file of YAML like"),
    ("fit ppca --config empty.yaml", "--config", "a file of YAML like"),
    ("fit ppca --config tag.yaml", "config", "tag:yaml.org,2002:python/object/apply:os.system"),
    ("compare --config tag.yaml", "config", "tag:yaml.org,2002:python/object/apply:os.system"),
    ("fit ppca --config", "--config", "expected one argument"),
]


@pytest.mark.parametrize(("command", "thing", "way_out"), COMMANDS, ids=[c[0][:100] for c in COMMANDS])
def test_command_line(command: str, thing: str, way_out: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree()
    status = main(shlex.split(command))
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith("ppvae: error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert len(err) < 600
    assert thing in err
    assert way_out.lower() in err.lower()
    assert tree() == before


def test_no_bad_command_is_listed_twice() -> None:
    commands = [command for command, _, _ in COMMANDS]
    assert len(set(commands)) == len(commands)


def test_command_line_of_a_process() -> None:
    before = tree()
    done = subprocess.run(
        [sys.executable, "-m", "ppvae.cli", "fit", "my.py:FailingLater", "--data", "iris"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ppvae: error: RuntimeError: broke in training")
    assert done.stderr.count("\n") == 1
    assert tree() == before


# Python: an action, what the message must name, and the way out that it must offer


class OwnModel(ppvae.Model):
    """A pair to be spoilt."""

    def __init__(self, phi: Any = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 4))
        self.phi = {"loc": ppvae.Local(torch.zeros(2))} if phi is None else phi

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, phi: ppvae.Phi) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(phi["loc"], 1.0).to_event(1))


class HalfPair(OwnModel):
    """Declares φ, and leaves the guide out."""

    guide = ppvae.Model.guide


class Unwritten(ppvae.Model):
    """Has no story."""


def fit(**changes: Any) -> ppvae.Fit:
    arguments: dict[str, Any] = {"model": ppvae.create("ppca", x_dim=4), "data": iris(), "max_epochs": 1}
    arguments |= {"progress": False, **changes}
    return ppvae.fit(**arguments)


def compare(**changes: Any) -> ppvae.Comparison:
    arguments: dict[str, Any] = {"models": "ppca", "data": iris(), "max_epochs": 1, "progress": False}
    return ppvae.compare(**{**arguments, **changes})


def create(name: Any) -> ppvae.Model:
    return ppvae.create(name)


NAN, INF = float("nan"), float("inf")
X = torch.ones(3, 4)

ACTIONS: dict[str, tuple[Callable[[], object], str, str]] = {
    # fit
    "a model by name": (lambda: fit(model="ppca"), "got str", "ppvae.create(name)"),
    "a class for a model": (lambda: fit(model=type(ppca().model)), "got type", "ppvae.create(name)"),
    "a module that is no Model": (lambda: fit(model=nn.Linear(4, 4)), "got Linear", "ppvae.create(name)"),
    "no model": (lambda: fit(model=None), "got NoneType", "ppvae.create(name)"),
    "an array as data": (lambda: fit(data=np.zeros((9, 4))), "not ndarray", "ppvae.Data("),
    "a tensor as data": (lambda: fit(data=X), "not Tensor", "ppvae.Data("),
    "no data": (lambda: fit(data=None), "not NoneType", "ppvae.Data("),
    "unknown data": (lambda: fit(data="Iris"), "'Iris'", "did you mean 'iris'"),
    "unknown inference": (lambda: fit(inference="Amortized"), "'Amortized'", "did you mean 'amortized'"),
    "no inference": (lambda: fit(inference=None), "inference None", "known: amortized"),
    "inference as a list": (lambda: fit(inference=["exact"]), "['exact']", "known: amortized"),
    "unknown objective": (lambda: fit(objective="iwae"), "objective 'iwae'", "known: elbo"),
    "unknown kl": (lambda: fit(kl="exact"), "kl 'exact'", "known: analytic, mc"),
    "precision as a number": (lambda: fit(precision=64), "precision 64", "64-true"),
    "unknown accelerator": (lambda: fit(accelerator="abacus"), "'abacus'", "cpu"),
    "lr in words": (lambda: fit(lr="0.1"), "lr", "finite number > 0, got '0.1'"),
    "lr that is no number": (lambda: fit(lr=NAN), "lr", "finite number > 0, got nan"),
    "infinite lr": (lambda: fit(lr=INF), "lr", "finite number > 0, got inf"),
    "lr beyond floats": (lambda: fit(lr=10**400), "lr", "finite number > 0, got 1000"),
    "lr as bool": (lambda: fit(lr=True), "lr", "finite number > 0, got True"),
    "lr as a tensor": (lambda: fit(lr=torch.tensor(0.1)), "lr", "finite number > 0, got tensor"),
    "negative lr beside a good lr_encoder": (lambda: fit(lr=-1, lr_encoder=0.1), "lr", "finite number > 0, got -1"),
    "zero lr_encoder": (lambda: fit(lr_encoder=0), "lr_encoder", "finite number > 0, got 0"),
    "negative lr_phi": (lambda: fit(inference="per-datapoint", lr_phi=-1), "lr_phi", "finite number > 0, got -1"),
    "lr_phi without rows": (lambda: fit(inference="amortized", lr_phi=0.1), "lr_phi", "leave it out"),
    "batch_size as float": (lambda: fit(batch_size=10.0), "batch_size", "whole number ≥ 1, got 10.0"),
    "batch_size zero": (lambda: fit(batch_size=0), "batch_size", "whole number ≥ 1, got 0"),
    "max_epochs as bool": (lambda: fit(max_epochs=True), "max_epochs", "whole number ≥ 1, got True"),
    "no max_epochs": (lambda: fit(max_epochs=None), "max_epochs", "whole number ≥ 1, got None"),
    "infinite max_epochs": (lambda: fit(max_epochs=INF), "max_epochs", "whole number ≥ 1, got inf"),
    "max_steps as float": (lambda: fit(max_steps=1e3), "max_steps", "whole number ≥ 1, got 1000.0"),
    "max_seconds not a number": (lambda: fit(max_seconds=NAN), "max_seconds", "finite number > 0, got nan"),
    "negative max_seconds": (lambda: fit(max_seconds=-1), "max_seconds", "finite number > 0, got -1"),
    "patience zero": (lambda: fit(patience=0), "patience", "whole number ≥ 1, got 0"),
    "patience as bool": (lambda: fit(patience=False), "patience", "whole number ≥ 1, got False"),
    "eval_every as float": (lambda: fit(eval_every=1.5), "eval_every", "whole number ≥ 1, got 1.5"),
    "num_particles zero": (lambda: fit(num_particles=0), "num_particles", "whole number ≥ 1, got 0"),
    "no seed": (lambda: fit(seed=None), "seed", "whole number ≥ 0, got None"),
    "seed as bool": (lambda: fit(seed=True), "seed", "whole number ≥ 0, got True"),
    "inference_options as a list": (lambda: fit(inference_options=["encoder"]), "inference_options", "mapping"),
    "inference_options as a number": (lambda: fit(inference_options=5), "inference_options", "mapping"),
    "unknown option of a strategy": (
        lambda: fit(inference="per-datapoint", inference_options={"inner_stepz": 1}),
        "'inner_stepz'",
        "did you mean 'inner_steps'",
    ),
    "option of another strategy": (
        lambda: fit(inference="exact", inference_options={"inner_steps": 1}),
        "exact: unknown option 'inner_steps'",
        "known: none",
    ),
    "encoder that is no module": (lambda: fit(inference_options={"encoder": len}), "encoder", "torch.nn.Module"),
    "encoder of the wrong output": (
        lambda: fit(inference_options={"encoder": nn.Flatten(0)}),
        "the encoder maps 2 datapoints to (8,)",
        "[B, features]",
    ),
    "encoder of the wrong input": (
        lambda: fit(inference_options={"encoder": nn.Linear(5, 3)}),
        "encoder",
        "cannot be multiplied",
    ),
    "more components than data": (
        lambda: fit(model=ppvae.create("gmm", x_dim=4, num_components=1000)),
        "1000 components",
        "at least as many data, got 106",
    ),
    "x_dim of other data": (lambda: fit(model=ppvae.create("ppca", x_dim=5)), "PPCA", "start(x)"),
    "a likelihood of bits on real data": (
        lambda: fit(model=ppvae.create("vae", x_dim=4)),
        "VAE",
        "support (Boolean())",
    ),
    "dynamic data and a row a datum": (
        lambda: fit(model=ppvae.create("vae", x_dim=64), data=dynamic(), inference="per-datapoint"),
        "per-datapoint",
        'treatment="static"',
    ),
    "phi that is no Local": (lambda: fit(model=OwnModel({"loc": torch.zeros(2)})), "phi['loc']", "ppvae.Local"),
    "phi that is no mapping": (lambda: fit(model=OwnModel([ppvae.Local(torch.zeros(2))])), "OwnModel", "list"),
    "phi without the guide's entry": (lambda: fit(model=OwnModel({})), "the guide reads phi['loc']", "declares none"),
    "phi without a guide": (lambda: fit(model=HalfPair()), "HalfPair declares phi", "write guide(x, phi)"),
    "a model without a story": (lambda: fit(model=Unwritten()), "Unwritten has no model(self, x)", "write"),
    # the zoo
    "unknown model": (lambda: ppvae.create("vea"), "'vea'", "did you mean 'vae'"),
    "no name": (lambda: create(None), "model None", "known: dlgm"),
    "no x_dim": (lambda: ppvae.create("vae"), "vae needs the option", "'x_dim'"),
    "unknown option": (lambda: ppvae.create("vae", x_dim=4, latnet_dim=3), "'latnet_dim'", "'latent_dim'"),
    "x_dim in words": (lambda: ppvae.create("vae", x_dim="4"), "x_dim", "whole number ≥ 1, got '4'"),
    "x_dim of a shape": (lambda: ppvae.create("vae", x_dim=(4,)), "x_dim", "whole number ≥ 1, got (4,)"),
    "latent_dim as bool": (lambda: ppvae.create("vae", x_dim=4, latent_dim=True), "latent_dim", "got True"),
    "hidden with a float": (lambda: ppvae.create("vae", x_dim=4, hidden=[9, 2.5]), "hidden", "got [9, 2.5]"),
    "hidden in words": (lambda: ppvae.create("vae", x_dim=4, hidden="ab"), "hidden", "got 'ab'"),
    "no hidden": (lambda: ppvae.create("vae", x_dim=4, hidden=None), "hidden", "got None"),
    "min_scale zero": (lambda: ppvae.create("vae", x_dim=4, likelihood="gaussian", min_scale=0), "min_scale", "> 0"),
    "latent_dims empty": (lambda: ppvae.create("dlgm", x_dim=4, latent_dims=()), "latent_dims", "got []"),
    "variance_floor zero": (lambda: ppvae.create("gmm", x_dim=4, variance_floor=0), "variance_floor", "> 0, got 0"),
    "variance_floor not a number": (lambda: ppvae.create("gmm", x_dim=4, variance_floor=NAN), "variance_floor", "nan"),
    "num_components zero": (lambda: ppvae.create("gmm", x_dim=4, num_components=0), "num_components", "≥ 1, got 0"),
    "unknown assignment": (lambda: ppvae.create("gmm", x_dim=4, assignment="sum"), "'sum'", "did you mean 'summed'"),
    "a model too big": (lambda: ppvae.create("ppca", x_dim=10**15), "ppca cannot be made", "check its options"),
    "registering what is no model": (lambda: ppvae.register("mine")(int), "int", "ppvae.Model"),
    "registering a name taken": (lambda: ppvae.register("vae")(OwnModel), "'vae' is taken", "another name"),
    # Local
    "Local of integers": (lambda: ppvae.Local(torch.zeros(2, dtype=torch.int64)), "Local", "floating-point"),
    "Local of a large integer tensor": (lambda: ppvae.Local(torch.zeros(99, 99).int()), "Local", "floating-point"),
    "Local of a number": (lambda: local(0.0), "Local", "floating-point tensor, got 0.0"),
    "Local of a list": (lambda: local([0.0]), "Local", "floating-point tensor, got [0.0]"),
    "Local outside its support": (lambda: local(-torch.ones(2), constraints.positive), "Local", "outside its support"),
    "large Local outside": (lambda: local(-torch.ones(99, 99), constraints.positive), "Local", "outside its support"),
    "Local that is no number": (lambda: local(torch.tensor([NAN])), "Local", "outside its support"),
    "Local of a named support": (lambda: local(torch.ones(2), "positive"), "support", "constraints"),
    # posteriors and estimates
    "x of another size": (lambda: ppca().posterior(torch.ones(3, 5)), "[B, 4]", "got (3, 5)"),
    "one datum without its batch": (lambda: ppca().posterior(torch.ones(4)), "[B, 4]", "got (4,)"),
    "x a number": (lambda: ppca().posterior(torch.ones(())), "[B, 4]", "got ()"),
    "x an array": (lambda: posterior(x=np.ones((3, 4))), "[B, 4]", "got ndarray"),
    "x a list": (lambda: posterior(x=[[1.0] * 4]), "[B, 4]", "got list"),
    "x a data set": (lambda: posterior(x=iris()), "[B, 4]", "got Data"),
    "no x": (lambda: ppca().posterior(torch.ones(0, 4)), "[B, 4]", "B ≥ 1, got (0, 4)"),
    "x with a hole": (lambda: ppca().posterior(X * NAN), "NaN", "drop or impute"),
    "infinite x": (lambda: ppca().posterior(X * INF), "infinite", "drop or impute"),
    "complex x": (lambda: ppca().posterior(X.to(torch.complex64)), "complex64", "real numbers"),
    "index without rows": (lambda: ppca().posterior(X, torch.arange(3)), "Amortized keeps no rows", "without index"),
    "index too short": (lambda: posterior([0]), "index must hold 3", "got shape (1,)"),
    "index of floats": (lambda: posterior([0.0, 1.0, 2.0]), "index must hold 3", "whole numbers"),
    "index as a mask": (lambda: posterior([True, False, True]), "index must hold 3", "whole numbers"),
    "index in a column": (lambda: posterior([[0], [1], [2]]), "index must hold 3", "got shape (3, 1)"),
    "index beyond the end": (lambda: posterior([0, 1, 106]), "0 … 105", "training set"),
    "negative index": (lambda: posterior([0, 1, -1]), "0 … 105", "training set"),
    "index in words": (lambda: posterior("first"), "index must hold 3", "whole numbers"),
    "log_marginal of a model": (lambda: log_marginal(fit=ppca().model), "PPCA", "ppvae.fit"),
    "log_marginal of a path": (lambda: log_marginal(fit="runs/mine"), "str", "ppvae.fit"),
    "log_marginal of another size": (lambda: log_marginal(x=torch.ones(2, 3)), "[B, 4]", "got (2, 3)"),
    "log_marginal of holes": (lambda: log_marginal(x=X * NAN), "NaN", "drop or impute"),
    "log_marginal of no bits": (lambda: bits(torch.full((2, 64), 0.5)), "support (Boolean())", "VAE"),
    "unknown method": (lambda: log_marginal(method="ais"), "method 'ais'", "known: importance, exact"),
    "exact where there is none": (lambda: bits(torch.ones(2, 64), method="exact"), "VAE has no exact", "importance"),
    "num_samples zero": (lambda: log_marginal(num_samples=0), "num_samples", "≥ 1, got 0"),
    "num_samples as float": (lambda: log_marginal(num_samples=1e3), "num_samples", "≥ 1, got 1000.0"),
    "chunk_size zero": (lambda: log_marginal(chunk_size=0), "chunk_size", "≥ 1, got 0"),
    "negative seed": (lambda: log_marginal(seed=-1), "seed", "≥ 0, got -1"),
    "index to log_marginal out of range": (
        lambda: log_marginal(fit=ppca("per-datapoint"), index=torch.tensor([0, 1, 999])),
        "0 … 105",
        "training set",
    ),
    "a summary of what there is not": (
        lambda: ppvae.summarise(log_marginal(num_samples=2), "elb"),
        "'elb'",
        "did you mean 'elbo'",
    ),
    "particles zero": (lambda: densities(num_particles=0), "num_particles", "≥ 1, got 0"),
    "unknown gradient": (lambda: densities(grad="half"), "'half'", "full, path, score"),
    # check and load
    "check of a name": (lambda: check(model="vae"), "ppvae.Model", "got str"),
    "check without x": (lambda: check(x=None), "[B, *event]", "B ≥ 1"),
    "check of holes": (lambda: check(x=X * NAN), "NaN", "drop or impute"),
    "load from nowhere": (lambda: ppvae.load("nowhere"), "nowhere is not a saved fit", "config.yaml"),
    "load of a damaged fit": (lambda: ppvae.load("short-config"), "short-config is damaged", "history"),
    "save where something is": (lambda: ppca().save("full"), "full exists", "another place"),
    "save over a file": (lambda: ppca().save("my.txt"), "my.txt exists", "another place"),
    "save inside a file": (lambda: ppca().save("my.txt/fit"), "my.txt/fit", "folder"),
    "results from nowhere": (lambda: read_results("nowhere.json"), "nowhere.json", "cannot read"),
    # compare
    "compare unknown models": (lambda: compare(models=["vea"]), "'vea'", "did you mean 'vae'"),
    "compare numbers": (lambda: compare(models=5), "models", "names, got 5"),
    "compare a model itself": (lambda: compare(models=[ppca().model]), "unknown model PPCA", "known: dlgm"),
    "compare nothing": (lambda: compare(models=[]), "models", "at least one"),
    "compare twice": (lambda: compare(models=["ppca", "ppca"]), "'ppca' twice", "once"),
    "compare under nothing": (lambda: compare(inference=[]), "inference", "at least one"),
    "compare under numbers": (lambda: compare(inference=5), "inference", "names, got 5"),
    "compare without seeds": (lambda: compare(seeds=[]), "seeds", "at least one"),
    "compare seeds twice": (lambda: compare(seeds=[3, 3]), "3 twice", "once"),
    "compare with a seed in words": (lambda: compare(seeds="01"), "seed", "≥ 0, got '0'"),
    "compare with None for seeds": (lambda: compare(seeds=None), "seed", "≥ 0, got None"),
    "compare with model options loose": (lambda: compare(latent_dim=3), "'latent_dim'", "model_options"),
    "compare with an option misspelt": (lambda: compare(max_epoch=3), "'max_epoch'", "did you mean 'max_epochs'"),
    "compare with options that are none": (lambda: compare(model_options=5), "model_options", "mapping"),
    "compare with a list of options": (lambda: compare(inference_options=["exact"]), "inference_options", "mapping"),
    "compare with a number for options": (
        lambda: compare(inference_options={"exact": 5}),
        "inference_options of exact",
        "mapping",
    ),
    "compare num_test as bool": (lambda: compare(num_test=True), "num_test", "≥ 1, got True"),
    "compare num_samples as float": (lambda: compare(num_samples=0.5), "num_samples", "≥ 1, got 0.5"),
    "compare on more than there is": (lambda: compare(num_train=9999), "num_train", "106 training rows"),
    "compare into a full folder": (lambda: compare(run_dir="full"), "full exists", "choose another"),
    "compare into a number": (lambda: compare(run_dir=5), "5", "run directory"),
    "compare on a tensor": (lambda: compare(data=X), "not Tensor", "ppvae.Data("),
    # data built by hand
    "data of integers": (lambda: by_hand(train=X.long()), "train", "float()"),
    "data of arrays": (lambda: by_hand(test=np.ones((3, 4))), "test", "floating tensor"),
    "data in one row": (lambda: by_hand(train=torch.ones(4)), "train", "reshape(-1, 1)"),
    "data with a hole": (lambda: by_hand(valid=X * NAN), "valid", "drop those rows"),
    "data without rows": (lambda: by_hand(test=X[:0]), "test", "at least one row"),
    "data of two widths": (lambda: by_hand(test=torch.ones(3, 5)), "test", "make rows agree"),
    "data of another likelihood": (lambda: by_hand(likelihood="poisson"), "'poisson'", "bernoulli, gaussian"),
    "data of another treatment": (lambda: by_hand(treatment="binarised"), "'binarised'", "binary"),
    "bits that are none": (lambda: by_hand(X / 3, likelihood="bernoulli", treatment="binary"), "0 and 1", "gaussian"),
    "a treatment of nothing": (lambda: ppvae.load_data("iris", treatment="Real"), "'Real'", "did you mean 'real'"),
    "data by number": (lambda: load_data(7), "not int", "ppvae.Data("),
}


def dynamic() -> Data:
    return ppvae.load_data("digits", treatment="dynamic")


def local(start: Any, support: Any = constraints.real) -> ppvae.Local:
    return ppvae.Local(start, support)


def posterior(index: Any = None, x: Any = X) -> ppvae.Posterior:
    return ppca("amortized" if index is None else "per-datapoint").posterior(x, index)


def log_marginal(**changes: Any) -> Any:
    return ppvae.log_marginal(**({"fit": ppca(), "x": X, "num_samples": 2} | changes))


def bits(x: Tensor, **options: Any) -> Any:
    return ppvae.log_marginal(ppvae.load("vae"), x, num_samples=2, **options)


def densities(**options: Any) -> ppvae.Densities:
    return ppvae.log_densities(ppca().model, ppca().posterior(X), X, **options)


def check(**changes: Any) -> None:
    ppvae.check(**({"model": ppca().model, "x": X} | changes))


def by_hand(train: Tensor = X, **changes: Any) -> Data:
    parts: dict[str, Any] = {"name": "mine", "train": train, "valid": train, "test": train}
    parts |= {"likelihood": "gaussian", "treatment": "real", **changes}
    return Data(**parts)


def load_data(name: Any) -> Data:
    return ppvae.load_data(name)


@pytest.mark.parametrize("action", ACTIONS)
def test_python(action: str) -> None:
    run, thing, way_out = ACTIONS[action]
    before = tree()
    with pytest.raises(ppvae.PpvaeError) as caught:
        run()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    assert thing in message
    assert way_out in message
    assert tree() == before
