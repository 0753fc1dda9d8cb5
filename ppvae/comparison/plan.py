"""The fits of a comparison; invalid ones are refused before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ppvae.catalogue import MODELS, STRATEGIES
from ppvae.comparison.compatibility import combinations
from ppvae.comparison.job import Job
from ppvae.comparison.options import OWN, CompareOptions
from ppvae.data.dataset import Data
from ppvae.errors import PpvaeError
from ppvae.pair.model import Model
from ppvae.pair.zoo import model_class, options_from_data, reference
from ppvae.training.settings import Settings, takes_lr_phi


def main_job() -> dict[str, Mapping[str, Any]]:
    """The models of `ppvae compare` without arguments, with their data and settings."""
    return {name: facts["compare"] for name in MODELS if (facts := MODELS.facts(name)).get("compare") is not None}


def main_inference() -> list[str]:
    """The strategies of `ppvae compare` without arguments."""
    return [name for name in STRATEGIES if STRATEGIES.facts(name).get("compare") is not None]


def plan(options: CompareOptions) -> list[Job]:
    """Every row of a comparison; raises PpvaeError for all that can be refused before it runs."""
    entries = _entries(options.models)
    strategies = list(options.inference or (main_inference() if options.models is None else STRATEGIES.names()))
    families = [None if name == OWN else name for name in options.families or (options.fit.get("family"),)]
    own, loaded, jobs = options.inference_options, _Loaded(options), []
    for name, kind, own_options in entries:
        preset = dict(main_job().get(reference(kind) or "", {}))
        data = loaded(preset.pop("data", "digits"))
        model_options = options_from_data(kind, data, {**options.model_options, **own_options})
        given = {**preset, **options.fit}
        chosen = combinations(
            name, kind, model_options, data, strategies, families, own, given.get("family_options", {}),
            explicit=options.inference is not None,
        )  # fmt: skip
        for strategy, family in chosen:
            settings = given | {"inference": strategy, "inference_options": own.get(strategy, {}), "family": family}
            if not takes_lr_phi(strategy):
                settings.pop("lr_phi", None)
            if family is None:
                settings.pop("family_options", None)
            fixed = frozenset(given)
            each = (Settings.of(settings, seed=seed) for seed in options.seeds)  # type: ignore[union-attr]
            jobs += [Job(name, kind, model_options, data, of_seed, fixed) for of_seed in each]
    if unused := own.keys() - {job.settings.inference for job in jobs}:
        raise PpvaeError(f"inference_options has {sorted(unused)[0]!r}, which is not among the strategies compared")
    if options.fit.get("lr_phi") is not None and all(job.settings.lr_phi is None for job in jobs):
        raise PpvaeError("lr_phi is the learning rate of rows, which no strategy compared here keeps: remove lr_phi")
    return jobs


def model_names(models: Any) -> list[str]:
    """The names of `models` in a command line or a YAML file that are names of classes."""
    if models is None:
        return list(main_job())
    if isinstance(models, Mapping):
        return [str((own or {}).get("model", name)) for name, own in models.items() if isinstance(own or {}, Mapping)]
    return [models] if isinstance(models, str) else [str(name) for name in models]


class _Loaded:
    """Each data set of a comparison, loaded once."""

    def __init__(self, options: CompareOptions) -> None:
        self.options = options
        self.loaded: dict[str, Data] = {}

    def __call__(self, default: str) -> Data:
        source = default if self.options.data is None else self.options.data
        key = source if isinstance(source, str) else str(id(source))
        if key not in self.loaded:
            self.loaded[key] = self.options.replace(data=source).load()
        return self.loaded[key]


def _entries(models: Any) -> list[tuple[str, type[Model], dict[str, Any]]]:
    """(name in results, class, own options) of each model."""
    entries = []
    for one in main_job() if models is None else models:
        own = dict(models[one]) if isinstance(models, Mapping) else {}
        kind: Any = own.pop("model", one)
        if isinstance(kind, type) and issubclass(kind, Model):
            entries.append((one if isinstance(one, str) else kind.__name__, kind, own))
        else:
            entries.append((str(one), model_class(str(kind)), own))
    return entries
