"""Which fits a comparison is made of, and why some are refused before anything runs."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppvae import require
from ppvae.check import check
from ppvae.data import Data, load_data
from ppvae.errors import PpvaeError
from ppvae.families import FAMILIES
from ppvae.family import prepare
from ppvae.fitting import fit, start
from ppvae.model import Model
from ppvae.randomness import seeded
from ppvae.registry import (
    build,
    check_options,
    list_inference,
    main_inference,
    main_job,
    model_class,
    option_names,
    reference,
    strategy_class,
)
from ppvae.results import shown
from ppvae.sites import sample_sites

#: what `families` calls the model's own guide
OWN = "own"
Models = str | Sequence[str | type[Model]] | Mapping[str, Mapping[str, Any] | None]


@dataclass(frozen=True)
class Job:
    """One row to be made.

    `model` is what the results call it, `kind` its class, found once: a file edited meanwhile must not change later
    rows.
    """

    model: str
    kind: type[Model]
    inference: str
    seed: int
    data: Data
    model_options: Mapping[str, Any]
    fit_options: Mapping[str, Any]

    @property
    def how(self) -> str:
        """Strategy and family, as results show them."""
        return shown(self.inference, self.fit_options.get("family"))


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
        options = fill(kind, loaded[key], {**require.mapping("model_options", model_options), **own_options})
        chosen = _combinations(
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


def fill(kind: type[Model], data: Data, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a model, with x_dim and likelihood taken from the data where it has them and none is given."""
    known = option_names(kind)
    out = dict(options)
    size = math.prod(data.event_shape)
    if "x_dim" in known and out.setdefault("x_dim", size) != size:
        raise PpvaeError(
            f"x_dim is {require.show(out['x_dim'])}, and a datum of {data.name} has {size} numbers: leave x_dim out"
        )
    if "likelihood" in known:
        out.setdefault("likelihood", data.likelihood)
    return out


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


def _combinations(
    name: str,
    kind: type[Model],
    options: Mapping[str, Any],
    data: Data,
    strategies: list[str],
    families: list[str | None],
    own: Mapping[str, Mapping[str, Any]],
    fit_options: Mapping[str, Any],
    *,
    explicit: bool,
) -> list[tuple[str, str | None]]:
    """The strategies and families that go with each other, the model and the data.

    A strategy asked for by name that goes with none of the families is an error, and so is a family.
    """
    allowed: list[tuple[str, str | None]] = []
    refusals: dict[str, str] = {}
    for family in families:
        with seeded(0, device=data.train.device):
            model = build(name, kind, options)
            x = start(model, data)
        _refuse_unsound(name, model, data, x)
        prepare(model, x, family, fit_options.get("family_options"))  # type: ignore[arg-type]
        refused = {s: why for s in strategies if (why := _refusal(s, model, data, x, own.get(s, {})))}
        if len(refused) == len(strategies):
            raise PpvaeError(next(iter(refused.values())))
        refusals |= refused
        allowed += [(strategy, family) for strategy in strategies if strategy not in refused]
    for strategy, why in refusals.items():
        if (explicit or strategy in own) and all(strategy != s for s, _ in allowed):
            raise PpvaeError(why)
    return sorted(allowed, key=lambda pair: strategies.index(pair[0]))


def _refuse_unsound(name: str, model: Model, data: Data, x: Tensor) -> None:
    """A pair that `check` refuses; a density over real x, which cannot be ranked beside probabilities of bits."""
    x = data.draw(x[:7])
    check(model, x)
    if data.likelihood != "bernoulli":
        return
    with torch.no_grad(), seeded(0, device=x.device):
        sites = sample_sites(poutine.trace(model).get_trace(x))
    for site, message in sites.items():
        if message["is_observed"] and not message["fn"].support.is_discrete:
            raise PpvaeError(
                f"{name} gives site {site!r} a density over real numbers, and {data.name} ({data.treatment}) is "
                'binary: use a binary likelihood, or treatment="real"'
            )


def _refusal(strategy: str, model: Model, data: Data, x: Tensor, options: Mapping[str, Any]) -> str | None:
    """Why the strategy does not go with the model, the data or its options."""
    cls = strategy_class(strategy)
    if data.dynamic and cls.refuses_dynamic:
        return f"{strategy} keeps a row for each fixed datapoint: use a treatment other than dynamic"
    try:
        check_options(strategy, cls, options, skip=("self", "model", "x"))
        with seeded(0, device=x.device):
            cls(model, x[:2], **options).to(x.dtype)
    except PpvaeError as error:
        return str(error)
    return None
