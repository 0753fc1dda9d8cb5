"""Fits on disk: they come back as they were, damage is refused in one line, and nothing is ever unpickled."""

import errno
import os
import pickle
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
import yaml
from checks import refusal
from conftest import Untouched
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import ppvae
from ppvae.pair.precision import default_precision
from ppvae.training.settings import Settings

ROOT = Path(ppvae.__file__).resolve().parents[1]
FILES = ["config.yaml", "fit.yaml", "metrics.csv", "weights.safetensors"]

SOURCE = '''
import pyro
import pyro.distributions as dist
import torch

import ppvae


class Sum(ppvae.Model):
    """x = offset + z + noise, z positive."""

    def __init__(self, x_dim, offset=0.0, *, scale=1.0):
        super().__init__()
        self.scale = scale
        self.offset = torch.nn.Parameter(torch.full((x_dim,), offset))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(x.new_full((), 2.0), 1.0)).unsqueeze(-1)
            pyro.sample("x", dist.Normal(self.offset + z, self.scale).to_event(1), obs=x)
'''


class Local(ppvae.Model):
    """The same, of a class that no file can be named for."""

    def __init__(self, x_dim: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(x_dim))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(x.new_full((), 2.0), 1.0)).unsqueeze(-1)
            pyro.sample("x", dist.Normal(self.offset + z, 1.0).to_event(1), obs=x)


class Widened(Local):
    """An option that is no plain value."""

    def __init__(self, x_dim: int, scale: Any) -> None:
        super().__init__(x_dim)


def data() -> ppvae.Data:
    x = torch.rand(30, 3, generator=torch.Generator().manual_seed(0)) + 1
    return ppvae.Data("a few", x[:20], x[20:25], x[25:], "gaussian", "real")


def fit(model: ppvae.Model, inference: str = "amortized", **options: Any) -> ppvae.Fit:
    more: dict[str, Any] = {"epochs": 2, "batch_size": 10, "eval_every": 1, "lr": 0.01, "progress": False}
    return ppvae.fit(model, data(), inference, **more, **options)


@cache
def _zoo() -> ppvae.Fit:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return fit(ppvae.create("vae", x_dim=3, latent_dim=2, hidden=[4], likelihood="gaussian"))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A fit of the zoo on disk."""
    _zoo().save(tmp_path / "fit")
    return tmp_path / "fit"


def same(one: ppvae.Fit, other: ppvae.Fit) -> bool:
    """Whether two fits give the same numbers for the same data."""
    first, second = (ppvae.log_marginal(f, data().test, num_samples=30) for f in (one, other))
    return first.identical(second)


# Round trips


def test_a_zoo_model(saved: Path) -> None:
    """Comes back by its name and options, in evaluation mode."""
    again = ppvae.load(saved)
    assert same(_zoo(), again)
    assert again.settings == _zoo().settings
    assert (again.history, again.stopped, again.seconds) == (_zoo().history, _zoo().stopped, _zoo().seconds)
    assert again.model.options == {"x_dim": 3, "latent_dim": 2, "hidden": [4], "likelihood": "gaussian"}
    assert not any(module.training for part in (again.model, again.strategy) for module in part.modules())


@pytest.mark.parametrize("inference", ["amortized", "per-datapoint"])
def test_a_users_file(inference: str, tmp_path: Path) -> None:
    """A class of path/to/file.py:Class comes back from its file, whatever the working directory."""
    file = tmp_path / "own.py"
    file.write_text(SOURCE)
    result = fit(ppvae.create(f"{file}:Sum", x_dim=3, offset=0.5, scale=2.0), inference)
    result.save(tmp_path / "fit")
    again = ppvae.load(tmp_path / "fit")
    assert same(result, again)
    assert getattr(again.model, "scale", None) == 2.0


def test_a_file_named_relatively(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The saved reference is absolute."""
    (tmp_path / "own.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    result = fit(ppvae.create("own.py:Sum", x_dim=3))
    result.save("fit")
    monkeypatch.chdir("/")
    assert same(result, ppvae.load(tmp_path / "fit"))


def test_positional_options_are_kept(tmp_path: Path) -> None:
    """A model made with positional arguments is made again with them."""
    file = tmp_path / "own.py"
    file.write_text(SOURCE)
    own: Any = type(ppvae.create(f"{file}:Sum", x_dim=3))
    fit(own(3, 0.25)).save(tmp_path / "fit")
    assert ppvae.load(tmp_path / "fit").model.options == {"x_dim": 3, "offset": 0.25}


def test_a_users_file_that_is_gone(tmp_path: Path) -> None:
    """The message names the file."""
    file = tmp_path / "own.py"
    file.write_text(SOURCE)
    fit(ppvae.create(f"{file}:Sum", x_dim=3)).save(tmp_path / "fit")
    file.unlink()
    assert str(file) in refusal(lambda: ppvae.load(tmp_path / "fit"))


@pytest.mark.parametrize("inference", ["amortized", "per-datapoint"])
def test_a_class_without_a_file(inference: str, tmp_path: Path) -> None:
    """Needs model=, and says so; then it comes back, as do the rows' start values of its default family."""
    result = fit(Local(3), inference)
    result.save(tmp_path / "fit")
    assert "model=" in refusal(lambda: ppvae.load(tmp_path / "fit"))
    assert same(result, ppvae.load(tmp_path / "fit", model=Local(3)))
    assert "does not fit" in refusal(lambda: ppvae.load(tmp_path / "fit", model=Local(4)))


def test_an_encoder_of_ones_own(tmp_path: Path, untouched: Untouched) -> None:
    """Needs encoder=, and says so; the module given is copied and left alone."""

    def encoder() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 7), nn.Tanh())

    result = fit(ppvae.create("ppca", x_dim=3), inference_options={"encoder": encoder()})
    result.save(tmp_path / "fit")
    assert "encoder=" in refusal(lambda: ppvae.load(tmp_path / "fit"))
    given = encoder()
    with untouched(given):
        assert same(result, ppvae.load(tmp_path / "fit", encoder=given))
    assert "does not fit" in refusal(lambda: ppvae.load(tmp_path / "fit", encoder=nn.Linear(3, 2)))


