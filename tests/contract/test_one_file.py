"""Adding an entry of any kind is adding one file: it is listed, described, used by name, and under the contract test.

The library and its tests are copied into an empty folder, one small file of each kind is written there, and no other
file is changed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: kind → (file, name, text)
ENTRIES: dict[str, tuple[str, str, str]] = {
    "models": (
        "models/threshold_units.py",
        "threshold-units",
        '''"""Logistic units.

    z ~ Normal(0, I), x ~ a likelihood at z
"""

from __future__ import annotations

import pyro
from pyro.distributions import Normal
from torch import Tensor

from ppvae.catalogue import register
from ppvae.nn.likelihood import make_likelihood
from ppvae.pair.model import Model


@register("threshold-units", compare={"data": "stripes", "epochs": 2})
class ThresholdUnits(Model):
    """Two latents under one linear layer.

    Args:
        x_dim: numbers in one datum.
        likelihood: of x.
    """

    def __init__(self, x_dim: int, likelihood: str = "bernoulli") -> None:
        super().__init__()
        self.decoder = make_likelihood(likelihood, 2, x_dim)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", self.decoder(z), obs=x.flatten(1))
''',
    ),
    "likelihoods": (
        "ppvae/nn/likelihoods/heavy.py",
        "heavy",
        '''"""A likelihood with heavy tails."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from ppvae.catalogue import register
from ppvae.nn.likelihood import Likelihood
from ppvae.nn.networks import mlp


@register("heavy", order=9, values="real")
class Heavy(Likelihood):
    """Independent Laplace distributions of scale 1."""

    def __init__(self, *sizes: int, activation: str = "relu") -> None:
        super().__init__()
        self.loc = mlp(*sizes, activation=activation)

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        return dist.Laplace(self.loc(features), 1.0).to_event(1)
''',
    ),
    "inference": (
        "inference/one_row.py",
        "one-row",
        '''"""One φ for all data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ppvae.catalogue import register
from ppvae.data.batch import Batch
from ppvae.pair.local import Phi
from ppvae.pair.model import Model
from ppvae.variational.bound import Bound
from ppvae.variational.strategy import Strategy


@register("one-row")
class OneRow(Strategy):
    """The same φ for each datum: what an encoder that ignores x could give.

    Args:
        shift: added to the start.
    """

    def __init__(self, model: Model, x: Tensor, shift: float = 0.0) -> None:
        super().__init__(model, x)
        self.row = nn.Parameter(self.start + shift)

    def forward(self, batch: Batch, bound: Bound) -> Phi:
        return self.layout.unpack(self.row.expand(len(batch.x), -1))

    def lookup(self, index: Tensor) -> Phi:
        return self.layout.unpack(self.row.expand(len(index), -1))
''',
    ),
    "families": (
        "ppvae/pair/families/unit_scale.py",
        "unit-scale",
        '''"""Gaussians of the prior's scale."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor

from ppvae.catalogue import register
from ppvae.pair.family import Family, LocalSite, sample_site
from ppvae.pair.local import Local, Phi


@register("unit-scale", order=9)
class UnitScale(Family):
    """q(z) = Normal(loc, the scale of the prior)."""

    def __init__(self, sites: list[LocalSite]) -> None:
        self.sites = sites
        self.phi = {f"{site.name}_loc": Local(site.mean) for site in sites}

    def __call__(self, x: Tensor, phi: Phi) -> None:
        with pyro.plate("data", len(x)):
            for site in self.sites:
                loc = phi[f"{site.name}_loc"]
                sample_site(site, dist.Normal(loc, site.std.to(loc)).to_event(site.mean.dim()))
''',
    ),
    "objectives": (
        "ppvae/variational/objectives/half.py",
        "half",
        '''"""Half the evidence lower bound."""

from __future__ import annotations

from torch import Tensor

from ppvae.catalogue import register
from ppvae.pair.densities import Densities
from ppvae.variational.objective import Objective


@register("half", order=9, gradients={"reparam": "unbiased", "plain": "unbiased"})
class Half(Objective):
    """Half the evidence lower bound."""

    mean_over_draws = True

    def value(self, densities: Densities) -> Tensor:
        return densities.mean(densities.log_ratio) / 2
''',
    ),
    "gradients": (
        "ppvae/variational/gradients/plain.py",
        "plain",
        '''"""The gradient through the draws, once more."""

from __future__ import annotations

from ppvae.catalogue import register
from ppvae.variational.gradient import Gradient


@register("plain", order=9, objectives={"elbo": "unbiased"})
class Plain(Gradient):
    """Through the draws and log q."""
''',
    ),
    "methods": (
        "ppvae/evidence/methods/twice.py",
        "twice",
        '''"""Importance sampling from a q of twice the width."""

from __future__ import annotations

from ppvae.catalogue import METHODS
from ppvae.evidence.method import Sampler
from ppvae.evidence.problem import Problem
from ppvae.evidence.proposal import Proposal
from ppvae.evidence.widening import Widened


@METHODS.register("twice", order=9, applies=("continuous",))
def twice(problem: Problem, *, width: float = 2.0) -> Sampler:
    """Importance sampling from a q of twice the width."""
    return Proposal(problem.model, Widened(problem.posterior, width, None))
''',
    ),
    "data": (
        "ppvae/data/sources/stripes.py",
        "stripes",
        '''"""Stripes."""

from __future__ import annotations

from pathlib import Path

import torch

from ppvae.catalogue import SOURCES
from ppvae.data.source import Raw


