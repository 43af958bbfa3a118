"""The command that prints the settings."""

from __future__ import annotations

import argparse
import os

from lonc.commands.output import print_error, say
from lonc.configuration import DECLARATIONS
from lonc.configuration_file import Configuration, find_configuration, read_configuration
from lonc.errors import DONE, MISCONFIGURED, LoncError
from lonc.escape import escaped
from lonc.lifecycle.control_client import CANNOT_READ, ask_json

DEFAULT = "default"
NEVER_SET = "-"


def config(options: argparse.Namespace) -> int:
    """Print all settings, or with --running those of the daemon that differ; faults are errors."""
    configuration = read_configuration(find_configuration(options.configuration, os.environ))
    texts = configuration.settings.texts()
    if options.running:
        running = _running(configuration)
        rows = [
            [name, running[name], text, *_origin_and_restart(configuration, name)]
            for name, text in texts.items()
            if name in running and running[name] != text
        ]
        heading = ["SETTING", "RUNNING", "FILES", "RESTART", "FROM"]
        if not rows:
            say("lonc runs with the settings of the files")
    else:
        rows = [[name, text, *_origin_and_restart(configuration, name)] for name, text in texts.items()]
        heading = ["SETTING", "VALUE", "RESTART", "FROM"]
    if rows:
        _print_table([heading, *rows])
    for fault in configuration.faults:
        print_error(fault)
    return MISCONFIGURED if configuration.faults else DONE


def _running(configuration: Configuration) -> dict[str, str]:
    """The settings of the daemon, by name. Raises LoncError."""
    texts = ask_json(configuration.settings, "settings")
    if not isinstance(texts, dict):
        raise LoncError(CANNOT_READ)
    return {str(name): str(text) for name, text in texts.items() if name != "exit"}


def _origin_and_restart(configuration: Configuration, name: str) -> list[str]:
    (declaration,) = (each for each in DECLARATIONS.values() if each.name == name)
    origin = configuration.origins.get(name)
    return ["restart" if declaration.restart else "reload", DEFAULT if origin is None else str(origin)]


def _print_table(rows: list[list[str]]) -> None:
    cells = [[escaped(text) or NEVER_SET for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        say(line.rstrip())
