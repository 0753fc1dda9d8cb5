"""`ppvae show`."""

from __future__ import annotations

import inspect
import sys

from ppvae import require
from ppvae.catalogue import COMMANDS, MODELS, STRATEGIES


@COMMANDS.register("show", order=2)
def show_command(name: str) -> None:
    """Show a model or a strategy: what it is, and its options.

    Args:
        name: of the zoo, or path/to/file.py:ClassName.
    """
    from ppvae.options import option_names
    from ppvae.pair.zoo import model_class
    from ppvae.variational.strategy import strategy_class

    in_zoo = ":" not in name
    if in_zoo:
        known = [*MODELS, *STRATEGIES]
        require.one_of("name", name, known, ", or path/to/file.py:ClassName")
    cls = strategy_class(name) if name in STRATEGIES else model_class(name)
    # a file is no module that sys.modules knows; and what a class inherits says nothing about it
    for text in (sys.modules[cls.__module__].__doc__ if in_zoo else None, cls.__doc__):
        if text:
            print(inspect.cleandoc(text), end="\n\n")
    print("Options:")
    for option, parameter in option_names(cls, skip=("self", "model", "x")).items():
        default = "required" if parameter.default is parameter.empty else f"default {parameter.default!r}"
        print(f"  {option}{_type_of(parameter)}  ({default})")


def _type_of(parameter: inspect.Parameter) -> str:
    kind = parameter.annotation
    if kind is parameter.empty:
        return ""
    return f": {kind if isinstance(kind, str) else inspect.formatannotation(kind)}"
