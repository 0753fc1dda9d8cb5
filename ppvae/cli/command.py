"""What every command of the command line is: a list of options, and what runs on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

from ppvae import require
from ppvae.catalogue import COMMANDS
from ppvae.errors import PpvaeError
from ppvae.options import Option, Options


class Command(Options):
    """A command: its options, and `run`. One file of `commands/` each.

    Facts of its registration: `order` in the list; `subject`, the option whose name may be left out, as the word that
    follows the command; `required`, whether there must be one.
    """

    catalogue: ClassVar = COMMANDS
    #: what the command line calls an option, where Python calls it otherwise
    words: ClassVar[Mapping[str, str]] = {}
    #: the options inside an option that is a mapping, where it is a list of its own
    parts: ClassVar[Mapping[str, Mapping[str, Option]]] = {}

    @classmethod
    def refuse_unknown(cls, names: Iterable[Any]) -> None:
        called = {option: word for word, option in cls.words.items()}
        known = [called.get(name, name) for name in cls.options()]
        for name in names:
            require.one_of("option", called.get(name, name), known, cls.elsewhere)

    @classmethod
    def read_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        """The options in a file of YAML, which may be the config.yaml of a run."""
        return config

    @classmethod
    def of_words(cls, given: Mapping[str, Any]) -> Self:
        """The command with the options that were given."""
        return cls.of(given)

    def run(self) -> None:
        """Do it."""
        raise PpvaeError(f"{type(self).__name__} has no run(self): write it")
