"""The zoo: names of models and strategies, and a user's own `file.py:Class`."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ppvae import require
from ppvae.errors import PpvaeError
from ppvae.model import Model
from ppvae.strategy import Strategy

T = TypeVar("T", bound=type)
_ZOO: dict[str, type[Model] | type[Strategy]] = {}
_COMPARE: dict[str, Mapping[str, Any]] = {}


def register(name: str, *, compare: Mapping[str, Any] | None = None) -> Callable[[T], T]:
    """Class decorator: put a `Model` or a `Strategy` into the zoo under a name, and thereby under its tests.

    Args:
        name: what the zoo calls it.
        compare: makes a model or strategy part of `ppvae compare` without arguments: a model's "data", and the
            arguments of `fit` that suit it there; {} for a strategy.
    """

    def decorate(cls: T) -> T:
        if not issubclass(cls, (Model, Strategy)):
            raise PpvaeError(f"{cls.__name__} is neither a ppvae.Model nor a ppvae.Strategy")
        if name in _ZOO and _ZOO[name].__qualname__ != cls.__qualname__:
            raise PpvaeError(f"{name!r} is taken by {_ZOO[name].__qualname__}: register under another name")
        _ZOO[name] = cls
        if compare is not None:
            _COMPARE[name] = compare
        return cls

    return decorate


def list_models() -> list[str]:
    """Names of the registered models."""
    return sorted(name for name, cls in _ZOO.items() if issubclass(cls, Model))


def list_inference() -> list[str]:
    """Names of the registered strategies."""
    return sorted(name for name, cls in _ZOO.items() if issubclass(cls, Strategy))


def main_job() -> dict[str, Mapping[str, Any]]:
    """The models of `ppvae compare` without arguments, with their data and settings."""
    return {name: settings for name, settings in _COMPARE.items() if issubclass(_ZOO[name], Model)}


def main_inference() -> list[str]:
    """The strategies of `ppvae compare` without arguments."""
    return sorted(name for name in _COMPARE if issubclass(_ZOO[name], Strategy))


def model_class(name: str) -> type[Model]:
    """The class behind a zoo name or behind path/to/file.py:ClassName."""
    if isinstance(name, str) and ":" in name:
        return _from_file(name)
    cls = _ZOO[require.one_of("model", name, list_models(), ", or path/to/file.py:ClassName")]
    assert issubclass(cls, Model)
    return cls


def strategy_class(name: str) -> type[Strategy]:
    """The strategy behind a zoo name."""
    cls = _ZOO[require.one_of("inference", name, list_inference())]
    assert issubclass(cls, Strategy)
    return cls


def reference(cls: type[Model]) -> str | None:
    """What `model_class` finds the class by, or None: a zoo name, or the file that it was read from."""
    names = [name for name, known in _ZOO.items() if known is cls]
    return names[0] if names else cls.__dict__.get("_reference")


def create(name: str, **options: Any) -> Model:
    """A model of the zoo (or of path/to/file.py:ClassName) by name.

    Raises:
        PpvaeError: an unknown name, an unknown option, or one the model refuses.
    """
    return build(name, model_class(name), options)


def build(name: str, cls: type[Model], options: Mapping[str, Any]) -> Model:
    """A model of the class, which goes by that name; raises PpvaeError as `create` does."""
    check_options(name, cls, options)
    try:
        return cls(**options)
    except PpvaeError:
        raise
    except Exception as error:
        raise PpvaeError(f"{name} cannot be made, {require.show(error)}: check its options") from error


def option_names(cls: type, skip: Iterable[str] = ("self",)) -> dict[str, inspect.Parameter]:
    """The keyword options of a constructor."""
    parameters = inspect.signature(cls.__init__).parameters
    return {n: p for n, p in parameters.items() if n not in skip and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def check_options(name: str, cls: type, options: Mapping[str, Any], skip: Iterable[str] = ("self",)) -> None:
    """Refuse options that the constructor does not know, or that it needs and did not get."""
    known = option_names(cls, skip)
    for option in options:
        if option not in known:
            try:
                require.one_of("option", option, known)
            except PpvaeError as error:
                raise PpvaeError(f"{name}: {error}") from None
    if missing := [n for n, p in known.items() if p.default is p.empty and n not in options]:
        raise PpvaeError(f"{name} needs the option {missing[0]!r}")


def _from_file(reference: str) -> type[Model]:
    path, _, class_name = reference.rpartition(":")
    file = Path(path)
    if file.suffix != ".py" or not class_name.isidentifier():
        raise PpvaeError(f"{reference!r} is not of the form path/to/file.py:ClassName")
    if not file.is_file():
        raise PpvaeError(f"no such file: {path}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        first = str(error).splitlines()[0] if str(error) else ""
        raise PpvaeError(f"{path} does not import: {type(error).__name__}: {first}") from error
    cls = getattr(module, class_name, None)
    if not isinstance(cls, type) or not issubclass(cls, Model):
        there = [n for n, c in vars(module).items() if isinstance(c, type) and issubclass(c, Model) and c is not Model]
        raise PpvaeError(f"{path} has no ppvae.Model called {class_name!r}: it has {', '.join(there) or 'none'}")
    cls._reference = f"{file.resolve()}:{class_name}"  # so that a saved fit finds it again
    return cls
