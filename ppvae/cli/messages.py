"""What is wrong with a command line, in a user's words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from ppvae import require
from ppvae.errors import PpvaeError


def explain(message: str, options: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise, in a user's words, what jsonargparse says about a value, an unknown option or a file of options."""
    value = re.match(r'Parser key "([\w.]+)":.* (?:Got|Given) value: ?(.*)', message)
    if value and (name := value[1]) in options:
        given = value[2]
        if nested := re.fullmatch(r"NestedArg\(key='(.*)', val='(.*)'\)", given):
            given = f"{{{nested[1]}: {nested[2]}}}"
        for kind in options[name]:
            if get_origin(kind) is Literal:
                require.one_of(name, given, get_args(kind))
        raise PpvaeError(f"--{name} must be {' or '.join(map(_in_words, options[name]))}, got {require.show(given)}")
    if unknown := re.match(r"unrecognized arguments: --([\w.-]+)", message):
        if unknown[1] in options:
            raise PpvaeError(f"--{unknown[1]} has options of its own: --{unknown[1]}.NAME VALUE")
        more = ". Options of a model are --model.NAME" if "model" in options else ""
        # --fit.seed: the word after the dot may be an option of the command itself
        near = difflib.get_close_matches(unknown[1].rpartition(".")[2], options, 1, cutoff=0.8)
        if near and "." in unknown[1]:
            raise PpvaeError(f"unknown option {unknown[1]!r}: did you mean {near[0]!r}?{more}")
        require.one_of("option", unknown[1], options, more)
    words = [name for name, kinds in options.items() if str in kinds and NoneType in kinds]
    if words and (unknown := re.match("unrecognized arguments: (.*)", message)):
        raise PpvaeError(f"unknown words {unknown[1]!r}: a value follows its option, like --{words[0]} VALUE")
    if message.startswith("Unexpected config:"):
        raise PpvaeError(f"--config must name a file of YAML like 'seed: 1', a line an option: {message}")


def _in_words(kind: Any) -> str:
    words = {int: "a whole number", float: "a number", str: "a word", NoneType: "null", bool: "true or false"}
    if kind in words:
        return words[kind]
    if get_origin(kind) in (list, tuple, Sequence):
        return "a list like [a, b]"
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    inner = get_args(kind)[1] if len(get_args(kind)) > 1 else Any
    return "a mapping like {a: 1}" if get_origin(inner) is None else "a mapping like {a: {b: 1}}"


def underscored(word: str) -> str:
    """--run-dir is --run_dir; values, and names of strategies inside them, are left alone."""
    match = re.match(r"--[\w.-]+", word)
    return word if match is None else match.group().replace("-", "_").replace("__", "--", 1) + word[match.end() :]


def one_line(text: str) -> str:
    return " ".join(text.split())
