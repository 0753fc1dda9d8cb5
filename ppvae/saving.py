"""A fit on disk: weights as safetensors, everything else as plain YAML and CSV. Nothing is ever unpickled.

config.yaml          what repeats the run: `ppvae fit --config config.yaml`
metrics.csv          its history
weights.safetensors  θ, and the encoder or the rows
fit.yaml             what came out; written last, so that a folder without it is an unfinished run
"""

from __future__ import annotations

import csv
import os
import platform
import tempfile
from dataclasses import asdict, fields
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ppvae import require
from ppvae.errors import PpvaeError
from ppvae.family import prepare
from ppvae.files import as_folder, free_directory, replacing, write_text
from ppvae.fitted import PRECISIONS, Fit, Settings
from ppvae.model import Model
from ppvae.randomness import forked
from ppvae.registry import check_options, create, reference, strategy_class

#: of an unfinished run alone
CHECKPOINT = "checkpoint.pt"
CONFIG, METRICS, WEIGHTS, OUTCOME = "config.yaml", "metrics.csv", "weights.safetensors", "fit.yaml"
SCHEMA = 2
#: settings that are no options of a run but come with its data
_OF_DATA = ("data", "treatment", "source", "num_data", "event_shape")
#: of the history; steps and epochs are whole
_COLUMNS = ["step", "epoch", "seconds", "train_bound", "valid_bound"]
_WHOLE: dict[str, type] = {"step": int, "epoch": int}
#: what `load_data` calls an argument → what a configuration calls it
_NAMES = {"name": "data", "seed": "data_seed"}
#: what else a configuration may hold
_OF_RECIPE = ("name", "data", "data_seed", "treatment", "root", "num_train", "labels", "model", "own_encoder")
_OF_OUTCOME = ("schema", "data", "treatment", "num_data", "event_shape", "stopped", "seconds")


def save(fit: Fit, directory: str | os.PathLike[str]) -> None:
    """Write a fit into a directory that does not exist yet, or is empty; it appears whole or not at all.

    Raises:
        PpvaeError: the directory holds something, or the model has an option that is no plain value.
    """
    target = free_directory(directory)
    config = recipe(fit)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
            whole = Path(scratch) / "fit"
            whole.mkdir()
            write_config(whole, "fit", config)
            write_outcome(whole, fit)
            if target.exists():  # it may be where the user stands: fill it, rather than put another in its place
                for name in (CONFIG, METRICS, WEIGHTS, OUTCOME):  # in an order that ends with what says "finished"
                    (whole / name).rename(target / name)
            else:
                whole.rename(target)
    except OSError as error:
        raise PpvaeError(f"cannot save to {target}, {error.strerror or error}: choose another folder") from error


def recipe(fit: Fit) -> dict[str, Any]:
    """What repeats the run, in the words of the command line; the data are null where they were made in Python."""
    settings = asdict(fit.settings)
    source = settings["source"] or {}
    options = dict(settings["inference_options"])
    encoder = options.pop("encoder", None)
    config = {
        "name": reference(type(fit.model)),
        "data": None,
        **{_NAMES.get(name, name): value for name, value in source.items()},
        "inference": settings["inference"],
        "model": plain(fit.model.options, "model option"),
        "inference_options": plain(options, "setting"),
    }
    config |= {name: plain(value, name) for name, value in settings.items() if name not in (*config, *_OF_DATA)}
    return config | ({} if encoder is None else {"own_encoder": True})