def test_double_precision(tmp_path: Path) -> None:
    """Weights of float64 come back as such, to the last bit."""
    result = fit(ppvae.create("ppca", x_dim=3), precision="64-true")
    result.save(tmp_path / "fit")
    again = ppvae.load(tmp_path / "fit")
    assert {p.dtype for part in (again.model, again.strategy) for p in part.parameters()} == {torch.float64}
    assert torch.equal(again.model.get_parameter("weight"), result.model.get_parameter("weight"))
    assert same(result, again)


def test_a_loaded_fit_saves_again(saved: Path, tmp_path: Path) -> None:
    """To the same files."""
    ppvae.load(saved).save(tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()


def test_saving_and_loading_leave_no_trace(tmp_path: Path, untouched: Untouched) -> None:
    """Neither in the fit nor in the global random state."""
    with untouched(_zoo().model, _zoo().strategy):
        _zoo().save(tmp_path / "fit")
        ppvae.load(tmp_path / "fit")


# Where it may be saved


def test_parents_are_made_and_an_empty_folder_is_used(tmp_path: Path) -> None:
    """A path that does not exist yet, and one that is an empty folder."""
    (tmp_path / "empty").mkdir()
    for place in ("empty", "a/b/c"):
        _zoo().save(str(tmp_path / place))
        assert sorted(p.name for p in (tmp_path / place).iterdir()) == FILES


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    """Refused, its content as it was, and nothing beside it."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("dear")
    assert "full" in refusal(lambda: _zoo().save(tmp_path / "full"))
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == ["full", "full/thesis.txt"]
    assert (tmp_path / "full" / "thesis.txt").read_text() == "dear"


def test_a_fit_is_not_overwritten(saved: Path) -> None:
    """Nor a file of that name."""
    before = (saved / "weights.safetensors").read_bytes()
    refusal(lambda: _zoo().save(saved))
    refusal(lambda: _zoo().save(saved / "config.yaml"))
    assert (saved / "weights.safetensors").read_bytes() == before


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("file", FILES)
def test_a_failed_write_leaves_nothing(file: str, empty: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk at any file: one line, no folder appears, none is left half full, and no scratch stays behind."""
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name == file:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(self, target)

    if empty:
        (tmp_path / "fit").mkdir()
    monkeypatch.setattr(Path, "replace", full)
    assert "No space left" in refusal(lambda: _zoo().save(tmp_path / "fit"))
    assert [p.name for p in tmp_path.rglob("*")] == (["fit"] if empty else [])


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("file", ["config.yaml", "metrics.csv", "weights.safetensors"])
def test_a_file_cut_short_leaves_nothing(
    file: str, empty: bool, tmp_path: Path, limited: Callable[[int], None]
) -> None:
    """As before, where the disk takes a part of a file: the first that is longer than those written before it."""
    result = fit(ppvae.create("vae", x_dim=3, latent_dim=2, hidden=[40], likelihood="gaussian"))
    if file == "metrics.csv":
        result.history = 1000 * result.history
    result.save(tmp_path / "whole")
    size = {name: (tmp_path / "whole" / name).stat().st_size for name in FILES}
    shutil.rmtree(tmp_path / "whole")
    if empty:
        (tmp_path / "fit").mkdir()
    order = ["config.yaml", "metrics.csv", "weights.safetensors"]
    longest_before = max([0, *(size[name] for name in order[: order.index(file)])])
    assert longest_before < size[file]
    limited((longest_before + size[file]) // 2)
    message = refusal(lambda: result.save(tmp_path / "fit"))
    assert file in message
    assert "File too large" in message
    assert [p.name for p in tmp_path.rglob("*")] == (["fit"] if empty else [])


def test_an_option_that_is_no_plain_value_is_refused(tmp_path: Path) -> None:
    """The message names the option, and nothing is written."""
    result = fit(Widened(3, torch.ones(3)))
    assert "'scale'" in refusal(lambda: result.save(tmp_path / "fit"))
    assert not list(tmp_path.iterdir())


# Damage


def rewrite(saved: Path, change: Callable[[dict[str, Any]], object], name: str = "config.yaml") -> None:
    """Change one thing of the configuration, or of what came out."""
    content = yaml.safe_load((saved / name).read_text())
    change(content)
    (saved / name).write_text(yaml.safe_dump(content))


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(name: str, saved: Path) -> None:
    """The message names it."""
    (saved / name).unlink()
    assert name in refusal(lambda: ppvae.load(saved))


@pytest.mark.parametrize("place", ["nowhere", "fit/config.yaml"])
def test_no_saved_fit(place: str, saved: Path) -> None:
    """A path that does not exist, or is a file."""
    assert "is not a saved fit" in refusal(lambda: ppvae.load(saved.parent / place))


@pytest.mark.parametrize("schema", [0, 1, 3, "2", None])
def test_another_schema(schema: Any, saved: Path) -> None:
    """The message tells both versions."""
    rewrite(saved, lambda outcome: outcome.update(schema=schema), "fit.yaml")
    assert re.search(rf"fit\.yaml has schema {schema!r}.*reads 2", refusal(lambda: ppvae.load(saved)))


@pytest.mark.parametrize("name", ["config.yaml", "fit.yaml"])
def test_yaml_cut_short_at_any_line(name: str, saved: Path) -> None:
    """Either it is refused in one line or, cut among the versions, it is a shorter whole."""
    lines = (saved / name).read_text().splitlines(keepends=True)
    messages = []
    for count in range(len(lines)):
        (saved / name).write_text("".join(lines[:count]))
        try:
            again = ppvae.load(saved)
        except ppvae.PpvaeError as error:
            messages.append(str(error))
        else:
            assert same(again, _zoo())
            assert "versions:\n" in lines[:count]
    assert len(messages) > 0.8 * len(lines)
    assert not [message for message in messages if "\n" in message or str(saved) not in message]


def test_a_history_cut_short_anywhere(saved: Path) -> None:
    """Refused, or cut between two lines a shorter history: a number that lost digits is not taken for whole."""
    whole = (saved / "metrics.csv").read_text()
    assert len(_zoo().history) == 2
    for count in range(len(whole)):
        (saved / "metrics.csv").write_text(whole[:count])
        if whole[:count].endswith("\n"):
            assert ppvae.load(saved).history == _zoo().history[: whole[:count].count("\n") - 1]
        else:
            assert "metrics.csv" in refusal(lambda: ppvae.load(saved))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("step,", ""),
        ("step,", "steps,"),
        ("step,epoch", "epoch,step"),
        ("valid_bound", "valid_bound,more"),
        ("\n2,", "\ntwo,"),
        ("\n2,", "\n2.5,"),
        ("\n2,", "\n,"),
        ("\n2,", "\n2,2,"),
        ("\n2,", "\n"),
        ("\n2,", '\n"2,'),
        ("\n2,", "\n\n2,"),
    ],
    ids=str,
)
def test_a_damaged_history(old: str, new: str, saved: Path) -> None:
    """Of other columns, of words, of lines too long or too short: the message names the file."""
    whole = (saved / "metrics.csv").read_text()
    assert old in whole
    (saved / "metrics.csv").write_text(whole.replace(old, new, 1))
    assert "metrics.csv" in refusal(lambda: ppvae.load(saved))


