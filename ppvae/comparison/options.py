"""The options of a comparison and of an evaluation, for Python, the command line and YAML."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Self

from ppvae import catalogue, require
from ppvae.data.options import DataOptions
from ppvae.errors import PpvaeError
from ppvae.options import Options, check_names, option, plain
from ppvae.training.settings import OptimiserSettings, Settings, check_inference_options, from_earlier

#: the name of the model's own guide in `families`
OWN = "own"
#: tries, for each datum, one method after the other until its weights pass
AUTO = "auto"


class JudgeOptions(Options):
    """How a fit is judged."""

    num_samples: int = option(1000, "draws for each datum", at_least=1)
    method: str = option(
        AUTO,
        "how log p(x) is estimated: auto tries, for each datum, importance sampling, then refined, Laplace and "
        "annealed proposals until the weights pass; a name of `ppvae list` is one method for all data",
        one_of=lambda: (AUTO, *catalogue.METHODS.names()),
    )
    method_options: dict[str, Any] = option({}, 'options of the method, such as {"max_seconds": 30} for auto')
    num_test: int | None = option(None, "the number of test data that are judged, the first ones", at_least=1)
    num_gaps: int = option(
        0, "the number of test data for which the loss by the family and by the encoder (or rows) is measured",
        at_least=0,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method != AUTO:
            check_names(self.method, catalogue.METHODS.options(self.method) or self.method_options, self.method_options)


class CompareOptions(DataOptions, JudgeOptions):
    """What is compared: every model under every inference that applies, judged on the same test data."""

    elsewhere = ". Options of a model go into model_options"

    models: Any = option(
        None,
        "names of models, path/to/file.py:ClassName or classes, several or one; or a mapping from the name in results "
        'to its own options, with "model" for its name or class where that differs: {"vae": {"latent_dim": 5}, '
        '"large": {"model": "vae", "latent_dim": 50}}. Where None, the models that are registered with data for it',
    )
    inference: str | tuple[str, ...] | None = option(
        None,
        "names of strategies, several or one; where None, each that the model allows (without models: per-datapoint, "
        "amortized and exact)",
        one_of=lambda: catalogue.STRATEGIES.names(),
        called="inference",
    )
    families: str | tuple[str, ...] | None = option(
        None,
        f'names of families, or "{OWN}" for the guide of the model; each goes with every strategy that takes it. Where '
        "None, the guide of the model",
        one_of=lambda: (OWN, *catalogue.FAMILIES.names()),
        called="family",
    )
    data: str | Any | None = option(
        None,
        "the name of a data set, a .npy, .npz or .csv file, or in Python a `Data`; where None, the data that each "
        "model is registered with, else digits",
    )
    seeds: int | tuple[int, ...] = option(
        (0, 1, 2), "of initialisation, training and evaluation, several or one", at_least=0, called="seed"
    )
    model_options: dict[str, Any] = option({}, 'options of every model, such as {"latent_dim": 30}')
    inference_options: dict[str, dict[str, Any]] = option(
        {},
        'options of each strategy, such as {"per-datapoint": {"inner_steps": 5}}',
        one_of=lambda: catalogue.STRATEGIES.names(),
        called="inference",
    )
    fit: dict[str, Any] = option({}, "settings of every fit, such as {epochs: 50}: see `ppvae.Settings`")
    tune: bool = option(
        False, "choose the learning rates of each strategy first, on the validation bound, from a small grid"
    )
    tune_seconds: float = option(5.0, "seconds of training for each point of that grid", above=0)
    workers: int | None = option(
        None,
        "number of rows computed in parallel, each in a process of its own with one thread; 1 computes them in this "
        "process, one after another, with all threads. Numbers differ at most by rounding. Where None, 1; without "
        "models one for each core, at most 4",
        at_least=1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("models", "inference", "families", "seeds"):
            object.__setattr__(self, name, _each_once(name, getattr(self, name)))
        for model in self.models or ():
            if not isinstance(model, str | type):
                raise PpvaeError(f"models must be names or classes, got {require.show(model)}")
        for strategy, options in self.inference_options.items():
            check_inference_options(strategy, options)
        object.__setattr__(self, "fit", checked_fit(self.fit))
        if self.families is not None and self.fit.get("family") is not None:
            raise PpvaeError("family and families were both given: name every family in families")

    @classmethod
    def of(cls, given: Mapping[str, Any] | Options | None = None, /, **changes: Any) -> Self:
        """A list of options with some changes; a setting of a fit alone, such as epochs=5, goes into `fit`."""
        if isinstance(given, Mapping):
            given, changes = None, {**given, **changes}
        alone = {
            name: value for name, value in changes.items() if name in Settings.options() and name not in cls.options()
        }
        if alone:
            before = changes.get("fit", given.fit if isinstance(given, CompareOptions) else {})
            changes = {name: value for name, value in changes.items() if name not in alone}
            changes["fit"] = {**require.mapping("fit", before), **alone}
        return super().of(changes) if given is None else super().of(given, **changes)

    @classmethod
    def refuse_unknown(cls, names: Iterable[Any]) -> None:
        for name in names:
            require.one_of("option", name, dict.fromkeys((*cls.options(), *of_fit())), cls.elsewhere)

    def plain(self) -> dict[str, Any]:
        """Every option in values that YAML holds; objects made in Python by their names."""
        return {name: plain(_word(value), name) for name, value in self.values().items()}


def of_fit() -> list[str]:
    """The settings that `fit` of a comparison may hold."""
    return [name for name in Settings.options() if name not in ("inference", "inference_options", "seed")]


def checked_fit(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The given settings of every fit of a comparison, checked.

    Raises:
        PpvaeError: an unknown name, an invalid value, or an option of the comparison itself.
    """
    if "seed" in settings:
        raise PpvaeError("fit has seed, and a comparison takes seeds: give seeds instead")
    for name in settings:
        if name in CompareOptions.options() and name not in (*of_fit(), "fit"):
            raise PpvaeError(f"fit has {name}, which is an option of the comparison itself: give {name} beside fit")
    for name in settings:
        require.one_of("option of fit", name, of_fit(), CompareOptions.elsewhere)
    of_rows = {name: value for name, value in settings.items() if name == "lr_phi"}  # not every strategy takes it
    checked = {
        **Settings.of({name: value for name, value in settings.items() if name not in of_rows}).values(),
        "lr_phi": OptimiserSettings.of(of_rows).lr_phi,
    }
    return {name: checked[name] for name in settings}


