"""`ppvae show`."""

from __future__ import annotations

import inspect
import sys

from ppvae import require
from ppvae.catalogue import MODELS, STRATEGIES, register
from ppvae.cli.command import Command
from ppvae.options import option, option_names


@register("show", order=2, subject="name", required=True)
class ShowCommand(Command):
    """Show a model or a strategy: what it is, and its options."""

    name: str | None = option(None, "of the zoo, or path/to/file.py:ClassName")

    def run(self) -> None:
        from ppvae.pair.zoo import model_class
        from ppvae.training.settings import STRATEGY_ARGUMENTS
        from ppvae.variational.strategy import strategy_class

        assert self.name is not None
        in_zoo = ":" not in self.name
        if in_zoo:
            require.one_of("name", self.name, [*MODELS, *STRATEGIES], ", or path/to/file.py:ClassName")
        cls = strategy_class(self.name) if self.name in STRATEGIES else model_class(self.name)
        # a file is not a module that sys.modules knows; and what a class inherits says nothing about it
        for text in (sys.modules[cls.__module__].__doc__ if in_zoo else None, cls.__doc__):
            if text:
                print(inspect.cleandoc(text), end="\n\n")
        print("Options:")
        for name, parameter in option_names(cls, skip=STRATEGY_ARGUMENTS).items():
            default = "required" if parameter.default is parameter.empty else f"default {parameter.default!r}"
            print(f"  {name}{_type_of(parameter)}  ({default})")


def _type_of(parameter: inspect.Parameter) -> str:
    kind = parameter.annotation
    if kind is parameter.empty:
        return ""
    return f": {kind if isinstance(kind, str) else inspect.formatannotation(kind)}"
