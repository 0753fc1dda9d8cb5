"""Options: each is written once, with its default, its bounds and its text, and is read wherever it can be given.

A list of options is a class that extends `Options`. Python's `help`, the command line, YAML and the docs show the same
names, defaults and texts; a wrong value is refused where the list is made.
"""

from __future__ import annotations

import inspect
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from functools import cache
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform, get_type_hints

from ppvae import require
from ppvae.errors import PpvaeError

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Option:
    """One option of a list.

    Attributes:
        name: as Python, the command line and YAML write it.
        hint: the type that its annotation names.
        default, text, names, called: as `option` has them; `names` are those of one_of.
        bounds: at_least, above and at_most of a number.
    """

    name: str
    hint: Any
    default: Any
    text: str
    names: Iterable[str] | Callable[[], Iterable[str]] | None = None
    called: str | None = None
    bounds: Mapping[str, float] = field(default_factory=dict)

    def known(self) -> list[str] | None:
        """The words that it takes, or None."""
        names = self.names() if callable(self.names) else self.names
        return None if names is None else list(names)

    def checked(self, value: Any, name: str | None = None) -> Any:
        """The value in the type of the option; raises PpvaeError where it has another type or is out of bounds."""
        of: dict[str, Any] = {"known": self.known, "called": self.called, "bounds": self.bounds}
        return require.typed(name or self.name, value, self.hint, **of)


def option(
    default: Any,
    text: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    one_of: Iterable[str] | Callable[[], Iterable[str]] | None = None,
    called: str | None = None,
) -> Any:
    """An option of an `Options` class: its default, and the one text that explains it.

    Args:
        default: a value of the annotated type; a mapping or a list is copied for each instance.
        text: for `help`, `--help` and the docs.
        at_least, above, at_most: bounds of a number, or of each number of a list.
        one_of: the words that it takes, as the keys of a mapping, or as a function where they are known late.
        called: what messages call one element of a list, such as "seed" for seeds.
    """
    bounds = {"at_least": at_least, "above": above, "at_most": at_most}
    metadata = {
        "text": text,
        "names": one_of,
        "called": called,
        "bounds": {name: bound for name, bound in bounds.items() if bound is not None},
    }
    if isinstance(default, dict | list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass_transform(frozen_default=True, kw_only_default=True)
@dataclass(frozen=True, kw_only=True, repr=False)
class Options:
    """The base of every list of options: a frozen dataclass of keywords that checks itself.

    A class that extends it writes `name: type = option(default, text)`, and nothing more. What concerns several options
    is checked in `__post_init__`, which calls `super().__post_init__()` first.
    """

    #: where the refusal of an unknown name points to
    elsewhere: ClassVar[str] = ""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        dataclass(frozen=True, kw_only=True, repr=False)(cls)
        documented(cls)

    def __post_init__(self) -> None:
        for name, each in self.options().items():
            object.__setattr__(self, name, each.checked(getattr(self, name)))

    @classmethod
    def options(cls) -> dict[str, Option]:
        """Every option by its name, those of the first base first."""
        return _options(cls)

    @classmethod
    def of(cls, given: Mapping[str, Any] | Options | None = None, /, **changes: Any) -> Self:
        """A list of options with some changes.

        Args:
            given: one of this class, or names with their values; where None, the defaults.
            changes: of single options.

        Raises:
            PpvaeError: an unknown name, where the message gives the nearest one; a value that its option refuses.
        """
        if not (given is None or isinstance(given, Mapping | cls)):
            raise PpvaeError(f"{cls.__name__} takes a {cls.__name__} or a mapping, got {require.show(given)}")
        if isinstance(given, cls):
            cls.refuse_unknown(changes)
            return replace(given, **changes) if changes else given
        values = {**(given if isinstance(given, Mapping) else {}), **changes}
        cls.refuse_unknown(values)
        return cls(**values)

    @classmethod
    def refuse_unknown(cls, names: Iterable[Any]) -> None:
        """Refuse a name that is not an option of this list."""
        for name in names:
            require.one_of("option", name, cls.options(), cls.elsewhere)

    def replace(self, **changes: Any) -> Self:
        """The same with some changes."""
        return self.of(self, **changes)

    def values(self) -> dict[str, Any]:
        """Every option with its value."""
        return {name: getattr(self, name) for name in self.options()}

    def changed(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        values = self.values()
        return {name: values[name] for name, each in self.options().items() if not _same(values[name], each.default)}

    def plain(self) -> dict[str, Any]:
        """Every option in terms of what YAML holds.

        Raises:
            PpvaeError: a value that is not made of numbers, words, lists and mappings.
        """
        return {name: plain(value, name) for name, value in self.values().items()}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.changed().items())})"


def documented(cls: type[Options]) -> type[Options]:
    """The class with an "Args:" section, written from the texts of its options, and its signature in their order."""
    own = cls.__dict__.get("__doc__") or ""
    summary = f"Options: {', '.join(cls.options())}." if own.startswith(f"{cls.__name__}(") else inspect.cleandoc(own)
    cls.__doc__ = "\n".join([summary, "", "Args:", *_lines(cls.options().values())])
    cls.__signature__ = inspect.Signature(list(_parameters(cls).values()))  # pyright: ignore[reportAttributeAccessIssue]
    return cls


