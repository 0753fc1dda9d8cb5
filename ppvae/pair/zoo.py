"""Models by name, or by a user's own `file.py:Class`."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ppvae import require
from ppvae.catalogue import MODELS
from ppvae.data.dataset import Data
from ppvae.entry import entry
from ppvae.errors import PpvaeError
from ppvae.options import check_options, option_names
from ppvae.pair.model import Model
from ppvae.randomness import seeded


def list_models() -> list[str]:
    """Names of the registered models."""
    return MODELS.names()


def model_class(name: str) -> type[Model]:
    """The class of a zoo name or of path/to/file.py:ClassName."""
    if isinstance(name, str) and ":" in name:
        return _from_file(name)
    require.one_of("model", name, MODELS.names(), ", or path/to/file.py:ClassName")
    return MODELS[name]


def reference(cls: type[Model]) -> str | None:
    """The name by which `model_class` finds the class: a zoo name, or the file that it was read from; or None."""
    return MODELS.name_of(cls) or cls.__dict__.get("_reference")


@entry
def create(name: str, **options: Any) -> Model:
    """A model of the zoo (or of path/to/file.py:ClassName) by name.

    Raises:
        PpvaeError: an unknown name, an unknown option, or one that the model refuses.
    """
    return build(name, model_class(name), options)


def build(name: str, cls: type[Model], options: Mapping[str, Any]) -> Model:
    """A model of the class, which messages call by that name; raises PpvaeError as `create` does."""
    check_options(name, cls, options)
    try:
        return cls(**options)
    except PpvaeError:
        raise
    except Exception as error:
        raise PpvaeError(f"{name} cannot be made, {require.show(error)}: check its options") from error


@entry
def build_for(name: str, data: Data, options: Mapping[str, Any] | None = None, *, seed: int = 0) -> Model:
    """A model of the zoo (or of path/to/file.py:ClassName), built for the data; raises PpvaeError as `create` does.

    Args:
        options: of the model; where it has the options x_dim and likelihood and they are not given, those of the data.
        seed: of the initial weights.
    """
    cls = model_class(name)
    with seeded(seed, device=torch.device("cpu")):
        return build(name, cls, options_from_data(cls, data, options or {}))


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
    cls._reference = f"{file.resolve()}:{class_name}"  # so that a saved fit can load the class again
    return cls


def options_from_data(kind: type[Model], data: Data, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a model; where it has x_dim and likelihood and they are not given, they are those of the data."""
    known = option_names(kind)
    out = dict(options)
    size = math.prod(data.event_shape)
    if "x_dim" in known and out.setdefault("x_dim", size) != size:
        raise PpvaeError(
            f"x_dim is {require.show(out['x_dim'])}, and a datum of {data.name} has {size} numbers: remove x_dim"
        )
    if "likelihood" in known:
        out.setdefault("likelihood", data.likelihood)
    return out