def from_earlier_comparison(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config.yaml of a comparison by this version or an earlier one, with the names of this one."""
    config = {"model_options" if name == "model" else name: value for name, value in from_earlier(config).items()}
    if isinstance(of_fit := config.get("fit"), Mapping):  # checkpoint_seconds changes no number
        config["fit"] = {name: value for name, value in of_fit.items() if name != "checkpoint_seconds"}
    return config


def _each_once(what: str, given: Any) -> Any:
    """One value or several as a tuple; a mapping and None do not change."""
    if given is None:
        return None
    if isinstance(given, str | type) or (what == "seeds" and isinstance(given, int)):
        given = (given,)
    if not isinstance(given, Iterable):
        raise PpvaeError(f"{what} must be names, got {require.show(given)}")
    values = given if isinstance(given, Mapping) else tuple(given)
    if not values:
        raise PpvaeError(f"{what} is empty: name at least one")
    if repeated := [one for at, one in enumerate(values) if one in list(values)[:at]]:
        raise PpvaeError(f"{what} names {require.show(repeated[0])} twice: name each once")
    if isinstance(values, Mapping):
        return {name: require.mapping(f"options of {name}", options) for name, options in values.items()}
    return values


def _word(value: Any) -> Any:
    """The name of a class, of data or of a module made in Python; other values do not change."""
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, Mapping):
        return {str(name): _word(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_word(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float | str | os.PathLike):
        return value
    name = getattr(value, "name", None)
    return name if isinstance(name, str) else type(value).__name__