@pytest.mark.parametrize("name", ["config.yaml", "fit.yaml"])
@pytest.mark.parametrize(
    "text", ["", "]", "- 1", "schema: 1", "schema: 1\nsettings: 3", "a: b: c", "\x00", "schema: 2026-99-99", "&a [*a]"]
)
def test_yaml_of_something_else(text: str, name: str, saved: Path) -> None:
    """Whatever stands there, the message names the place."""
    (saved / name).write_text(text)
    assert str(saved) in refusal(lambda: ppvae.load(saved))


@pytest.mark.parametrize("name", ["config.yaml", "fit.yaml", "metrics.csv"])
def test_bytes_that_are_no_text(name: str, saved: Path) -> None:
    """Of no encoding."""
    (saved / name).write_bytes(b"\xff\xfe\x00schema")
    assert "damaged" in refusal(lambda: ppvae.load(saved))


WRONG: list[tuple[tuple[str, ...], Any]] = [
    (("config.yaml", "name"), None),
    (("config.yaml", "name"), 3),
    (("config.yaml", "name"), "vea"),
    (("config.yaml", "data"), ["iris"]),
    (("config.yaml", "model"), None),
    (("config.yaml", "model"), [1]),
    (("config.yaml", "model", "latent_dim"), 0),
    (("config.yaml", "model", "x_dim"), None),
    (("config.yaml", "model", "colour"), "blue"),
    (("config.yaml", "inference"), "amortised"),
    (("config.yaml", "inference"), None),
    (("config.yaml", "inference_options"), {"lr": 1.0}),
    (("config.yaml", "precision"), 64),
    (("config.yaml", "objective"), "iwea"),
    (("config.yaml", "kl"), "exact"),
    (("config.yaml", "num_particles"), "many"),
    (("config.yaml", "seed"), -1),
    (("config.yaml", "colour"), "blue"),
    (("config.yaml", "own_encoder"), True),
    (("fit.yaml", "num_data"), "many"),
    (("fit.yaml", "num_data"), -3),
    (("fit.yaml", "event_shape"), "wide"),
    (("fit.yaml", "event_shape"), [2]),
    (("fit.yaml", "event_shape"), None),
    (("fit.yaml", "data"), 3),
    (("fit.yaml", "treatment"), None),
    (("fit.yaml", "stopped"), 7),
    (("fit.yaml", "stopped"), "boredom"),
    (("fit.yaml", "seconds"), "long"),
    (("fit.yaml", "seconds"), float("inf")),
    (("fit.yaml", "colour"), "blue"),
]


