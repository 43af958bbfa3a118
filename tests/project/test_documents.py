"""The documents: links, size, examples; every command and setting is in them."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from support.machine import BIN_LONC, eventually, free_port, holders

from lonc.commands.cli import COMMANDS
from lonc.configuration import DECLARATIONS

ROOT = Path(__file__).parents[2]
MANUAL = ROOT / "etc" / "man"
SETTINGS = [declaration.name for declaration in DECLARATIONS.values()]
NAMES = [command.name for command in COMMANDS if command.run is not None]

DOCUMENTS = sorted(
    str(file.relative_to(ROOT))
    for file in [*ROOT.glob("*.md"), ROOT / "CHANGES", *ROOT.glob("doc/*.md")]
)

CODE_BLOCK = re.compile(r"^```.*?^```$|^    .*?$", re.M | re.S)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PATH = re.compile(r"`([\w.-]+/[\w./-]*)`")
RUNNABLE = re.compile(r"^```sh run\n(.*?)^```$", re.M | re.S)
SOURCE_DIRECTORIES = {"bin", "doc", "etc", "init.d", "lonc", "tests", *os.listdir(ROOT / "lonc")}


def read(*parts):
    return ROOT.joinpath(*parts).read_text()


def anchors(document):
    """The names that GitHub gives to the headings of a document."""
    text = CODE_BLOCK.sub("", read(document))
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_has_a_target(document):
    for link in LINK.findall(CODE_BLOCK.sub("", read(document))):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.resolve().relative_to(ROOT)), link


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_of_the_project_that_is_named_exists(document):
    for path in PATH.findall(read(document)):
        if path.partition("/")[0] in SOURCE_DIRECTORIES and path == path.lower():
            assert (ROOT / path).exists() or (ROOT / "lonc" / path).exists(), path


def test_every_function_that_the_design_names_exists():
    source = "".join(file.read_text() for file in (ROOT / "lonc").rglob("*.py"))
    named = re.findall(r"`([a-z]+(?:_[a-z]+)+)(?:\([a-z, ]*\))?`", read("doc", "design.md"))
    assert len(named) > 5
    for name in named:
        assert re.search(rf"\b{name}\b", source), name


def test_every_message_that_troubleshooting_quotes_is_one_of_lonc():
    """Those in italics that begin with a small letter; the others are the system's."""
    table = read("doc", "operations.md").partition("## Troubleshooting")[2].partition("\n## ")[0]
    quoted = re.findall(r"(?<!\*)\*([a-z][^*]+)\*(?!\*)", table)
    source = "".join(file.read_text() for file in (ROOT / "lonc").rglob("*.py"))
    assert len(quoted) > 3
    for message in quoted:
        for part in filter(None, message.split("…")):
            assert part.strip() in source, message


def security_rows():
    """The rows of the tables in SECURITY.md that name tests: sentence, test."""
    rows = [line.strip("|").split(" | ") for line in read("SECURITY.md").splitlines() if "::" in line]
    return [(row[0].strip(), row[-1]) for row in rows]


def test_every_sentence_of_the_tables_of_security_has_a_test_that_exists():
    named = [re.findall(r"`([\w/]+\.py)::(\w+)`", tests) for _, tests in security_rows()]
    assert len(named) > 15
    for (sentence, _), tests in zip(security_rows(), named, strict=True):
        assert sentence.endswith("."), sentence
        assert tests, sentence
        for file, function in tests:
            assert f"def {function}(" in read("tests", file), f"{file}::{function}"
    tables = re.findall(r"^\| \| shown by \|\n\|---\|---\|\n((?:\|.*\n)*)", read("SECURITY.md"), re.M)
    assert sum(table.count("\n") for table in tables) == len(named), "a row without a test"


def test_the_readme_is_short_and_names_every_document():
    assert len(read("README.md").encode()) <= 10240
    linked = {link.partition("#")[0] for link in LINK.findall(read("README.md"))}
    assert set(DOCUMENTS) - {"README.md"} <= linked


def test_the_picture_is_small():
    for picture in (ROOT / "doc" / "images").iterdir():
        assert picture.stat().st_size < 100_000


@pytest.mark.parametrize("document", ["README.md", "doc/operations.md"])
def test_the_examples_run(document, tmp_path):
    """Those marked with `sh run`. Only the port is another one: 5663 may be in use here."""
    first, last = RUNNABLE.findall(read("README.md"))
    between = RUNNABLE.findall(read(document)) if document != "README.md" else []
    script = "set -ex\n" + first.replace("5663", str(free_port("127.0.0.2"))) + "".join(between) + last
    environment = {**os.environ, "PATH": f"{BIN_LONC.parent}:{os.environ['PATH']}"}
    environment.pop("LONC_CONF", None)
    bash = subprocess.Popen(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    daemon = tmp_path / "try" / "logs" / "lonc.pid"
    with contextlib.suppress(subprocess.TimeoutExpired):
        bash.wait(180)
    try:
        if bash.returncode == 0:
            eventually(
                lambda: not group_exists(bash.pid)
            )  # bash does not wait for the londs it has killed
            assert holders(daemon) == []
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(bash.pid, signal.SIGKILL)
        for pid in holders(daemon):
            os.kill(pid, signal.SIGKILL)
        output = bash.communicate()[0]
    assert bash.returncode == 0, output
    assert "\nhello\n" in output


def group_exists(number):
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("command", NAMES)
def test_every_command_is_in_the_documents(command):
    assert re.search(rf"^\.It Cm {command}( |$)", read("etc", "man", "lonc.8"), re.M)
    assert re.search(rf"^### lonc {command}$", read("doc", "commands.md"), re.M)
    document = read("doc", "delayed.md") if command.startswith("delayed ") else read("README.md")
    assert f"`lonc {command}" in " ".join(document.split())


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_is_in_the_documents(setting):
    assert re.search(rf"^\.It Cm {setting}\b", read("etc", "man", "loncapa.conf.5"), re.M)
    assert re.search(rf"^\| `{setting}` \|", read("doc", "settings.md"), re.M)
    assert re.search(rf"\b{setting}\b", read("etc", "loncapa.conf"))


@pytest.mark.parametrize("page", sorted(os.listdir(MANUAL)))
@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
def test_the_manual_is_clean(page):
    done = subprocess.run(["mandoc", "-Tlint", MANUAL / page], capture_output=True, text=True)
    complaints = [line for line in done.stdout.splitlines() if "manual not found" not in line]
    assert complaints == []
