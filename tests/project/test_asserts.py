"""No peer can end a program by an `assert`, and `python -O`, which removes them, changes nothing.

An `assert` tells mypy what the program knows about its own objects. It must not be about anything that
others have sent or written: that is an error with a class of its own.
"""

import ast
from pathlib import Path

import pytest

import lonc

ROOT = Path(lonc.__file__).parent
MODULES = sorted(str(file.relative_to(ROOT).with_suffix("")) for file in ROOT.rglob("*.py"))

# Functions that raise AssertionError: each time lonc itself has called what it may not call then.
RAISES = {
    "child/client": {"complete"},
    "child/connector": {"_never"},
    "child/lond_connection": {"_already_closed"},
    "parent/control": {"answer"},
    "parent/supervisor": {"_step"},
    "runtime/event_loop": {"want"},
    "runtime/process": {"die_with_parent"},
    "wire/lond_protocol": {"_step"},
}


def functions(module):
    tree = ast.parse((ROOT / f"{module}.py").read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def root_name(node):
    """The name at the beginning of `a.b.c`; None for anything else, such as a call."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def of_own_attributes(function):
    """Local names that are assigned from attributes of `self`, or from a Popen, and nothing else."""
    own, others = {"self"}, set()
    for node in ast.walk(function):
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=True))
            for name, value in pairs:
                if isinstance(name, ast.Name):
                    (own if root_name(value) == "self" else others).add(name.id)
    return own - others


def is_narrowing(node, own):
    """Whether it is `assert X is not None` where X is an attribute of our own objects."""
    test = node.test
    return (
        isinstance(test, ast.Compare)
        and isinstance(test.ops[0], ast.IsNot)
        and isinstance(test.comparators[0], ast.Constant)
        and test.comparators[0].value is None
        and root_name(test.left) in own
    )


@pytest.mark.parametrize("module", MODULES)
def test_an_assert_is_only_about_our_own_objects(module):
    for function in functions(module):
        # An argument of a callback of the supervisor is one of its own children.
        own = of_own_attributes(function) | ({"child"} if module == "parent/supervisor" else set())
        own |= {"lond"} if module == "demo/tour" else set()  # a Popen
        for node in ast.walk(function):
            if isinstance(node, ast.Assert):
                assert is_narrowing(node, own), f"{module}: line {node.lineno}"


@pytest.mark.parametrize("module", MODULES)
def test_an_assertion_error_is_raised_only_where_lonc_calls_itself_wrongly(module):
    raising = {
        function.name
        for function in functions(module)
        for node in ast.walk(function)
        if isinstance(node, ast.Raise)
        and node.exc is not None
        and "AssertionError" in ast.unparse(node.exc)
    }
    assert raising == RAISES.get(module, set())