@pytest.mark.parametrize(("where", "value"), WRONG, ids=str)
def test_a_wrong_value(where: tuple[str, ...], value: Any, saved: Path) -> None:
    """Of a name, a number or a shape: one line, not a traceback out of torch, nor a number that means nothing."""

    def change(content: dict[str, Any]) -> None:
        for key in where[1:-1]:
            content = content[key]
        content[where[-1]] = value

    rewrite(saved, change, where[0])
    assert str(saved) in refusal(lambda: ppvae.load(saved))


OF_RUN = [name for name in Settings.options() if name not in ("inference", "inference_options")]
CONFIG_KEYS = ["name", "data", "inference", "model", "inference_options", *OF_RUN, "init", "versions"]
OUTCOME_KEYS = ["schema", "data", "treatment", "num_data", "event_shape", "preparation", "stopped", "seconds"]


def test_every_entry_is_listed_here(saved: Path) -> None:
    """So that none goes missing below unseen."""
    assert list(yaml.safe_load((saved / "config.yaml").read_text())) == CONFIG_KEYS
    assert list(yaml.safe_load((saved / "fit.yaml").read_text())) == OUTCOME_KEYS


#: what earlier runs do not have
LATER = ["lr_phi", "optimizer", "optimizer_options", "schedule", "schedule_options", "compile", "preparation"]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        *(("config.yaml", key) for key in CONFIG_KEYS if key not in LATER),
        *(("fit.yaml", key) for key in OUTCOME_KEYS if key not in LATER),
    ],
)
def test_a_missing_entry(name: str, key: str, saved: Path) -> None:
    """The message names it."""
    rewrite(saved, lambda content: content.pop(key), name)
    assert f"{key!r}" in refusal(lambda: ppvae.load(saved))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.5, 0.999])
