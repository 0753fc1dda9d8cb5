"""A fit on disk: weights as safetensors, all else as plain YAML and CSV. No file is unpickled.

config.yaml          options that repeat the run: `ppvae fit --config config.yaml`
metrics.csv          its history
weights.safetensors  θ, and the encoder or the rows
fit.yaml             its outcome; written last, so that a folder without it is an unfinished run
"""

from __future__ import annotations

import csv
import os
import platform
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from ppvae.errors import PpvaeError
from ppvae.runs.files import as_folder, empty_directory, write_text, write_with

#: file of an unfinished run
CHECKPOINT = "checkpoint.pt"
CONFIG, METRICS, WEIGHTS, OUTCOME = "config.yaml", "metrics.csv", "weights.safetensors", "fit.yaml"
SCHEMA = 2
#: files and folders of a comparison
RESULTS, EVIDENCE, FITS, TUNING = "results.json", "evidence.nc", "fits", "tuning.json"


#: columns of the history; steps and epochs are whole numbers
_COLUMNS = ["step", "epoch", "seconds", "train_bound", "valid_bound"]
_WHOLE: dict[str, type] = {"step": int, "epoch": int}
#: name of an argument of `load_data` → its name in a configuration
CONFIG_NAMES = {"name": "data", "seed": "data_seed"}


def data_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `load_data` in a configuration."""
    names = ("name", "seed", "treatment", "root", "labels", "num_train")
    keys = {name: CONFIG_NAMES.get(name, name) for name in names}
    return {name: config[key] for name, key in keys.items() if config.get(key) is not None}


def write_config(directory: Path, command: str, config: dict[str, Any]) -> None:
    """Write config.yaml, with the command that reads it."""
    text = yaml.safe_dump({**config, "versions": versions()}, sort_keys=False, allow_unicode=True)
    write_text(directory / CONFIG, f"# repeat: ppvae {command} --config {CONFIG}\n{text}")


def read_config(directory: Path) -> dict[str, Any]:
    """The content of config.yaml, without the versions.

    Raises:
        PpvaeError: the file does not exist, or is not a mapping in YAML.
    """
    path = as_folder(directory) / CONFIG
    if not path.is_file():
        raise PpvaeError(f"{directory} is not a run: it has no {CONFIG}")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        config.pop("versions")
    except (yaml.YAMLError, OSError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise PpvaeError(f"{directory} is damaged: {CONFIG}: {type(error).__name__}: {first_words(error)}") from error
    return config


def versions() -> dict[str, str]:
    """The versions and the number of threads that the numbers of a run depend on."""
    known = {"ppvae": version("ppvae"), "torch": str(torch.__version__), "python": platform.python_version()}
    return known | {"threads": str(torch.get_num_threads())}


def write_metrics(directory: Path, history: list[dict[str, float]]) -> None:
    """Write metrics.csv, one line per evaluation."""
    text = StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(directory / METRICS, text.getvalue(), sync=False)


def read_metrics(directory: Path) -> list[dict[str, float]]:
    """The history in metrics.csv, to the last bit.

    Raises:
        PpvaeError: the file is missing or cut inside a line, or has other columns.
    """
    try:
        text = (directory / METRICS).read_text(encoding="utf-8")
        head, *rows = csv.reader(StringIO(text), strict=True)
        if head != _COLUMNS or not text.endswith("\n"):
            raise ValueError(f"it is not a complete table of {', '.join(_COLUMNS)}")
        return [
            {name: _WHOLE.get(name, float)(value) for name, value in zip(_COLUMNS, row, strict=True)} for row in rows
        ]
    except (OSError, ValueError, csv.Error) as error:
        raise PpvaeError(f"{directory} is damaged: {METRICS}: {first_words(error)}") from error


def write_outcome(
    directory: Path, history: list[dict[str, float]], weights: Mapping[str, Tensor], outcome: Mapping[str, Any]
) -> None:
    """Write the results of training: history, weights, and last the file that marks the run as finished."""
    write_metrics(directory, history)
    kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    write_with(directory / WEIGHTS, lambda scratch: save_file(kept, scratch))
    content = {"schema": SCHEMA, **{name: value for name, value in outcome.items() if value is not None}}
    # lists of numbers on few lines
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    write_text(directory / OUTCOME, text)


def write_fit(
    directory: str | os.PathLike[str],
    config: dict[str, Any],
    history: list[dict[str, float]],
    weights: Mapping[str, Tensor],
    outcome: Mapping[str, Any],
) -> None:
    """Write a fit into a directory that does not exist yet, or is empty; it is written completely or not at all.

    Raises:
        PpvaeError: the directory is not empty, or cannot be written.
    """
    target = empty_directory(directory)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
            whole = Path(scratch) / "fit"
            whole.mkdir()
            write_config(whole, "fit", config)
            write_outcome(whole, history, weights, outcome)
            if target.exists():  # it may be the current directory: fill it rather than replace it
                for name in (CONFIG, METRICS, WEIGHTS, OUTCOME):  # the last one marks it as finished
                    (whole / name).rename(target / name)
            else:
                whole.rename(target)
    except OSError as error:
        raise PpvaeError(f"cannot save to {target}, {error.strerror or error}: choose another folder") from error


def is_finished(directory: Path) -> bool:
    """Whether the directory holds a trained fit."""
    return (directory / OUTCOME).is_file()


def first_words(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