def with_options(cls: type[Options]) -> Callable[[F], F]:
    """Give a function with `**changes` the signature, the annotations and the docstring of the options of `cls`.

    An argument of its own that is an option too, such as one that may be given by position, takes its default, its
    type and its text from the option. The function itself is not wrapped.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        options, own = _parameters(cls), {}
        for name, parameter in signature.parameters.items():
            if parameter.kind is not parameter.VAR_KEYWORD:
                shared = options.pop(name, None)
                own[name] = parameter if shared is None else shared.replace(kind=parameter.kind)
        every = sorted([*own.values(), *options.values()], key=lambda parameter: parameter.kind)
        function.__signature__ = signature.replace(parameters=every)  # pyright: ignore[reportFunctionMemberAccess]
        function.__annotations__ |= {name: each.hint for name, each in cls.options().items()}
        function.__doc__ = _with_lines(function.__doc__, cls)
        return function

    return decorate


def given(**values: Any) -> dict[str, Any]:
    """The values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def plain(value: Any, what: str) -> Any:
    """The value in terms of what YAML holds; raises PpvaeError where it is of another kind."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [plain(v, what) for v in value]
    if isinstance(value, Mapping):
        return {str(k): plain(v, f"{what} {k!r}") for k, v in value.items()}
    raise PpvaeError(
        f"{what} is a {type(value).__name__}, which cannot be saved as plain YAML: use numbers, words and lists"
    )


def option_names(cls: type, skip: Iterable[str] = ("self",)) -> dict[str, inspect.Parameter]:
    """The keyword options of a constructor."""
    parameters = inspect.signature(cls.__init__).parameters
    return {n: p for n, p in parameters.items() if n not in skip and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def check_options(name: str, cls: type, options: Mapping[str, Any], skip: Iterable[str] = ("self",)) -> None:
    """Refuse options that the constructor does not know, or that it needs and did not get."""
    known = option_names(cls, skip)
    check_names(name, known, options)
    if missing := [n for n, p in known.items() if p.default is p.empty and n not in options]:
        raise PpvaeError(f"{name} needs the option {missing[0]!r}")


def check_names(name: str, known: Iterable[str], options: Iterable[str]) -> None:
    """Refuse options that an entry of that name does not know."""
    known = list(known)
    for each in options:
        try:
            require.one_of("option", each, known)
        except PpvaeError as error:
            raise PpvaeError(f"{name}: {error}") from None


# How a list is read


@cache
def _options(cls: type[Options]) -> dict[str, Option]:
    own = {each.name: each for each in fields(cls)}
    hints = get_type_hints(cls)
    names = [name for name in _in_order(cls) if name in own]
    return {name: Option(name, hints[name], _default(own[name]), **own[name].metadata) for name in names}


def _in_order(cls: type) -> dict[str, None]:
    """Names of fields: a dataclass of several bases would start with those of the last base."""
    names: dict[str, None] = {}
    for base in cls.__bases__:
        names |= _in_order(base) if issubclass(base, Options) else {}
    return names | dict.fromkeys(inspect.get_annotations(cls))


def _default(of: Field[Any]) -> Any:
    return of.default if of.default_factory is MISSING else of.default_factory()


def _parameters(cls: type[Options]) -> dict[str, inspect.Parameter]:
    keyword = inspect.Parameter.KEYWORD_ONLY
    return {
        name: inspect.Parameter(name, keyword, default=each.default, annotation=each.hint)
        for name, each in cls.options().items()
    }


def _same(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and bool(value == default))


def _lines(options: Iterable[Option]) -> list[str]:
    lines: list[str] = []
    for each in options:
        text = f"{each.name}: {each.text.removesuffix('.')}."
        lines += textwrap.wrap(text, 120, initial_indent=" " * 4, subsequent_indent=" " * 8, break_on_hyphens=False)
    return lines


def _with_lines(doc: str | None, cls: type[Options]) -> str | None:
    """The docstring with a line for each option that it does not explain itself, in place of its line for changes."""
    if doc is None:  # Python was started with -OO
        return None
    lines = inspect.cleandoc(doc).splitlines()
    if "Args:" not in lines:
        return "\n".join([*lines, "", "Args:", *_lines(cls.options().values())])
    start = lines.index("Args:") + 1
    end = next((at for at in range(start, len(lines)) if not lines[at].startswith(" ")), len(lines))
    entries: list[list[str]] = []
    for line in lines[start:end]:
        if line.startswith("     ") and entries:
            entries[-1].append(line)
        else:
            entries.append([line])
    by_name = {entry[0].strip().partition(":")[0]: entry for entry in entries}
    by_name.pop("changes", None)
    explained = [line for entry in by_name.values() for line in entry]
    more = _lines(each for name, each in cls.options().items() if name not in by_name)
    return "\n".join([*lines[:start], *explained, *more, *lines[end:]])
