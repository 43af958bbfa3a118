"""Every command and setting stands wherever somebody would look for it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.machine import LONC

from lonc.commands.cli import EXAMPLES, _parser
from lonc.configuration import DECLARATIONS

ROOT = Path(__file__).parents[2]
MANUAL = ROOT / "etc" / "man"
SETTINGS = [declaration.name for declaration in DECLARATIONS.values()]
COMMANDS = list(EXAMPLES)


def read(*parts):
    return ROOT.joinpath(*parts).read_text()


def test_every_command_has_an_example_that_can_be_read():
    parser = _parser()
    (commands,) = (action for action in parser._actions if action.dest == "COMMAND" or action.choices)
    assert list(commands.choices) == COMMANDS
    for example in EXAMPLES.values():
        parser.parse_args(example.partition(" < ")[0].split())


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_stands_everywhere(command):
    assert re.search(rf"^\.It Cm {command}\b", read("etc", "man", "lonc.8"), re.M)
    assert f"lonc {command}" in " ".join(read("README.md").split())
    done = subprocess.run([*LONC, command, "--help"], capture_output=True, text=True, check=True)
    assert f"example: lonc {EXAMPLES[command]}" in done.stdout


def test_every_command_of_delayed_stands_everywhere():
    done = subprocess.run([*LONC, "delayed", "--help"], capture_output=True, text=True, check=True)
    commands = re.findall(r"^    ([a-z]+) ", done.stdout, re.M)
    assert "reseal" in commands
    for command in commands:
        assert re.search(rf"^\.It Cm {command}\b", read("etc", "man", "lonc.8"), re.M)
        assert f"lonc delayed {command}" in " ".join(read("README.md").split())


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_stands_everywhere(setting):
    assert re.search(rf"^\.It Cm {setting}\b", read("etc", "man", "loncapa.conf.5"), re.M)
    assert re.search(rf"^\| `{setting}` \|", read("doc", "settings.md"), re.M)
    assert re.search(rf"\b{setting}\b", read("etc", "loncapa.conf"))


@pytest.mark.parametrize("page", sorted(os.listdir(MANUAL)))
@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
def test_the_manual_is_clean(page):
    done = subprocess.run(["mandoc", "-Tlint", MANUAL / page], capture_output=True, text=True)
    complaints = [line for line in done.stdout.splitlines() if "manual not found" not in line]
    assert complaints == []
