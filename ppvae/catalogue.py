"""The catalogues: one folder each, one file per entry, and nothing listed by hand.

Names, summaries and facts are read from the source of the folder, so that a list of names imports no entry; the file
of an entry is imported when the entry is first used.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from ppvae import require
from ppvae.errors import PpvaeError

T = TypeVar("T")


@dataclass(frozen=True)
class Indexed:
    """What the source of a folder says of an entry, or what a registration from elsewhere does."""

    module: str
    qualname: str
    summary: str
    facts: Mapping[str, Any]
    options: tuple[str, ...] | None = None


class Catalogue:
    """The entries of one kind.

    Args:
        kind: what messages call an entry.
        folder: the package whose files hold the entries.
        plural: the name of the catalogue, as `available` takes it.
        summary_of: whether the first line of the "entry" itself, or of its "module", says what it is.
    """

    def __init__(self, kind: str, folder: str, plural: str, summary_of: Literal["entry", "module"] = "entry") -> None:
        self.kind, self.folder, self.plural, self.summary_of = kind, folder, plural, summary_of
        self._entries: dict[str, Any] = {}
        self._elsewhere: dict[str, Indexed] = {}

    @cached_property
    def _folder(self) -> dict[str, Indexed]:
        """Name → what the source in the folder says of it."""
        spec = importlib.util.find_spec(self.folder)
        index: dict[str, Indexed] = {}
        for place in (spec and spec.submodule_search_locations) or ():
            for file in sorted(Path(place).glob("*.py")):
                for name, entry in _registered(file, self.folder, self.summary_of):
                    if name in index:
                        raise PpvaeError(
                            f"{name!r} is registered in {file} and in {index[name].module}: rename one of them"
                        )
                    index[name] = entry
        return index

    @property
    def _index(self) -> dict[str, Indexed]:
        return self._folder | self._elsewhere

    def register(self, name: str, **facts: Any) -> Callable[[T], T]:
        """Make an entry known by a name; in a file of the folder, name and facts are literals.

        Raises:
            PpvaeError: the name is taken.
        """

        def decorate(entry: T) -> T:
            of: Any = entry
            known = self._index.get(name)
            if known is not None and (known.module, known.qualname) != (of.__module__, of.__qualname__):
                raise PpvaeError(f"{name!r} is taken by {known.qualname}: register under another name")
            self._entries[name] = entry
            if name not in self._folder:
                self._elsewhere[name] = Indexed(of.__module__, of.__qualname__, self._first_line(entry), facts)
            return entry

        return decorate

    def forget(self, name: str) -> None:
        """Take back a registration from outside the folder.

        Raises:
            PpvaeError: the name is not known, or it is that of an entry in the folder.
        """
        known = self._known(name)
        if name not in self._elsewhere:
            raise PpvaeError(f"{self.kind} {name!r} is an entry of {known.module}: remove it from there")
        del self._elsewhere[name]
        self._entries.pop(name, None)

    def names(self) -> list[str]:
        """All names, by the fact `order` where entries have one, else by the alphabet."""
        index = self._index
        return sorted(index, key=lambda name: (index[name].facts.get("order", 0), name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def __getitem__(self, name: str) -> Any:
        """The entry of that name; raises PpvaeError with the nearest name where there is none."""
        known = self._known(name)
        if name not in self._entries:
            importlib.import_module(known.module)
        if name not in self._entries:
            raise PpvaeError(f"{known.module} registers no {self.kind} {name!r}: mend its decorator")
        return self._entries[name]

    def facts(self, name: str) -> Mapping[str, Any]:
        """What was registered beside the name."""
        return self._known(name).facts

    def options(self, name: str) -> tuple[str, ...] | None:
        """Names of the keyword options of an entry in the folder, or None where only its class can tell."""
        return self._known(name).options

    def summary(self, name: str) -> str:
        """What the entry is, in one line."""
        return self._known(name).summary

    def name_of(self, entry: Any) -> str | None:
        """The name that an entry is registered under, or None."""
        return next((name for name, known in self._entries.items() if known is entry), None)

    def markdown(self, columns: Mapping[str, Callable[[str], str]] | None = None) -> str:
        """A table of all entries in Markdown: name, the columns given (title → cell of a name), summary."""
        columns = columns or {}
        lines = [f"| {self.kind} | {' | '.join([*columns, 'what it is'])} |", "|---" * (len(columns) + 2) + "|"]
        for name in self:
            cells = [cell(name) for cell in columns.values()]
            lines.append(f"| `{name}` | {' | '.join([*cells, self.summary(name).rstrip('.')])} |")
        return "\n".join(lines)

    def _known(self, name: str) -> Indexed:
        known = self._elsewhere.get(name) or self._folder.get(name) if isinstance(name, str) else None
        return known or self._index[require.one_of(self.kind, name, self.names())]

    def _first_line(self, entry: Any) -> str:
        module = sys.modules.get(entry.__module__) if self.summary_of == "module" else None
        described = module if module is not None and module.__doc__ else entry
        return (inspect.getdoc(described) or "").partition("\n")[0]


def _registered(file: Path, folder: str, summary_of: str) -> Iterator[tuple[str, Indexed]]:
    """The entries in the source of a file: classes and functions under `@register(…)` or `@CATALOGUE.register(…)`."""
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef):
            continue
        for call in node.decorator_list:
            if not isinstance(call, ast.Call) or ast.unparse(call.func).rpartition(".")[2] != "register":
                continue
            try:
                (name,) = (ast.literal_eval(word) for word in call.args)
                facts = {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg is not None}
            except ValueError as error:
                raise PpvaeError(
                    f"{file}: @register of {node.name} needs one name and facts that are written out as literals"
                ) from error
            doc = ast.get_docstring(node if summary_of == "entry" else tree) or ""
            yield name, Indexed(f"{folder}.{file.stem}", node.name, doc.partition("\n")[0], facts, _options(node))


def _options(node: ast.ClassDef | ast.FunctionDef) -> tuple[str, ...] | None:
    """The arguments of a class's own constructor, or the keyword-only ones of a function."""
    if isinstance(node, ast.FunctionDef):
        return tuple(each.arg for each in node.args.kwonlyargs)
    own = (each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__")
    if (init := next(own, None)) is None or init.args.kwarg is not None:
        return None
    return tuple(each.arg for each in (*init.args.args[1:], *init.args.kwonlyargs))


MODELS = Catalogue("model", "ppvae.models", "models", "module")
STRATEGIES = Catalogue("inference", "ppvae.inference", "inference", "module")
FAMILIES = Catalogue("family", "ppvae.pair.families", "families")
OBJECTIVES = Catalogue("objective", "ppvae.variational.objectives", "objectives")
GRADIENTS = Catalogue("gradient", "ppvae.variational.gradients", "gradients")
LIKELIHOODS = Catalogue("likelihood", "ppvae.nn.likelihoods", "likelihoods")
METHODS = Catalogue("method", "ppvae.evidence.methods", "methods")
SOURCES = Catalogue("data", "ppvae.data.sources", "data")
SCHEDULES = Catalogue("schedule", "ppvae.training.schedules", "schedules")
COMMANDS = Catalogue("command", "ppvae.cli.commands", "commands")

_ALL = (
    MODELS, LIKELIHOODS, STRATEGIES, FAMILIES, OBJECTIVES, GRADIENTS, METHODS, SOURCES, SCHEDULES, COMMANDS,
)  # fmt: skip
CATALOGUES = {catalogue.plural: catalogue for catalogue in _ALL}


def available(kind: str) -> list[str]:
    """The names of one catalogue.

    Args:
        kind: "models", "likelihoods", "inference", "families", "objectives", "gradients", "methods", "data",
            "schedules" or "commands".

    Raises:
        PpvaeError: there is no such catalogue.
    """
    return CATALOGUES[require.one_of("kind", kind, CATALOGUES)].names()


def register(name: str, **facts: Any) -> Callable[[T], T]:
    """Make a model, a strategy, a family, a likelihood, … known by a name; which of them it is, its base class says.

    Args:
        name: as `ppvae list` shows it.
        facts: of its kind, such as compare={"data": "digits"} for what `ppvae compare` takes by default.

    Raises:
        PpvaeError: the name is taken, or the class extends none of these bases.
    """

    def decorate(cls: T) -> T:
        catalogue = getattr(cls, "catalogue", None)
        if not isinstance(catalogue, Catalogue):
            shown = getattr(cls, "__name__", require.show(cls))
            raise PpvaeError(f"{shown} is neither a ppvae.Model nor a ppvae.Strategy: extend one of them")
        return catalogue.register(name, **facts)(cls)

    return decorate
