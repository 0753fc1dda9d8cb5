"""Words become options: names are refused here, values by the options themselves."""

from __future__ import annotations

import re
from argparse import SUPPRESS
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from ppvae import require
from ppvae.catalogue import COMMANDS, STRATEGIES
from ppvae.cli.command import Command
from ppvae.errors import PpvaeError
from ppvae.options import Option


class Yaml(yaml.SafeLoader):
    """YAML 1.2 in one respect: 1e-3 is a number."""


Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


class _Help(DefaultHelpFormatter):
    """The text of an option and its default; what types there are, the text says."""

    def _expand_help(self, action: Any) -> str:
        text = action.help or ""
        return text if action.default in (None, False, SUPPRESS, {}, ()) else f"{text} (default: {action.default})"


class Parser(ArgumentParser):
    """Raises what is wrong in one line, rather than to print usage and a trace."""

    def __init__(self, **keywords: Any) -> None:
        # an abbreviated option would change its meaning, or fail, with the next option that is added
        super().__init__(formatter_class=_Help, allow_abbrev=False, **keywords)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise PpvaeError(f"{' '.join(message.split()).rstrip('.')}; see {self.prog} --help") from ex


def overview() -> str:
    """What `ppvae --help` prints: the commands, none of which is loaded."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {COMMANDS.summary(name)}" for name in COMMANDS]
    return "\n".join(
        [
            "usage: ppvae COMMAND [options]",
            "",
            "Latent-variable models under every inference strategy.",
            "",
            "commands:",
            *lines,
            "",
            "ppvae COMMAND --help explains the options of a command; --debug shows the traceback of an error.",
        ]
    )


def parse(words: list[str]) -> Command:
    """The command with its options, those of the command line over those of --config.

    Raises:
        PpvaeError: an unknown command, name or value.
        SystemExit: after --help or --print_config.
    """
    if not words or words[0].startswith("-"):
        unknown = f"{words[0]!r} is not a command" if words else "no command was given"
        raise PpvaeError(f"{unknown}; known: {', '.join(COMMANDS)}; see ppvae --help")
    name = require.one_of("command", words[0], COMMANDS)
    kind: type[Command] = COMMANDS[name]
    subject = COMMANDS.facts(name).get("subject")
    words = _with_subject(words[1:], subject, _named(kind))
    parser = command_parser(name, kind)
    if {"-h", "--help"} & set(words):
        _print_help(parser, name, words, subject)
    printing = "--print_config" in words
    words = [word for word in words if word != "--print_config"]
    _refuse_unknown(words, kind)
    given = parser.parse_args(words, defaults=False).as_dict()
    out: dict[str, Any] = {}
    for file in given.pop("config", []):
        out |= kind.read_config(_read_file(file))
    for word, value in given.items():
        key = kind.words.get(word, word)
        each = kind.options()[key]
        if _takes_several(each) and isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, dict) and dict in _kinds(each.hint):
            value = _unfolded(value)
            for part in value.keys() & kind.parts.get(key, {}):
                kind.parts[key][part].checked(value[part], f"--{word}.{part}")
            value = {**(out.get(key) or {}), **value}
        out[key] = each.checked(value, f"--{word}")
    kind.refuse_unknown(out)
    if printing:
        print(yaml.safe_dump(kind.of(out).plain(), sort_keys=False, allow_unicode=True), end="")
        raise SystemExit(0)
    if subject and COMMANDS.facts(name).get("required") and out.get(kind.words.get(subject, subject)) is None:
        raise PpvaeError(f"ppvae {name} needs a {subject}; see ppvae {name} --help")
    if out.get("resume") is not None and (extra := [key for key in out if key != "resume"]):
        raise PpvaeError(f"--resume takes all options from the run: remove --{extra[0]}")
    return kind.of_words(out)


def command_parser(name: str, kind: type[Command]) -> Parser:
    """The parser of one command."""
    facts = COMMANDS.facts(name)
    subject = str(facts.get("subject", "")).upper()
    subject = f"{subject if facts.get('required') else f'[{subject}]'} " if subject else ""
    usage = f"ppvae {name} {subject}[options]"
    text = (kind.__doc__ or "").partition("\nArgs:")[0]
    parser = Parser(prog=f"ppvae {name}", usage=usage, description=text)
    parser.add_argument("--config", type=str, action="append", help="a YAML file with any of these options")
    parser.add_argument("--print_config", action="store_true", help="print the options as YAML, and stop")
    for word, each in _named(kind).items():
        add_option(parser, word, each)
    return parser


def add_option(parser: ArgumentParser, word: str, each: Option) -> None:
    """One flag: its words are read as YAML, but for options that only take words; `Options` checks what they give."""
    of = _kinds(each.hint)
    keywords: dict[str, Any] = {"type": Any, "default": each.default, "help": each.text, "metavar": word.upper()}
    if dict in of:
        keywords |= {"type": dict[str, Any] | Any, "metavar": "{NAME: VALUE}"}
    elif _takes_several(each):
        keywords |= {"nargs": "+"}
    elif of == [bool]:
        keywords |= {"nargs": "?", "const": True, "metavar": "true|false"}
    elif of[0] in (str, Literal):
        known = each.known() or (list(get_args(_of_literal(each.hint))) if of[0] is Literal else None)
        keywords |= {"type": str | Any, "metavar": "|".join(known) if known else word.upper()}
    parser.add_argument(f"--{word}", **keywords)


def underscored(word: str) -> str:
    """--run-dir is --run_dir; values, and names of strategies between dots, stay as they are."""
    match = re.match(r"--([\w.-]+)", word)
    if match is None:
        return word
    head, *inner = match.group(1).split(".")
    inner = [part if part in STRATEGIES else part.replace("-", "_") for part in inner]
    return "--" + ".".join([head.replace("-", "_"), *inner]) + word[match.end() :]


def _named(kind: type[Command]) -> dict[str, Option]:
    """The options of a command by what the command line calls them."""
    words = {option: word for word, option in kind.words.items()}
    return {words.get(name, name): each for name, each in kind.options().items()}


def _with_subject(words: list[str], subject: str | None, options: Mapping[str, Option]) -> list[str]:
    """The words with the option written out that those before the first option belong to."""
    count = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
    if subject is None or not count:
        return words
    if any(word == f"--{subject}" or word.startswith(f"--{subject}=") for word in words):
        raise PpvaeError(f"{subject} is given twice: remove {words[0]!r} or --{subject}")
    if count > 1 and not _takes_several(options[subject]):
        others = [f"--{word}" for word in options if word != subject]
        more = f", and a value follows its option, like {others[0]} VALUE" if others else ""
        raise PpvaeError(f"unknown word {words[1]!r}: one {subject} was expected{more}")
    return [f"--{subject}", *words]


def _refuse_unknown(words: list[str], kind: type[Command]) -> None:
    """Refuse a flag that the command does not have."""
    named = _named(kind)
    for word in words:
        if re.match(r"-[A-Za-z]", word):
            raise PpvaeError(f"unknown option {word!r}: options have two dashes, like --{next(iter(named))} VALUE")
        if not word.startswith("--") or not (flag := word[2:].partition("=")[0]):
            continue
        head, _, rest = flag.partition(".")
        if head == "config":
            continue
        if head not in named:
            if rest.partition(".")[0] in named:
                raise PpvaeError(f"unknown option {flag!r}: did you mean {rest!r}?")
            kind.refuse_unknown([kind.words.get(head, head)])
            require.one_of("option", head, named, kind.elsewhere)
        if rest and dict not in _kinds(named[head].hint):
            raise PpvaeError(f"{head} has no options of its own: write --{head} VALUE")


def _read_file(file: str) -> dict[str, Any]:
    try:
        config = Yaml(Path(file).read_text(encoding="utf-8")).get_single_data()
    except FileNotFoundError as error:
        raise PpvaeError(f"--config: there is no file {file}: check the path") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise PpvaeError(f"--config: cannot read {file}: {' '.join(str(error).split())}") from error
    if not isinstance(config, Mapping):
        raise PpvaeError(
            f"--config must name a file of YAML like 'seed: 1', one line per option, and {file} is not one"
        )
    of_run = isinstance(config.get("versions"), Mapping)  # the config.yaml of a run says what it was made with
    return {str(name): value for name, value in config.items() if not (of_run and name == "versions")}


def _kinds(hint: Any) -> list[Any]:
    """The types of an annotation, generic ones by their origin."""
    each = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return [get_origin(kind) or kind for kind in each]


def _of_literal(hint: Any) -> Any:
    each = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return next(kind for kind in each if get_origin(kind) is Literal)


def _takes_several(each: Option) -> bool:
    of = _kinds(each.hint)
    return dict not in of and (list in of or tuple in of or each.name == "models") and each.name != "schedule"


def _unfolded(values: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.b": 1} as {"a": {"b": 1}}."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        head, _, rest = name.partition(".")
        out[head] = {**out.get(head, {}), **_unfolded({rest: value})} if rest else value
    return out


def _print_help(parser: Parser, name: str, words: list[str], subject: str | None) -> NoReturn:
    """Print the help of the command, with the options of the model that it names, and leave."""
    text = parser.format_help()
    at = words.index(f"--{subject}") + 1 if f"--{subject}" in words else len(words)
    if "model" in COMMANDS.facts(name) and at < len(words) and not words[at].startswith(("-", "[", "{")):
        from ppvae.cli.model_options import describe

        text += f"\noptions of {words[at]}:\n{describe(words[at])}\n"
    print(text, end="")
    raise SystemExit(0)
