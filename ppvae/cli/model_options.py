"""The options of a model on the command line: those of its constructor."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any, get_type_hints

from ppvae import require
from ppvae.options import option_names
from ppvae.pair.zoo import model_class


def describe(name: str) -> str:
    """One entry per option: name, text, type and default."""
    cls = model_class(name)
    texts = dict(re.findall(r"^    (\w+): (.*(?:\n        .*)*)", inspect.getdoc(cls) or "", re.MULTILINE))
    lines: list[str] = []
    for option, parameter in option_names(cls).items():
        default = "required" if parameter.default is parameter.empty else f"default: {parameter.default}"
        hint = parameter.annotation
        kind = (
            "" if hint is parameter.empty else f"{hint if isinstance(hint, str) else inspect.formatannotation(hint)}, "
        )
        text = f"{' '.join(texts.get(option, '').split())} ({kind}{default})".strip()
        lines += textwrap.wrap(
            f"--model.{option}  {text}", 100, initial_indent="  ", subsequent_indent=" " * 24, break_on_hyphens=False
        )
    return "\n".join(lines)


def checked(names: Iterable[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options in the types that the constructors of the models named have; what none of them has stays as it is."""
    out = dict(options)
    for name in names:
        cls = model_class(name)
        hints = get_type_hints(cls.__init__)
        for option in option_names(cls):
            if option in out and option in hints:
                out[option] = require.typed(f"model.{option}", out[option], hints[option])
    return out
