"""The command line: `ppvae list | show | fit | evaluate | sample | report | compare | new`.

Every option comes from a typed signature: those of `commands`, of `ppvae.fit`, and of the model named.
"""

from __future__ import annotations

import difflib
import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

from ppvae import commands, require
from ppvae.errors import PpvaeError

COMMANDS: dict[str, Callable[..., None]] = {
    "list": commands.list_command,
    "show": commands.show_command,
    "fit": commands.fit_command,
    "evaluate": commands.evaluate_command,
    "sample": commands.sample_command,
    "report": commands.report_command,
    "compare": commands.compare_command,
    "new": commands.new_command,
}
#: the word that follows a command: it may be left out where the option may
_SUBJECT = {"show": "name", "fit": "name", "evaluate": "run", "sample": "run", "report": "run", "compare": "models",
            "new": "file"}  # fmt: skip
#: arguments of `ppvae.fit` that are no options of the command line
_NO_OPTIONS = {"model", "data", "inference_options", "run_dir", "resume", "progress", "loggers"}


class _Parser(ArgumentParser):
    """Says what is wrong in one line, rather than usage and a trace."""

    #: option → the types it may have
    kinds: dict[str, tuple[Any, ...]] | None = None
    #: command → its parser, of the one that has commands
    below: Mapping[str, _Parser] = {}

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        message, prog = _one_line(message), self.prog.replace(" [options]", "")
        if missing := re.match(r"the following arguments are required: (\w+)\.(\w+)$", message):
            raise PpvaeError(f"ppvae {missing[1]} needs a {missing[2]}; see ppvae {missing[1]} --help") from ex
        if unknown := re.match(r"Subcommand '(\w+)' does not accept option '([\w.]+)'", message):
            kinds, more = self.below[unknown[1]].kinds or {}, ". Options of a model go into model"
            require.one_of("option", unknown[2], kinds, more if "model" in kinds else "")
        if self.kinds is not None:
            _explain(message, self.kinds)
        raise PpvaeError(f"{message.rstrip('.')}; see {prog} --help") from ex


def _explain(message: str, options: Mapping[str, tuple[Any, ...]]) -> None:
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


def _kinds(function: Callable[..., Any]) -> dict[str, tuple[Any, ...]]:
    hints = get_type_hints(function)
    return {
        name: get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        for name, hint in hints.items()
        if name not in ("return", "options")
    }


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


def parser(command: str | None = None) -> ArgumentParser:
    """The parser of all commands, the options of one of them filled in; without a name, of every one."""
    # an abbreviated option would change its meaning, or fail, with the next option that is added
    top = _Parser(
        prog="ppvae", description="Latent-variable models under every inference strategy.", allow_abbrev=False
    )
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subs = top.add_subcommands(required=True, dest="command")
    for name, function in COMMANDS.items():
        text = (inspect.getdoc(function) or "").partition("\nArgs:")[0]
        usage = f"ppvae {name} {_subject_in_words(name)}[options]"
        sub = _Parser(description=text, usage=usage, allow_abbrev=False)
        if command in (None, name):
            _add_options(sub, name, function)
        top.below = {**top.below, name: sub}
        subs.add_subcommand(name, sub, help=commands.first_line(function))
    return top


def _subject_in_words(command: str) -> str:
    subject = _SUBJECT.get(command)
    if subject is None:
        return ""
    return f"[{subject.upper()}] " if command in ("fit", "compare") else f"{subject.upper()} "


def _add_options(sub: _Parser, name: str, function: Callable[..., None]) -> None:
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
        from ppvae.fitting import fit

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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0, or 2 with one line on stderr where something is wrong."""
    given = [_underscored(word) for word in (sys.argv[1:] if argv is None else argv)]
    debug = "--debug" in given
    given = [word for word in given if word != "--debug"]
    try:
        command, options = _parse(given)
        with warnings.catch_warnings():
            if not debug:
                warnings.simplefilter("ignore")
            COMMANDS[command](**options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as error:
        print(f"ppvae: {error}" if str(error) else "ppvae: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            raise
        text = _one_line(str(error))
        if not isinstance(error, PpvaeError):  # a fault of the user's own model, of the disk, or of ppvae
            text = f"{type(error).__name__}: {require.shorten(text)} (--debug shows where)"
        print(f"ppvae: error: {text}", file=sys.stderr)
        return 2
    return 0


def _parse(words: list[str]) -> tuple[str, dict[str, Any]]:
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
    from ppvae.planning import model_names
    from ppvae.registry import model_class

    names = [options["name"]] if command == "fit" and "name" in options else model_names(options.get("models"))
    for name in names:
        typed = _model_parser(name, model_class(name))
        known = {key: value for key, value in given.items() if key in (typed.kinds or {})}
        parsed = typed.parse_object({"model": known}, defaults=False)
        given.update(parsed["model"].as_dict() if "model" in parsed else {})


def _model_parser(name: str, cls: type) -> _Parser:
    """A parser of --model.NAME for the options of one model."""
    from ppvae.registry import option_names

    typed = _Parser(prog=name, allow_abbrev=False)
    typed.kinds = {}
    hints = get_type_hints(cls.__init__)
    texts = dict(re.findall(r"^    (\w+): (.*(?:\n        .*)*)", inspect.getdoc(cls) or "", re.MULTILINE))
    for option, parameter in option_names(cls).items():
        hint = hints.get(option, Any)
        default = None if parameter.default is parameter.empty else parameter.default
        text = _one_line(texts.get(option, "")).replace("%", "%%")
        typed.add_argument(f"--model.{option}", type=hint, default=default, help=text)
        typed.kinds[f"model.{option}"] = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        typed.kinds[option] = typed.kinds[f"model.{option}"]
    return typed


def _help(top: ArgumentParser, command: str, words: list[str]) -> None:
    """Print the help of the command with the options of the model that it names, and leave."""
    from ppvae.registry import model_class

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


def _underscored(word: str) -> str:
    """--run-dir is --run_dir; values, and names of strategies inside them, are left alone."""
    match = re.match(r"--[\w.-]+", word)
    return word if match is None else match.group().replace("-", "_").replace("__", "--", 1) + word[match.end() :]


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
