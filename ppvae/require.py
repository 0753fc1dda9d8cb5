"""One-line refusals of arguments out of range."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from ppvae.errors import PpvaeError

#: types that a list may have
_LISTS = (list, tuple, Sequence)


def number(
    name: str,
    value: Any,
    *,
    whole: bool = False,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
) -> int | float:
    """A finite number, or a whole one, within its bounds."""
    bounds = {"≥": at_least, ">": above, "≤": at_most}
    if not _is_number(value, whole) or not _is_within(value, at_least, above, at_most):
        limits = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds.items() if bound is not None)
        kind = " ".join(["a whole number" if whole else "a finite number", *([limits] if limits else [])])
        raise PpvaeError(f"{name} must be {kind}, got {show(value)}")
    return int(value) if whole else float(value)


def _is_number(value: Any, whole: bool) -> bool:
    try:
        return isinstance(value, Integral if whole else Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return whole


def _is_within(value: Any, at_least: float | None, above: float | None, at_most: float | None) -> bool:
    return (
        (at_least is None or value >= at_least)
        and (above is None or value > above)
        and (at_most is None or value <= at_most)
    )


def count(name: str, value: Any, least: int = 1) -> int:
    """A whole number ≥ least."""
    return int(number(name, value, whole=True, at_least=least))


def positive(name: str, value: Any, *, zero: bool = False) -> float:
    """A finite number > 0 (or ≥ 0)."""
    return number(name, value, at_least=0) if zero else number(name, value, above=0)


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
    """The text, cut off after `most` characters."""
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


def typed(
    name: str,
    value: Any,
    hint: Any,
    *,
    known: Callable[[], Iterable[str] | None] = lambda: None,
    called: str | None = None,
    bounds: Mapping[str, float] | None = None,
) -> Any:
    """A value of the type that an annotation names.

    Args:
        name: what messages call it.
        value: to be checked; a list becomes the list or the tuple that the annotation names.
        hint: of numbers, words, `Literal`, classes, `list`, `tuple` and `dict` of these, and several with `|`.
        known: gives the words that it takes, or None for any.
        called: what messages call one element of a list, or one name of a mapping.
        bounds: of numbers, as `number` has them.
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if value is None and NoneType in kinds:
        return None
    kinds = [kind for kind in kinds if kind is not NoneType]
    kind = kinds[0] if len(kinds) == 1 else next((kind for kind in kinds if _has_form(value, kind)), None)
    if kind is None:
        raise PpvaeError(f"{name} must be {' or '.join(map(in_words, kinds))}, got {show(value)}")
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin is Literal:
        return one_of(name, value, inner)
    if kind is bool:
        return flag(name, value)
    if kind in (int, float):
        return number(name, value, whole=kind is int, **(bounds or {}))
    if kind is str and (words := known()) is not None:
        return one_of(name, value, words)
    if origin in (dict, Mapping):
        value = mapping(name, value)
        for key in value:
            if (words := known()) is not None:
                one_of(called or name, key, words)
            elif not isinstance(key, str):
                raise PpvaeError(f"the names in {name} must be words, got {show(key)}")
        return {key: typed(f"{name} of {key}", v, inner[1] if inner else Any) for key, v in value.items()}
    if not _has_form(value, kind):
        raise PpvaeError(f"{name} must be {in_words(kind)}, got {show(value)}")
    if origin not in _LISTS:
        return value
    values: list[Any] = list(value)  # pyright: ignore[reportArgumentType]
    if _is_fixed(kind) and len(values) != len(inner):
        raise PpvaeError(f"{name} must be {in_words(kind)}, got {show(value)}")
    hints = inner if _is_fixed(kind) else [inner[0] if inner else Any] * len(values)
    of_each: dict[str, Any] = {"known": known, "called": called, "bounds": bounds}
    out = [typed(called or name, v, hint, **of_each) for v, hint in zip(values, hints, strict=True)]
    return tuple(out) if origin is tuple else out


def in_words(kind: Any) -> str:
    """The type as messages name it."""
    words = {int: "a whole number", float: "a number", str: "a word", bool: "True or False"}
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin in (dict, Mapping):
        return "a mapping"
    if origin not in _LISTS:
        return words.get(kind, f"a {getattr(kind, '__name__', kind)}")
    if _is_fixed(kind):
        return f"a list of {' and '.join(map(in_words, inner))}"
    return f"a list, each {in_words(inner[0])}" if inner and inner[0] is not Any else "a list"


def _is_fixed(kind: Any) -> bool:
    """Whether the type is that of a tuple of fixed length."""
    return get_origin(kind) is tuple and get_args(kind)[-1] is not ...


def _has_form(value: Any, kind: Any) -> bool:
    """Whether the value has the form of that type, whatever it holds."""
    origin = get_origin(kind) or kind
    if origin is Any:
        return True
    if origin is Literal:
        return any(type(value) is type(word) for word in get_args(kind))
    if origin in (int, float):
        return isinstance(value, Integral if origin is int else Real) and not isinstance(value, bool)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping)
    if origin in _LISTS:
        return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
    return isinstance(value, origin)
