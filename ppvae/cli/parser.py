"""The options of each command, read off typed signatures."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

from ppvae import require
from ppvae.catalogue import COMMANDS
from ppvae.cli.messages import explain, one_line
from ppvae.errors import PpvaeError

#: the word that follows a command: it may be left out where the option may
_SUBJECT = {"show": "name", "fit": "name", "evaluate": "run", "sample": "run", "report": "run", "compare": "models",
            "new": "file"}  # fmt: skip
#: arguments of `ppvae.fit` that are no options of the command line
_NO_OPTIONS = {"model", "data", "inference_options", "run_dir", "resume", "progress", "loggers"}


class Parser(ArgumentParser):
    """Says what is wrong in one line, rather than usage and a trace."""

    #: option → the types it may have
    kinds: dict[str, tuple[Any, ...]] | None = None
    #: command → its parser, of the one that has commands
    below: Mapping[str, Parser] = {}

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        message, prog = one_line(message), self.prog.replace(" [options]", "")
        if missing := re.match(r"the following arguments are required: (\w+)\.(\w+)$", message):
            raise PpvaeError(f"ppvae {missing[1]} needs a {missing[2]}; see ppvae {missing[1]} --help") from ex
        if unknown := re.match(r"Subcommand '(\w+)' does not accept option '([\w.]+)'", message):
            kinds, more = self.below[unknown[1]].kinds or {}, ". Options of a model go into model"
            require.one_of("option", unknown[2], kinds, more if "model" in kinds else "")
        if self.kinds is not None:
            explain(message, self.kinds)
        raise PpvaeError(f"{message.rstrip('.')}; see {prog} --help") from ex


def _kinds(function: Callable[..., Any]) -> dict[str, tuple[Any, ...]]:
    hints = get_type_hints(function)
    return {
        name: get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        for name, hint in hints.items()
        if name not in ("return", "options")
    }


def parser(command: str | None = None) -> ArgumentParser:
    """The parser of all commands, the options of one of them filled in; without a name, of every one."""
    # an abbreviated option would change its meaning, or fail, with the next option that is added
    top = Parser(prog="ppvae", description="Latent-variable models under every inference strategy.", allow_abbrev=False)
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subs = top.add_subcommands(required=True, dest="command")
    for name in COMMANDS:
        usage = f"ppvae {name} {_subject_in_words(name)}[options]"
        sub = Parser(description=COMMANDS.summary(name), usage=usage, allow_abbrev=False)
        if command in (None, name):
            function = COMMANDS[name]
            sub.description = (inspect.getdoc(function) or "").partition("\nArgs:")[0]
            _add_options(sub, name, function)
        top.below = {**top.below, name: sub}
        subs.add_subcommand(name, sub, help=COMMANDS.summary(name))
    return top


def _subject_in_words(command: str) -> str:
    subject = _SUBJECT.get(command)
    if subject is None:
        return ""
    return f"[{subject.upper()}] " if command in ("fit", "compare") else f"{subject.upper()} "


def _add_options(sub: Parser, name: str, function: Callable[..., None]) -> None:
    sub.add_argument("--config", action="config", help="a YAML file with any of these options")
    # what a run's config.yaml says of itself; nobody need give it
    sub.add_argument("--versions", type=dict[str, str] | None, default=None, help="versions that a run was made with")
    flags = [p.name for p in inspect.signature(function).parameters.values() if p.default is False]
    sub.kinds = _kinds(function) | {"versions": (dict[str, str], NoneType)}
    for flag in flags:
        line = re.search(rf"^    {flag}: (.*)$", inspect.getdoc(function) or "", re.MULTILINE)
        sub.add_argument(f"--{flag}", action="store_true", help=line[1] if line else None)
    own = set(inspect.signature(function).parameters)
    skip: set[str | int] = {*flags, "options", "fit"}
    if name not in ("fit", "compare"):
        sub.add_function_arguments(function, as_group=False, as_positional=False, skip=skip)
    else:
        from ppvae.training.fitting import fit

        skip |= set(inspect.signature(fit).parameters) - own  # jsonargparse follows **options by itself
        sub.add_function_arguments(function, as_group=False, as_positional=False, skip=skip)
        nested = "fit" if name == "compare" else None
        skip = {*_NO_OPTIONS, *({"inference", "seed"} if nested else own)}
        prefix = f"{nested}." if nested else ""
        sub.kinds |= {f"{prefix}{key}": kinds for key, kinds in _kinds(fit).items() if key not in skip}
        sub.add_function_arguments(fit, nested, as_group=False, skip=skip)
        if nested is None:
            sub.add_argument(
                "--inference_options",
                type=dict[str, Any] | None,
                default=None,
                help="options of the strategy, such as --inference_options.inner_steps converge",
            )
            sub.kinds["inference_options"] = (dict[str, Any], NoneType)


def parse(words: list[str]) -> tuple[str, dict[str, Any]]:
    """The command and the options that were given, no others."""
    command = words[0] if words and words[0] in COMMANDS else None
    if command in _SUBJECT and len(words) > 1 and not words[1].startswith("-"):
        option = f"--{_SUBJECT[command]}"
        if any(word == option or word.startswith(f"{option}=") for word in words[2:]):
            raise PpvaeError(f"{_SUBJECT[command]} is given twice: leave out {words[1]!r} or {option}")
        words = [command, f"--{_SUBJECT[command]}", *words[1:]]
    top = parser(command or "list")
    if command in ("fit", "compare") and {"-h", "--help"} & set(words):
        _help(top, command, words)
    try:
        found = top.parse_args(words, defaults=False)
    except UnicodeDecodeError as error:
        raise PpvaeError(f"--config must name a file of YAML, in UTF-8: {error}") from error
    command = str(found["command"])
    options = found[command].as_dict()
    for name in ("config", "versions"):
        options.pop(name, None)
    subject = _SUBJECT.get(command)
    required = subject and inspect.signature(COMMANDS[command]).parameters[subject].default is inspect.Parameter.empty
    if required and subject not in options:
        raise PpvaeError(f"ppvae {command} needs a {subject}; see ppvae {command} --help")
    if "resume" in options and (extra := [name for name in options if name not in ("resume", "debug")]):
        raise PpvaeError(f"--resume takes all options from the run: leave out --{extra[0]}")
    _check_model_options(command, options)
    return command, options


def _check_model_options(command: str, options: dict[str, Any]) -> None:
    """The options of the models named, read by the types in their signatures."""
    given = options.get("model")
    if not given or command not in ("fit", "compare"):
        return
    from ppvae.comparison.plan import model_names
    from ppvae.pair.zoo import model_class

    names = [options["name"]] if command == "fit" and "name" in options else model_names(options.get("models"))
    for name in names:
        typed = _model_parser(name, model_class(name))
        known = {key: value for key, value in given.items() if key in (typed.kinds or {})}
        parsed = typed.parse_object({"model": known}, defaults=False)
        given.update(parsed["model"].as_dict() if "model" in parsed else {})


def _model_parser(name: str, cls: type) -> Parser:
    """A parser of --model.NAME for the options of one model."""
    from ppvae.options import option_names

    typed = Parser(prog=name, allow_abbrev=False)
    typed.kinds = {}
    hints = get_type_hints(cls.__init__)
    texts = dict(re.findall(r"^    (\w+): (.*(?:\n        .*)*)", inspect.getdoc(cls) or "", re.MULTILINE))
    for option, parameter in option_names(cls).items():
        hint = hints.get(option, Any)
        default = None if parameter.default is parameter.empty else parameter.default
        text = one_line(texts.get(option, "")).replace("%", "%%")
        typed.add_argument(f"--model.{option}", type=hint, default=default, help=text)
        typed.kinds[f"model.{option}"] = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        typed.kinds[option] = typed.kinds[f"model.{option}"]
    return typed


def _help(top: ArgumentParser, command: str, words: list[str]) -> None:
    """Print the help of the command with the options of the model that it names, and leave."""
    from ppvae.pair.zoo import model_class

    subject = f"--{_SUBJECT[command]}"
    name = words[words.index(subject) + 1] if subject in words else None
    if name is None or name.startswith(("-", "[", "{")):
        return
    typed = _model_parser(name, model_class(name))
    try:
        top.parse_args([command, "--help"])
    except SystemExit:
        text = typed.format_help().partition("options:")[2]
        lines = [line for line in text.splitlines() if "--help" not in line and "show this help" not in line]
        print(f"\noptions of {name}:" + "\n".join(lines))
        raise
