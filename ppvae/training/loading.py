"""A fit read from its directory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ppvae import require
from ppvae.data.dataset import DataFacts
from ppvae.data.preparation import Preparation
from ppvae.entry import entry
from ppvae.errors import PpvaeError
from ppvae.options import check_options
from ppvae.pair.guide_family import set_family
from ppvae.pair.model import Model
from ppvae.pair.precision import default_precision, floating_dtypes, precision_of
from ppvae.pair.sharing import copied, shared_names
from ppvae.pair.zoo import create
from ppvae.randomness import forked
from ppvae.runs.files import as_folder
from ppvae.runs.folder import (
    CHECKPOINT,
    CONFIG,
    METRICS,
    OUTCOME,
    SCHEMA,
    WEIGHTS,
    data_arguments,
    first_words,
    is_finished,
    read_config,
    read_metrics,
)
from ppvae.training.fitted import Fit
from ppvae.training.settings import STRATEGY_ARGUMENTS, Settings, from_earlier
from ppvae.variational.strategy import strategy_class

#: entries of a configuration that are not settings
_BESIDE = ("name", "data", "data_seed", "treatment", "root", "num_train", "labels", "model", "own_encoder", "init")
_OF_OUTCOME = (
    "schema", "data", "treatment", "num_data", "event_shape", "preparation", "made_in", "stopped", "seconds",
)  # fmt: skip


@entry
def load(directory: str | os.PathLike[str], *, model: Model | None = None, encoder: nn.Module | None = None) -> Fit:
    """Read a fit that `Fit.save` or a finished run wrote.

    Args:
        directory: a saved fit.
        model: a new model of the same options, where its class is neither in the zoo nor in a file of its own.
        encoder: a module like the user's own encoder, where the fit has one; it is copied. Where it shared weights with
            the model, pass both, `model` and an encoder that shares the same weights with it: they stay shared. An
            encoder that the model itself makes, by `encoder()`, needs neither.

    Raises:
        PpvaeError: the directory is not a saved fit, is not finished, is damaged, or needs `model` or `encoder`.
    """
    source = as_folder(directory)
    if (source / CONFIG).is_file() and (source / CHECKPOINT).is_file() and not is_finished(source):
        raise PpvaeError(f"{source} is not finished: ppvae fit --resume {source} continues it")
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
        raise PpvaeError(f"{source} is damaged: {type(error).__name__}: {first_words(error)}") from error


def _read(source: Path, model: Model | None, encoder: nn.Module | None) -> Fit:
    config = from_earlier(read_config(source))
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
    check_entries(config)
    _refuse_invalid(config, outcome)
    origin = data_arguments(config) if config["data"] is not None else None
    shape, learned = tuple(outcome["event_shape"]), outcome.get("preparation")
    preparation = None if learned is None else Preparation.of(learned)  # earlier versions saved none
    data = DataFacts(outcome["data"], outcome["treatment"], outcome["num_data"], shape, origin, preparation)
    settings = Settings.of({name: config[name] for name in Settings.options()})
    options = dict(settings.inference_options) | ({} if encoder is None else {"encoder": encoder})
    settings = settings.replace(inference_options=options)
    ties = config.get("own_encoder")
    if encoder is not None and ties is True:  # it had weights of its own
        options = options | {"encoder": copied(encoder)[0]}
    strategy_type = strategy_class(settings.inference)
    check_options(settings.inference, strategy_type, options, STRATEGY_ARGUMENTS)
    tensors = load_file(source / WEIGHTS)
    made_in = outcome.get("made_in", "float32")
    of_model = floating_dtypes(tensor for name, tensor in tensors.items() if name.startswith("model."))
    if settings.precision != "64-true" and (of_model or floating_dtypes(tensors.values())) == {torch.float64}:
        # an earlier version wrote it, in a session whose default was double precision
        made_in, settings = "float64", settings.replace(precision="64-true")
    # all weights are read from the file; the initial ones are replaced
    with forked(torch.device("cpu")), default_precision(getattr(torch, made_in)):
        model = create(name, **model_options) if model is None else model
        if settings.precision == "64-true":
            model.double()
        x = torch.zeros((), dtype=precision_of(model)).expand(data.num_data, *data.event_shape)
        set_family(model, x, settings.family, settings.family_options)
        strategy = strategy_type(model, x, **options).to(x.dtype)
    if isinstance(ties, list) and shared_names(strategy, model) != ties:
        which = ", ".join(map(str, ties[:3])) + (", …" if len(ties) > 3 else "")
        raise PpvaeError(
            f"{source} was made with an encoder that shares {which} with the model: pass load(directory, model=model, "
            "encoder=YourEncoder(...)), where both share the same"
        )
    modules = nn.ModuleDict({"model": model, "strategy": strategy})
    for name, own in modules.state_dict(keep_vars=True).items():
        if name in tensors and own.is_floating_point() and own.dtype != tensors[name].dtype:
            own.data = own.data.to(tensors[name].dtype)
    try:
        modules.load_state_dict(tensors)
    except RuntimeError as error:
        raise PpvaeError(f"{source} does not fit the model: {first_words(error)}") from error
    _refuse_two_values(source, modules, tensors)
    modules.eval()
    history = read_metrics(source)
    return Fit(
        model,
        strategy,
        settings,
        data,
        config["init"],
        history,
        outcome["stopped"],
        outcome["seconds"],
        os.path.abspath(source),
        getattr(torch, made_in),
    )


def _refuse_two_values(source: Path, modules: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are one in the modules and two in the file."""
    first: dict[int, str] = {}
    for name, part in modules.state_dict(keep_vars=True).items():
        other = first.setdefault(id(part), name)
        if other == name or not {name, other} <= tensors.keys():
            continue
        if not torch.allclose(tensors[name], tensors[other], rtol=0, atol=0, equal_nan=True):
            raise PpvaeError(
                f"{source} does not fit the model, in which {other} and {name} are one: the fit has a value of each, "
                "so pass a model, or an encoder, where they are two"
            )


def check_entries(config: dict[str, Any]) -> None:
    """Refuse an unknown entry of the configuration of a fit."""
    for name in config:
        require.one_of(f"entry of {CONFIG}", name, (*_BESIDE, *Settings.options()))


def _refuse_invalid(config: dict[str, Any], outcome: dict[str, Any]) -> None:
    """Refuse unknown entries, and values that would fail only when they are used."""
    for name in outcome:
        require.one_of(f"entry of {OUTCOME}", name, _OF_OUTCOME)
    require.one_of("reason in stopped", outcome["stopped"], ("epochs", "steps", "seconds", "patience"))
    require.positive("seconds", outcome["seconds"], zero=True)
    require.one_of("made_in", outcome.get("made_in", "float32"), ("float16", "bfloat16", "float32", "float64"))
    for name, value in (("data", outcome["data"]), ("treatment", outcome["treatment"]), ("data", config["data"] or "")):
        if not isinstance(value, str):
            raise PpvaeError(f"{name} must be a word, got {require.show(value)}")
