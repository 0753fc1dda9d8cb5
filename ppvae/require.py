"""One-line refusals of arguments out of range."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from ppvae.errors import PpvaeError


def count(name: str, value: Any, least: int = 1) -> int:
    """A whole number ≥ least."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise PpvaeError(f"{name} must be a whole number ≥ {least}, got {show(value)}")
    return int(value)


def positive(name: str, value: Any, *, zero: bool = False) -> float:
    """A finite number > 0 (or ≥ 0)."""
    try:
        number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        number = False
    if not number or value < 0 or (value == 0 and not zero):
        raise PpvaeError(f"{name} must be a finite number {'≥' if zero else '>'} 0, got {show(value)}")
    return float(value)


def flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise PpvaeError(f"{name} must be True or False, got {show(value)}")
    return value


def one_of(name: str, value: Any, known: Iterable[str], more: str = "") -> str:
    """One of the known names; a near miss is answered with a guess. `more` says what else would do."""
    known = list(known)
    if isinstance(value, str) and value in known:
        return value
    guess = difflib.get_close_matches(value.lower(), known, 1) if isinstance(value, str) else []
    hint = f"did you mean {guess[0]!r}? " if guess else ""
    raise PpvaeError(f"unknown {name} {show(value)}: {hint}known: {shorten(', '.join(known)) or 'none'}{more}")


def mapping(name: str, value: Any) -> dict[str, Any]:
    """Names of options with their values; None is none."""
    if value is not None and not isinstance(value, Mapping):
        raise PpvaeError(f"{name} must be a mapping of options to values, got {show(value)}")
    return dict(value or {})


def show(value: Any) -> str:
    """The value on one line, however long its repr."""
    return shorten(" ".join(repr(value).split()), 80)


def shorten(text: str, most: int = 300) -> str:
    """The text, cut off after so many characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def sizes(name: str, value: Any) -> tuple[int, ...]:
    """One or more whole numbers ≥ 1."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value,)
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise PpvaeError(f"{name} must be a list of whole numbers ≥ 1, got {show(value)}")
    out = tuple(value)
    if not out or any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in out):
        raise PpvaeError(f"{name} must be a list of whole numbers ≥ 1, got {show(list(out))}")
    return out
