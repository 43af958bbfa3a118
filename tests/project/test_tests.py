"""Rules for the tests themselves."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
# conftest.py restores attributes of any name; the texts here are examples.
FILES = sorted(
    {str(file.relative_to(TESTS)) for file in TESTS.rglob("*.py")}
    - {"conftest.py", str(Path(__file__).relative_to(TESTS))}
)
PACKAGES = "child|commands|demo|lifecycle|monitoring|parent|runtime|spool|wire"
# Modules and attributes in a text: mypy cannot see them, so they would survive a renaming.
NAMED = re.compile(
    rf"\blonc\.(?:{PACKAGES})\.[a-z]|\bfrom (?:lonc|support|faults|network|fuzz)\b[\w.]* import\b"
    r"|\bimport (?:lonc|support|faults|network|fuzz)\b"
)
BY_NAME = ("getattr", "setattr", "delattr", "hasattr", "attrgetter", "methodcaller", "patch", "object")


def texts(tree: ast.AST) -> Iterator[ast.Constant]:
    """Every text that is no docstring."""
    docstrings = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            yield node


def from_standard_library(tree: ast.AST) -> set[str]:
    """Names that an import binds to something of the standard library: its attributes do not change."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname or alias.name.partition(".")[0]: alias for alias in node.names}.keys()
        elif isinstance(node, ast.ImportFrom):
            modules = {alias.asname or alias.name for alias in node.names}
            if (node.module or "").partition(".")[0] in sys.stdlib_module_names:
                found |= modules
    ours = {"lonc", "support", "faults", "network", "fuzz", "benchmark"}
    return found - ours


def named_in_text(tree: ast.AST) -> Iterator[int]:
    """Lines where a text, or a call that takes an attribute by name, names what may be renamed."""
    for text in texts(tree):
        if NAMED.search(text.value):
            yield text.lineno
    safe = from_standard_library(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
            root = ast.unparse(node.args[0]).partition(".")[0]
            if name in BY_NAME and ast.unparse(node.func) != "object" and root not in safe:
                yield node.lineno


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("monkeypatch.setattr('lonc.child.pool.Pool', 1)", True),
        ("monkeypatch.setattr(child._channel.__class__, 'send', 1)", True),
        ("getattr(settings, name)", True),
        ("mock.patch('anything')", True),
        ("mock.patch.object(pool, 'open')", True),
        ("code = 'from lonc.log import open_log'", True),
        ("import os\nmonkeypatch.setattr(os, 'write', 1)", False),
        ("import lonc.child.pool\nsetattr(lonc.child.pool, 'Pool', 1)", True),
        ("from pathlib import Path\nmonkeypatch.setattr(Path, 'mkdir', 1)", False),
        ("def test():\n    'As lonc.child.pool.Pool does.'", False),
        ("child.send = 1", False),
    ],
)
def test_the_rule_finds_what_it_is_to_find(line, found):
    assert bool(list(named_in_text(ast.parse(line)))) == found


@pytest.mark.parametrize("file", FILES)
def test_no_text_names_a_module_or_attribute_that_mypy_cannot_see(file):
    lines = [f"{file}:{line}" for line in named_in_text(ast.parse((TESTS / file).read_text()))]
    assert lines == [], "assign to the attribute (see restore_afterwards), or pass the function"
