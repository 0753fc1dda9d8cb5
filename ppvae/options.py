"""Options of constructors."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from ppvae import require
from ppvae.errors import PpvaeError


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
