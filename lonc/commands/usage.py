"""How a command is declared, and the argument parser that is built from the declarations."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from lonc import __version__
from lonc.commands.output import print_error
from lonc.configuration import did_you_mean
from lonc.configuration_file import DEFAULT_FILES
from lonc.errors import DONE, USAGE, UsageError

WIDTH = 79  # columns of a description
CONFIGURATION_HELP = f"configuration file; default: $LONC_CONF, {', '.join(map(str, DEFAULT_FILES))}"


class Argument:
    """An argument or option of a command.

    `names`: the option's spellings, or the one name of a positional argument.
    `help`: its meaning, a phrase without a full stop.
    `options`: the other keywords of `argparse.ArgumentParser.add_argument`.
    """

    def __init__(self, *names: str, help: str, **options: Any) -> None:
        self.names = names
        self.help = help
        self.options = options


@dataclass(frozen=True)
class Command:
    """A command of lonc, declared once: parser, help and documents come from here."""

    name: str  # as typed; of a command below another both words, `delayed list`
    group: str  # a key of GROUPS
    help: str  # one line, without a full stop
    description: str  # sentences
    example: str  # as typed behind `lonc `
    run: Callable[[argparse.Namespace], int] | None = None  # None: it only groups commands below it
    arguments: Sequence[Argument] = ()


class Parser(argparse.ArgumentParser):
    """Prints errors in lonc's one shape, and suggests the nearest command for a mistyped one."""

    def error(self, message: str) -> NoReturn:
        """Print one line on standard error and exit as for wrong usage."""
        print_error(f"{message}; see `{self.prog.replace('lonc', 'lonc help', 1)}`")
        sys.exit(USAGE)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # argparse's own message lists all commands, in words that differ between Python versions.
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            raise UsageError(unknown_command(self.prog, value, list(action.choices)))
        super()._check_value(action, value)


def unknown_command(prog: str, name: str, known: Sequence[str]) -> str:
    """The sentence about a command that does not exist below `prog` (`lonc`, `lonc delayed`)."""
    return f"there is no command `{prog} {name}`{did_you_mean(name, known)}"


def build_parser(commands: Sequence[Command], groups: Mapping[str, str]) -> Parser:
    """The parser of all `commands`, listed below the headings of `groups`.

    Parsing sets `configuration`, `run`, the command's function, and `parsers`, every parser by the name
    of its command ("" is lonc itself).
    """
    sections = [
        _section(title, [each for each in commands if each.group == key and each.run is not None])
        for key, title in groups.items()
    ]
    description = "Forwards requests of local programs to the londs of a LON-CAPA network."
    parser = Parser(
        "lonc",
        description="\n\n".join([description, *sections]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.epilog = "`lonc help COMMAND` describes a command and shows an example."
    parser.add_argument("--version", action="version", version=f"lonc {__version__}")
    _add_configuration(parser, default=None)
    parsers, actions = {"": parser}, {"": _add_subparsers(parser)}
    for command in commands:
        parent, _, word = command.name.rpartition(" ")
        inner = [each for each in commands if each.name.startswith(f"{command.name} ")]
        paragraphs = [textwrap.fill(command.description, WIDTH)]
        built = actions[parent].add_parser(word, formatter_class=argparse.RawDescriptionHelpFormatter)
        for argument in command.arguments:
            built.add_argument(*argument.names, help=argument.help, **argument.options)
        # SUPPRESS: without -c behind the command, the one before it holds.
        _add_configuration(built, default=argparse.SUPPRESS)
        if inner:
            actions[command.name] = _add_subparsers(built)
            paragraphs.append(_section("commands", inner, drop=f"{command.name} "))
        built.description = "\n\n".join(paragraphs)
        built.epilog = f"example: lonc {command.example}"
        built.set_defaults(run=command.run)
        parsers[command.name] = built
    parser.set_defaults(parsers=parsers)
    return parser


def _section(title: str, commands: Sequence[Command], drop: str = "") -> str:
    """A heading and a line for each command, whose name is printed without the prefix `drop`."""
    lines = [f"    {command.name.removeprefix(drop):<17}{command.help}" for command in commands]
    return "\n".join([f"{title}:", *lines])


def _add_configuration(parser: Parser, default: str | None) -> None:
    parser.add_argument(
        "-c", dest="configuration", metavar="FILE", default=default, help=CONFIGURATION_HELP
    )


def _add_subparsers(parser: Parser) -> argparse._SubParsersAction[Parser]:
    """Without a list of them: the description has one, in groups."""
    parser.usage = f"{parser.prog} [-c FILE] COMMAND ..."
    return parser.add_subparsers(
        prog=parser.prog, metavar="COMMAND", required=True, help=argparse.SUPPRESS
    )


def print_help(options: argparse.Namespace) -> int:
    """`lonc help [COMMAND]`: print the help of lonc, or of the command in `options.words`."""
    parsers: dict[str, Parser] = options.parsers
    name = ""
    for word in options.words:
        inner = f"{name} {word}".strip()
        if inner not in parsers:
            prefix = f"{name} ".lstrip()
            known = [each.removeprefix(prefix) for each in parsers if each.startswith(prefix) and each]
            raise UsageError(unknown_command(f"lonc {name}".rstrip(), word, known))
        name = inner
    parsers[name].print_help()
    return DONE
