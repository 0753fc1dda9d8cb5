"""Which fits a comparison is made of, and why some are refused before anything runs."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ppvae import require
from ppvae.catalogue import FAMILIES, MODELS, STRATEGIES
from ppvae.comparison.compatibility import combinations
from ppvae.comparison.job import Job
from ppvae.data.dataset import Data
from ppvae.data.loading import load_data
from ppvae.errors import PpvaeError
from ppvae.options import option_names
from ppvae.pair.model import Model
from ppvae.pair.zoo import model_class, options_from_data, reference
from ppvae.training.fitting import fit
from ppvae.variational.strategy import list_inference, strategy_class


def main_job() -> dict[str, Mapping[str, Any]]:
    """The models of `ppvae compare` without arguments, with their data and settings."""
    return {name: facts["compare"] for name in MODELS if (facts := MODELS.facts(name)).get("compare") is not None}


def main_inference() -> list[str]:
    """The strategies of `ppvae compare` without arguments."""
    return [name for name in STRATEGIES if STRATEGIES.facts(name).get("compare") is not None]


#: what `families` calls the model's own guide
OWN = "own"
Models = str | Sequence[str | type[Model]] | Mapping[str, Mapping[str, Any] | None]


def plan(
    models: Models | None,
    inference: Sequence[str] | str | None,
    data: str | os.PathLike | Data | None,
    seeds: Sequence[int] | int,
    families: Sequence[str] | str | None,
    *,
    treatment: str | None,
    root: str | os.PathLike | None,
    num_train: int | None,
    labels: str | int | None,
    model_options: Mapping[str, Any] | None,
    inference_options: Mapping[str, Any] | None,
    fit_options: Mapping[str, Any],
) -> list[Job]:
    """Every row to be made, with all that can be refused beforehand refused here."""
    entries = _entries(models)
    strategies = _names("inference", inference, main_inference() if models is None else list_inference())
    seeds = [require.count("seed", seed, least=0) for seed in (seeds if isinstance(seeds, Iterable) else [seeds])]
    _each_once("seeds", seeds)
    known = option_names_of_fit()
    for option in fit_options:
        require.one_of("option", option, known, ". Options of a model go into model_options")
    own = require.mapping("inference_options", inference_options)
    own = {name: require.mapping(f"inference_options of {name}", options) for name, options in own.items()}
    for name in [*strategies, *own]:
        strategy_class(name)
    loaded: dict[str, Data] = {}
    jobs = []
    for name, kind, own_options in entries:
        preset = dict(main_job().get(reference(kind) or "", {}))
        own_data = preset.pop("data", "digits")
        source = own_data if data is None else data
        key = source if isinstance(source, str) else str(id(source))
        if key not in loaded:
            loaded[key] = load_data(source, treatment=treatment, root=root, num_train=num_train, labels=labels)
        options = options_from_data(
            kind, loaded[key], {**require.mapping("model_options", model_options), **own_options}
        )
        chosen = combinations(
            name, kind, options, loaded[key], strategies, _families(families, fit_options), own, fit_options,
            explicit=inference is not None,
        )  # fmt: skip
        for strategy, family in chosen:
            settings = {**preset, **fit_options, "inference_options": own.get(strategy, {})}
            if family is not None:
                settings["family"] = family
            if "lr" not in option_names(strategy_class(strategy)):
                settings.pop("lr_phi", None)  # is for rows, and this strategy keeps none
            jobs += [Job(name, kind, strategy, seed, loaded[key], options, settings) for seed in seeds]
    if unused := own.keys() - {job.inference for job in jobs}:
        raise PpvaeError(f"inference_options has {sorted(unused)[0]!r}, which is not among the strategies compared")
    if fit_options.get("lr_phi") is not None and not any("lr_phi" in job.fit_options for job in jobs):
        raise PpvaeError("lr_phi is for rows of their own, which no strategy compared here keeps: leave it out")
    return jobs


def model_names(models: Any) -> list[str]:
    """The names of `models` in a command line or a YAML file that are names of classes."""
    if models is None:
        return list(main_job())
    if isinstance(models, Mapping):
        return [str((own or {}).get("model", name)) for name, own in models.items() if isinstance(own or {}, Mapping)]
    return [models] if isinstance(models, str) else [str(name) for name in models]


def option_names_of_fit() -> list[str]:
    """The arguments of `fit` that `compare` hands on."""
    taken = {"model", "data", "inference", "inference_options", "seed", "progress", "run_dir", "resume", "loggers"}
    return [name for name in inspect.signature(fit).parameters if name not in taken]


def _entries(models: Models | None) -> list[tuple[str, type[Model], dict[str, Any]]]:
    """(what results call it, class, own options) of each model asked for."""
    if models is None:
        models = list(main_job())
    if isinstance(models, str) or not isinstance(models, Iterable):
        models = _names("models", models, [])
    _each_once("models", list(models))
    entries = []
    for one in models:
        own: dict[str, Any] = {}
        if isinstance(models, Mapping) and isinstance(one, str):
            own = require.mapping(f"options of {one}", models[one])
        kind: Any = own.pop("model", one)
        if isinstance(kind, type) and issubclass(kind, Model):
            entries.append((one if isinstance(one, str) else kind.__name__, kind, own))
        else:
            entries.append((str(one), model_class(str(kind)), own))
    return entries


def _names(what: str, given: Sequence[str] | str | None, default: list[str]) -> list[str]:
    if given is None:
        return default
    if not isinstance(given, Iterable):
        raise PpvaeError(f"{what} must be names, got {require.show(given)}")
    names = [given] if isinstance(given, str) else list(given)
    _each_once(what, names)
    return names


def _each_once(what: str, given: list[Any]) -> None:
    if not given:
        raise PpvaeError(f"{what} is empty: name at least one")
    if repeated := [one for at, one in enumerate(given) if one in given[:at]]:
        raise PpvaeError(f"{what} names {require.show(repeated[0])} twice: name each once")


def _families(families: Sequence[str] | str | None, fit_options: Mapping[str, Any]) -> list[str | None]:
    """Names of families, None for the model's own guide."""
    if families is None:
        return [fit_options.get("family")]
    if fit_options.get("family") is not None:
        raise PpvaeError("family and families were both given: name every family in families")
    names = _names("families", families, [])
    return [None if require.one_of("family", name, (OWN, *FAMILIES)) == OWN else name for name in names]
