"""A fit on disk: weights as safetensors, everything else as plain YAML. Nothing is ever unpickled."""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ppvae.errors import PpvaeError
from ppvae.family import prepare
from ppvae.fitted import Fit, Settings
from ppvae.model import Model
from ppvae.randomness import forked
from ppvae.registry import check_options, create, reference, strategy_class

_CONFIG, _WEIGHTS = "config.yaml", "weights.safetensors"
_SCHEMA = 1


def save(fit: Fit, directory: str | os.PathLike) -> None:
    """Write a fit into a directory that does not exist yet, or is empty; it appears whole or not at all.

    Raises:
        PpvaeError: the directory holds something, or the model has an option that is no plain value.
    """
    target = Path(directory)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise PpvaeError(f"{target} exists and is not an empty folder: choose another place to save to")
    settings = asdict(fit.settings)
    encoder = settings["inference_options"].pop("encoder", None)
    config = {
        "schema": _SCHEMA,
        "model": {"name": reference(type(fit.model)), "options": _plain(fit.model.options, "model option")},
        "own_encoder": encoder is not None,
        "settings": _plain(settings, "setting"),
        "stopped": fit.stopped,
        "seconds": fit.seconds,
        "history": fit.history,
    }
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PpvaeError(f"cannot save to {target}, {error.strerror}: choose another folder") from error
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        whole = Path(scratch) / "fit"
        whole.mkdir()
        (whole / _CONFIG).write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
        save_file(_weights(fit.model, fit.strategy), whole / _WEIGHTS)
        if target.exists():  # it may be where the user stands: fill it, rather than put another in its place
            for part in whole.iterdir():
                part.rename(target / part.name)
        else:
            whole.rename(target)


def load(directory: str | os.PathLike, *, model: Model | None = None, encoder: nn.Module | None = None) -> Fit:
    """Read what `Fit.save` wrote.

    Args:
        directory: a saved fit.
        model: a fresh model of the same options, where the class is neither in the zoo nor in a file of its own.
        encoder: the user's own encoder module, where the fit had one.

    Raises:
        PpvaeError: the directory is no saved fit, is damaged, or needs `model` or `encoder`.
    """
    source = Path(directory)
    for name in (_CONFIG, _WEIGHTS):
        if not (source / name).is_file():
            raise PpvaeError(f"{source} is not a saved fit: it has no {name}")
    if model is not None and not isinstance(model, Model):
        raise PpvaeError(f"model must be a ppvae.Model, got {type(model).__name__}")
    try:
        return _read(source, model, encoder)
    except PpvaeError:
        raise
    except (yaml.YAMLError, SafetensorError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError,
            RuntimeError) as error:  # fmt: skip
        raise PpvaeError(
            f"{source} is damaged: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from error


def _read(source: Path, model: Model | None, encoder: nn.Module | None) -> Fit:
    config = yaml.safe_load((source / _CONFIG).read_text(encoding="utf-8"))
    if config["schema"] != _SCHEMA:
        raise PpvaeError(f"{source / _CONFIG} has schema {config['schema']!r}, this version reads {_SCHEMA}")
    settings = Settings(**config["settings"])
    tensors = load_file(source / _WEIGHTS)
    name, model_options = config["model"]["name"], config["model"]["options"]
    if model is None and name is None:
        raise PpvaeError(f"{source} was made with a class outside the zoo: pass load(directory, model=YourModel(...))")
    if config["own_encoder"] and encoder is None:
        raise PpvaeError(
            f"{source} was made with an encoder of your own: pass load(directory, encoder=YourEncoder(...))"
        )
    options = dict(settings.inference_options) | ({} if encoder is None else {"encoder": encoder})
    strategy_type = strategy_class(settings.inference)
    check_options(settings.inference, strategy_type, options, skip=("self", "model", "x"))
    with forked(torch.device("cpu")):  # every number is read from the file, none of the fresh ones stays
        model = create(name, **model_options) if model is None else model
        x = torch.zeros(()).expand(settings.num_data, *settings.event_shape)
        prepare(model, x)
        strategy = strategy_type(model, x, **options)
    settings.inference_options = options
    modules = nn.ModuleDict({"model": model, "strategy": strategy})
    if settings.precision == "64-true":
        modules.double()
    try:
        modules.load_state_dict(tensors)
    except RuntimeError as error:
        raise PpvaeError(f"{source} does not fit the model: {' '.join(str(error).split())[:300]}") from error
    modules.eval()
    return Fit(model, strategy, settings, config["history"], config["stopped"], config["seconds"])


def _weights(model: Model, strategy: nn.Module) -> dict[str, torch.Tensor]:
    state = nn.ModuleDict({"model": model, "strategy": strategy}).state_dict()
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}


def _plain(value: Any, what: str) -> Any:
    """The value in terms of what YAML holds."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(v, what) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v, f"{what} {k!r}") for k, v in value.items()}
    raise PpvaeError(
        f"{what} is a {type(value).__name__}, which cannot be saved as plain YAML: use numbers, words and lists"
    )