def data_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `load_data` in a configuration."""
    names = ("name", "seed", "treatment", "root", "labels", "num_train")
    keys = {name: _NAMES.get(name, name) for name in names}
    return {name: config[key] for name, key in keys.items() if config.get(key) is not None}


def write_config(directory: Path, command: str, config: dict[str, Any]) -> None:
    """config.yaml, with the command that takes it."""
    text = yaml.safe_dump({**config, "versions": versions()}, sort_keys=False, allow_unicode=True)
    write_text(directory / CONFIG, f"# repeat: ppvae {command} --config {CONFIG}\n{text}")


def read_config(directory: Path) -> dict[str, Any]:
    """config.yaml, the versions left out.

    Raises:
        PpvaeError: there is none, or it is no mapping in YAML.
    """
    path = as_folder(directory) / CONFIG
    if not path.is_file():
        raise PpvaeError(f"{directory} is not a run: it has no {CONFIG}")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        config.pop("versions")
    except (yaml.YAMLError, OSError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise PpvaeError(f"{directory} is damaged: {CONFIG}: {type(error).__name__}: {_line(error)}") from error
    return config


def read_fit_config(directory: Path) -> dict[str, Any]:
    """config.yaml of a fit, and what earlier versions did not write there."""
    return {"compile": False} | read_config(directory)


def versions() -> dict[str, str]:
    """Of what the numbers of a run depend on."""
    import ppvae

    found = {"ppvae": ppvae.__version__, "torch": str(torch.__version__), "python": platform.python_version()}
    return found | {"threads": str(torch.get_num_threads())}


def write_metrics(directory: Path, history: list[dict[str, float]]) -> None:
    """metrics.csv: a line an evaluation."""
    text = StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(directory / METRICS, text.getvalue(), sync=False)


def read_metrics(directory: Path) -> list[dict[str, float]]:
    """The history in metrics.csv, to the last bit.

    Raises:
        PpvaeError: it is missing, cut inside a line, or no table of these columns.
    """
    try:
        text = (directory / METRICS).read_text(encoding="utf-8")
        head, *rows = csv.reader(StringIO(text), strict=True)
        if head != _COLUMNS or not text.endswith("\n"):
            raise ValueError(f"no whole table of {', '.join(_COLUMNS)}")
        return [
            {name: _WHOLE.get(name, float)(value) for name, value in zip(_COLUMNS, row, strict=True)} for row in rows
        ]
    except (OSError, ValueError, csv.Error) as error:
        raise PpvaeError(f"{directory} is damaged: {METRICS}: {_line(error)}") from error


def write_outcome(directory: Path, fit: Fit) -> None:
    """All that training leaves: history, weights, and last what says that it is finished."""
    settings = fit.settings
    write_metrics(directory, fit.history)
    state = nn.ModuleDict({"model": fit.model, "strategy": fit.strategy}).state_dict()
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    with replacing(directory / WEIGHTS) as scratch:
        save_file(weights, scratch)
    outcome = {
        "schema": SCHEMA,
        "data": settings.data,
        "treatment": settings.treatment,
        "num_data": settings.num_data,
        "event_shape": settings.event_shape,
        "stopped": fit.stopped,
        "seconds": fit.seconds,
    }
    write_text(directory / OUTCOME, yaml.safe_dump(outcome, sort_keys=False, allow_unicode=True))


def is_finished(directory: Path) -> bool:
    """Whether the directory holds a trained fit."""
    return (directory / OUTCOME).is_file()


def load(directory: str | os.PathLike[str], *, model: Model | None = None, encoder: nn.Module | None = None) -> Fit:
    """Read what `Fit.save`, or a run that has finished, wrote.

    Args:
        directory: a saved fit.
        model: a fresh model of the same options, where the class is neither in the zoo nor in a file of its own.
        encoder: the user's own encoder module, where the fit had one.

    Raises:
        PpvaeError: the directory is no saved fit, is not finished, is damaged, or needs `model` or `encoder`.
    """
    source = as_folder(directory)
    if (source / CONFIG).is_file() and (source / CHECKPOINT).is_file() and not is_finished(source):
        raise PpvaeError(f"{source} is not finished: ppvae fit --resume {source} goes on with it")
    for name in (CONFIG, OUTCOME, WEIGHTS, METRICS):
        if not (source / name).is_file():
            raise PpvaeError(f"{source} is not a saved fit: it has no {name}")
    if model is not None and not isinstance(model, Model):
        raise PpvaeError(f"model must be a ppvae.Model, got {type(model).__name__}")
    try:
        return _read(source, model, encoder)
    except PpvaeError as error:
        if str(source) in str(error):
            raise
        raise PpvaeError(f"{source}: {error}") from error
    except (yaml.YAMLError, SafetensorError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError,
            RuntimeError, OSError) as error:  # fmt: skip
        raise PpvaeError(f"{source} is damaged: {type(error).__name__}: {_line(error)}") from error


def _read(source: Path, model: Model | None, encoder: nn.Module | None) -> Fit:
    config = read_fit_config(source)
    outcome = yaml.safe_load((source / OUTCOME).read_text(encoding="utf-8"))
    if outcome["schema"] != SCHEMA:
        raise PpvaeError(f"{source / OUTCOME} has schema {outcome['schema']!r}, this version reads {SCHEMA}")
    name, model_options = config["name"], config["model"]
    if model is None and name is None:
        raise PpvaeError(f"{source} was made with a class outside the zoo: pass load(directory, model=YourModel(...))")
    if config.get("own_encoder") and encoder is None:
        raise PpvaeError(
            f"{source} was made with an encoder of your own: pass load(directory, encoder=YourEncoder(...))"
        )
    of_data = {key: outcome[key] for key in _OF_DATA if key != "source"}
    of_run = {field.name: config[field.name] for field in fields(Settings) if field.name not in _OF_DATA}
    origin = data_arguments(config) if config["data"] is not None else None
    settings = Settings(**of_run, **of_data, source=origin)
    _refuse_odd(config, outcome)
    options = dict(settings.inference_options) | ({} if encoder is None else {"encoder": encoder})
    strategy_type = strategy_class(settings.inference)
    check_options(settings.inference, strategy_type, options, skip=("self", "model", "x"))
    tensors = load_file(source / WEIGHTS)
    with forked(torch.device("cpu")):  # every number is read from the file, none of the fresh ones stays
        model = create(name, **model_options) if model is None else model
        x = torch.zeros(()).expand(settings.num_data, *settings.event_shape)
        prepare(model, x, settings.family, settings.family_options)
        strategy = strategy_type(model, x, **options)
    settings.inference_options = options
    modules = nn.ModuleDict({"model": model, "strategy": strategy})
    if settings.precision == "64-true":
        modules.double()
    try:
        modules.load_state_dict(tensors)
    except RuntimeError as error:
        raise PpvaeError(f"{source} does not fit the model: {_line(error)}") from error
    modules.eval()
    history = read_metrics(source)
    fitted = Fit(model, strategy, settings, history, outcome["stopped"], outcome["seconds"], os.path.abspath(source))
    fitted.estimator()  # refuses one that there is not
    return fitted


def check_entries(config: dict[str, Any]) -> None:
    """Refuse an entry that no fit has in its configuration."""
    of_run = [field.name for field in fields(Settings) if field.name not in _OF_DATA]
    for entry in config:
        require.one_of(f"entry of {CONFIG}", entry, (*_OF_RECIPE, *of_run))


def _refuse_odd(config: dict[str, Any], outcome: dict[str, Any]) -> None:
    """Entries that no run has, and values that would not be missed before they are used."""
    check_entries(config)
    for entry in outcome:
        require.one_of(f"entry of {OUTCOME}", entry, _OF_OUTCOME)
    require.count("num_particles", config["num_particles"])
    require.count("seed", config["seed"], least=0)
    require.one_of("precision", config["precision"], PRECISIONS)
    require.one_of("reason in stopped", outcome["stopped"], ("epochs", "steps", "seconds", "patience"))
    require.positive("seconds", outcome["seconds"], zero=True)
    for name, value in (("data", outcome["data"]), ("treatment", outcome["treatment"]), ("data", config["data"] or "")):
        if not isinstance(value, str):
            raise PpvaeError(f"{name} must be a word, got {require.show(value)}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def plain(value: Any, what: str) -> Any:
    """The value in terms of what YAML holds."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [plain(v, what) for v in value]
    if isinstance(value, dict):
        return {str(k): plain(v, f"{what} {k!r}") for k, v in value.items()}
    raise PpvaeError(
        f"{what} is a {type(value).__name__}, which cannot be saved as plain YAML: use numbers, words and lists"
    )
