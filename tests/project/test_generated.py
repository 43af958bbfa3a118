"""`doc/generate.py`: the documents agree with the declarations in the source."""

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lonc import errors
from lonc.commands.cli import COMMANDS
from lonc.configuration import DECLARATIONS, Settings
from lonc.monitoring.health import Level

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def generate():
    specification = importlib.util.spec_from_file_location("generate", ROOT / "doc" / "generate.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_documents_are_what_the_command_makes(generate):
    stale = [str(file) for file, text in generate.documents().items() if file.read_text() != text]
    assert stale == [], "run python3 doc/generate.py"


def test_every_part_stands_in_a_document(generate):
    text = "".join(map(Path.read_text, generate.documents()))
    for part, _ in generate.PARTS:
        assert f"generated: {part}" in text


def test_the_command_mends_a_document_and_says_which(tmp_path):
    for directory in ("doc", "etc", "lonc"):
        shutil.copytree(ROOT / directory, tmp_path / directory, ignore=shutil.ignore_patterns("__pyc*"))
    settings = tmp_path / "doc" / "settings.md"
    sound = settings.read_text()
    settings.write_text(sound.replace("| `londPort` |", "| `londPorts` |"))

    def run(*options):
        command = [sys.executable, "-B", tmp_path / "doc" / "generate.py", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    assert run("--check") == (1, "doc/settings.md\n", "")
    assert run() == (0, "doc/settings.md\n", "")
    assert settings.read_text() == sound
    assert run("--check") == (0, "", "")
    settings.write_text(sound.replace("generated: settings", "generated: nothing"))
    assert run()[2] == "generate.py: there is no part 'nothing' for a .md document\n"


def test_every_setting_has_a_meaning_and_what_it_accepts():
    for declaration in DECLARATIONS.values():
        assert declaration.help.endswith(".")
        assert declaration.help.count("`") % 2 == 0
        assert declaration.read.accepts
        assert (declaration.default or declaration.example) != ""


def test_the_settings_that_need_a_restart_are_those_that_a_reload_refuses():
    before = Settings()
    for attribute, declaration in DECLARATIONS.items():
        refused = before.fixed_changes(replaced(before, attribute))
        assert refused == [declaration.name] * declaration.restart


def replaced(settings, attribute):
    return replace(settings, **{attribute: object()})


@pytest.mark.parametrize(
    ("sentence", "mdoc"),
    [
        ("Plain words.", "Plain words.\n"),
        ("`a` and `b`: `c`.", ".Li a\nand\n.Li b :\n.Li c .\n"),
        ("Saved (`a`), or not (`b`).", "Saved\n.Pq Li a ,\nor not\n.Pq Li b .\n"),
        ("Requests `encrypt:` go.", "Requests\n.Li encrypt\\&:\ngo.\n"),
        ("word " * 20, f"{'word ' * 14}word\n{'word ' * 4}word\n"),
    ],
)
def test_a_sentence_in_mdoc(generate, sentence, mdoc):
    assert generate.mdoc(sentence) == mdoc


def test_every_exit_status_of_an_error_is_documented():
    documented = {status for status, command, _ in errors.EXIT_STATUSES if not command}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    raised = {kind.exit_status for kind in kinds if issubclass(kind, errors.LoncError)}
    assert raised <= documented
    assert {int(level) for level in Level} == {
        status for status, command, _ in errors.EXIT_STATUSES if command == "check-health"
    }


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_usage_of_a_command_is_that_of_its_help(generate, command):
    parsed = [sys.executable, "-m", "lonc", "help", *command.name.split()]
    environment = {**os.environ, "COLUMNS": "1000"}
    done = subprocess.run(parsed, capture_output=True, text=True, check=True, env=environment)
    usage = done.stdout.partition("\n\n")[0]
    for argument in command.arguments:
        assert generate.usage(argument) in usage