def test_weights_cut_short(share: float, saved: Path) -> None:
    """Anywhere: in the length, in the header or in the numbers."""
    whole = (saved / "weights.safetensors").read_bytes()
    (saved / "weights.safetensors").write_bytes(whole[: int(share * len(whole))])
    assert "damaged" in refusal(lambda: ppvae.load(saved))


def test_weights_of_another_fit(saved: Path) -> None:
    """One tensor too few, too many, or of another shape."""
    tensors = load_file(saved / "weights.safetensors")
    name = next(iter(tensors))
    others = [
        {k: v for k, v in tensors.items() if k != name},
        {**tensors, "more": torch.ones(1)},
        {**tensors, name: torch.ones(9, 9)},
    ]
    for other in others:
        save_file(other, saved / "weights.safetensors")
        assert "does not fit the model" in refusal(lambda: ppvae.load(saved))


def test_a_model_that_is_none(saved: Path) -> None:
    """What stands in for the model must be one."""
    given: Any = nn.Linear(2, 2)
    assert "model" in refusal(lambda: ppvae.load(saved, model=given))


# Nothing is executed


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:pathlib.Path.touch",
        "!!python/object/new:pathlib.Path.touch",
        "!!python/object/apply:os.system",
    ],
)
@pytest.mark.parametrize("name", ["config.yaml", "fit.yaml"])
def test_python_tags_are_refused(name: str, tag: str, saved: Path) -> None:
    """YAML that asks for a call gets an error, and no call."""
    trap = saved.parent / "trap"
    text = (saved / name).read_text()
    argument = f"touch {trap}" if "system" in tag else str(trap)
    (saved / name).write_text(f"{text}\nextra: {tag} ['{argument}']\n")
    assert "damaged" in refusal(lambda: ppvae.load(saved))
    assert not trap.exists()


def test_a_pickle_in_place_of_weights_is_refused(saved: Path) -> None:
    """The bytes that torch.save writes are not read."""
    torch.save(load_file(saved / "weights.safetensors"), saved / "weights.safetensors")
    assert "damaged" in refusal(lambda: ppvae.load(saved))


def test_nothing_is_unpickled(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit loads with every unpickler taken away."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, fail)
    monkeypatch.setattr(torch, "load", fail)
    assert ppvae.load(saved).history == _zoo().history


@pytest.mark.parametrize("folder", ["ppvae", "models", "inference"])
def test_no_unpickler_is_named_in_the_library(folder: str) -> None:
    """Nor an unsafe YAML loader; NumPy files are read with allow_pickle=False, checkpoints with weights_only=True."""
    unsafe = re.compile(
        r"torch\.load\b(?!\((\w+, )*(\w+=[^,()]+, )*weights_only=True\))"
        r"|from torch import .*\bload\b"
        r"|\b(import|from) (pickle|dill|shelve)\b|allow_pickle=True|weights_only=False"
        r"|\bimport joblib\b|from joblib import .*\b(load|dump|Memory)\b"  # its processes are another matter
        r"|yaml\.(load|load_all|unsafe_load|full_load)\b|\b(Unsafe|Full)?Loader\b"
    )
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    assert not [f"{file}: {found.group()}" for file in files for found in unsafe.finditer(file.read_text())]


@pytest.mark.parametrize("made_in", [torch.float32, torch.float64])
@pytest.mark.parametrize("read_in", [torch.float32, torch.float64])
def test_weights_keep_their_precision(made_in: torch.dtype, read_in: torch.dtype, tmp_path: Path) -> None:
    """Whatever the default precision of the session that reads them; settings say which it is."""
    with default_precision(made_in):
        data = ppvae.load_data("iris")
        fit = ppvae.fit(ppvae.create("ppca", x_dim=4), data, epochs=2)
        fit.save(tmp_path / "fit")
        before = ppvae.log_marginal(fit, data.test, num_samples=20)
    assert fit.settings.precision == {torch.float32: "32-true", torch.float64: "64-true"}[made_in]
    with default_precision(read_in):
        again = ppvae.load(tmp_path / "fit")
        after = ppvae.log_marginal(again, data.test, num_samples=20)
    assert again.settings == fit.settings
    assert {name: t.dtype for name, t in again.weights().items()} == {n: t.dtype for n, t in fit.weights().items()}
    assert before.equals(after)