@SOURCES.register("stripes", treatment="binary")
def stripes(root: Path, seed: int) -> Raw:
    """Sixty rows of four bits, the first two and the last two of which agree."""
    bits = torch.randint(2, (60, 2), generator=torch.Generator().manual_seed(0))
    return Raw({"all": bits.repeat_interleave(2, 1).float()})
''',
    ),
    "schedules": (
        "ppvae/training/schedules/third.py",
        "third",
        '''"""A third of the learning rate."""

from __future__ import annotations

from ppvae.catalogue import SCHEDULES
from ppvae.options import option
from ppvae.training.schedule import Schedule


@SCHEDULES.register("third")
class Third(Schedule):
    """A fraction of the learning rate."""

    fraction: float = option(1 / 3, "what is left of the learning rate", above=0)

    def multiplier(self, step: int, steps_per_epoch: int, num_steps: int) -> float:
        return self.fraction
''',
    ),
    "commands": (
        "ppvae/cli/commands/greeting.py",
        "greet",
        '''"""`ppvae greet`."""

from __future__ import annotations

from ppvae.catalogue import register
from ppvae.cli.command import Command
from ppvae.options import option


@register("greet", order=9)
class GreetCommand(Command):
    """Say a word."""

    word: str = option("hello", "the word")

    def run(self) -> None:
        print(f"{self.word} from a file")
''',
    ),
}

#: uses every new entry by its name, from Python
PROGRAM = """
import json, sys
import ppvae
from ppvae.catalogue import CATALOGUES

entries = json.loads(sys.argv[1])
for kind, name in entries.items():
    assert name in ppvae.available(kind), (kind, name)
    assert CATALOGUES[kind].summary(name), (kind, name)
fit = ppvae.fit(
    "threshold-units", "stripes", inference="one-row", family="unit-scale", objective="half", gradient="plain",
    schedule="third", epochs=3, progress=False,
)
assert ppvae.models.ThresholdUnits is type(fit.model)
assert fit.settings.inference == "one-row" and fit.settings.schedule == "third"
x = ppvae.load_data("stripes").test
found = ppvae.log_marginal(fit, x, num_samples=200, method="twice", options={"width": 1.5})
assert found["log_marginal"].notnull().all()
heavy = ppvae.create("threshold-units", x_dim=4, likelihood="heavy")
real = ppvae.fit(heavy, ppvae.load_data("iris"), epochs=1, progress=False)
rows = ppvae.compare("threshold-units", ["one-row", "amortized"], seeds=0, num_samples=20, epochs=1).rows
assert [row.data for row in rows] == ["stripes", "stripes"]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library and its tests with one more file of each kind."""
    place = tmp_path_factory.mktemp("house")
    for folder in ("ppvae", "models", "inference", "tests"):
        shutil.copytree(ROOT / folder, place / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / file, place / file)
    for file, _, text in ENTRIES.values():
        assert not (place / file).exists()
        (place / file).write_text(text, encoding="utf-8")
    return place


def ran(place: Path, *words: str) -> str:
    """What a Python process in the copy prints."""
    environment = {**os.environ, "PYTHONPATH": str(place), "PYTEST_ADDOPTS": "", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, *words], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def test_every_kind_of_entry_is_tried() -> None:
    from ppvae.catalogue import CATALOGUES

    assert ENTRIES.keys() == CATALOGUES.keys()


def test_new_entries_are_used_by_name_from_python(place: Path) -> None:
    ran(place, "-c", PROGRAM, json.dumps({kind: name for kind, (_, name, _) in ENTRIES.items()}))


def test_new_entries_are_listed_described_and_used_from_the_command_line(place: Path) -> None:
    ppvae = ("-m", "ppvae.cli")
    listed = ran(place, *ppvae, "list")
    for kind, (_, name, _) in ENTRIES.items():
        if kind != "commands":
            assert f"  {name} " in listed
    assert "  greet " in ran(place, *ppvae, "--help")
    assert "the word" in ran(place, *ppvae, "greet", "--help")
    assert ran(place, *ppvae, "greet", "--word", "good day") == "good day from a file\n"
    assert "likelihood: str" in ran(place, *ppvae, "show", "threshold-units")
    assert "shift: float" in ran(place, *ppvae, "show", "one-row")
    ran(
        place, *ppvae, "fit", "threshold-units", "--data", "stripes", "--inference", "one-row", "--family",
        "unit-scale",
        "--inference_options.shift", "0.1", "--objective", "half", "--gradient", "plain", "--schedule", "third",
        "--schedule_options.fraction", "0.5", "--epochs", "2", "--run_dir", "run",
    )  # fmt: skip
    assert "twice 100%" in ran(place, *ppvae, "evaluate", "run", "--method", "twice", "--num_samples", "100")


def test_new_entries_are_under_the_contract_tests(place: Path) -> None:
    """The copied tests, unchanged, try each new entry; a new model passes them under a new strategy."""
    pytest_here = ("-m", "pytest", "-p", "no:cacheprovider")
    files = ("contract/test_models", "contract/test_methods", "cli/test_commands", "pair/test_families")
    files = [f"tests/{name}.py" for name in (*files, "variational/test_estimator", "test_house")]
    collected = ran(place, *pytest_here, "--collect-only", *files)
    for kind, (file, name, _) in ENTRIES.items():
        if kind not in ("likelihoods", "data", "schedules"):
            assert f"[{name}" in collected or f"-{name}" in collected, kind
        assert f"[ppvae.{file.removeprefix('ppvae/').removesuffix('.py').replace('/', '.')}]" in collected
    contract = ran(place, *pytest_here, "tests/contract/test_models.py", "-k", "threshold-units and one-row")
    assert " passed" in contract
    assert " failed" not in contract
