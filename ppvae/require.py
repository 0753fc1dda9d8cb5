"""One-line refusals of arguments out of range."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

from ppvae.errors import PpvaeError


def count(name: str, value: Any, least: int = 1) -> int:
    """A whole number ≥ least."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise PpvaeError(f"{name} must be a whole number ≥ {least}, got {value!r}")
    return value


def positive(name: str, value: Any, *, zero: bool = False) -> float:
    """A finite number > 0 (or ≥ 0)."""
    number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (value == 0 and not zero):
        raise PpvaeError(f"{name} must be a finite number {'≥' if zero else '>'} 0, got {value!r}")
    return float(value)


def one_of(name: str, value: Any, known: Iterable[str]) -> str:
    """One of the known names; a near miss is answered with a guess."""
    known = list(known)
    if isinstance(value, str) and value in known:
        return value
    guess = difflib.get_close_matches(str(value), known, 1)
    hint = f" (did you mean {guess[0]!r}?)" if guess else ""
    raise PpvaeError(f"unknown {name} {value!r}{hint}: known are {', '.join(known)}")


def sizes(name: str, value: Any) -> tuple[int, ...]:
    """One or more whole numbers ≥ 1."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value,)
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise PpvaeError(f"{name} must be a list of whole numbers ≥ 1, got {value!r}")
    out = tuple(value)
    if not out or any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in out):
        raise PpvaeError(f"{name} must be a list of whole numbers ≥ 1, got {list(out)!r}")
    return out
