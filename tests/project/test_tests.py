"""Rules for the tests themselves."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
FILES = sorted(str(file.relative_to(TESTS)) for file in TESTS.rglob("*.py"))
PACKAGES = "child|commands|demo|lifecycle|monitoring|parent|runtime|spool|wire"
# A module or attribute of lonc in a text: mypy cannot see it, so it would survive a renaming.
NAMED_IN_TEXT = re.compile(rf"\blonc\.(?:{PACKAGES})\.[a-z]|\bimport lonc\b.*\blonc\.")


@pytest.mark.parametrize("file", FILES)
def test_no_text_names_a_module_or_attribute_of_lonc(file):
    tree = ast.parse((TESTS / file).read_text())
    lonc = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "lonc"
        for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            assert not NAMED_IN_TEXT.search(text) or ast.get_docstring(tree) == text, (file, node.lineno)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", None) in ("setattr", "delattr"):
            owner = ast.unparse(node.args[0]).partition(".")[0]
            assert owner not in lonc, f"{file}:{node.lineno}: use restore_afterwards"
