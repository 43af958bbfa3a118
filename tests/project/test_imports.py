"""Which package may import which: the structure of the program, held against its source."""

import ast
from functools import cache
from pathlib import Path

import pytest

import lonc

ROOT = Path(lonc.__file__).parent

# Each package may import the ones named, and itself. "lonc" stands for the modules that all read.
MAY_IMPORT = {
    "runtime": set(),
    "lonc": {"runtime"},
    "wire": {"lonc", "runtime"},
    "spool": {"lonc", "runtime"},
    "lonnet": {"spool", "lonc", "runtime"},
    "monitoring": {"lonc", "runtime"},
    "child": {"monitoring", "spool", "wire", "lonc", "runtime"},
    "parent": {"child", "monitoring", "spool", "wire", "lonc", "runtime"},
    "lifecycle": {"parent", "monitoring", "spool", "wire", "lonc", "runtime"},
    "demo": {"lonnet", "wire", "lonc", "runtime"},
    "commands": {
        "demo",
        "lifecycle",
        "parent",
        "monitoring",
        "lonnet",
        "spool",
        "wire",
        "lonc",
        "runtime",
    },
}

# No socket, file, clock, log or signal.
PURE = {
    "child/own_requests",
    "child/pool",
    "child/reachability",
    "child/transaction",
    "child/work_queue",
    "errors",
    "escape",
    "monitoring/statistics",
    "replies",
    "runtime/backoff",
    "runtime/containers",
    "runtime/line_buffer",
    "wire/cipher",
    "wire/lond_protocol",
    "wire/wrong_key",
}
IMPURE = {"logging", "os", "selectors", "signal", "socket", "time"}

ONLY_HERE = {
    "selectors": {"runtime/event_loop"},
    "select": {"runtime/event_loop", "lifecycle/stop", "monitoring/top"},
    "logging": {"log", "child/history", "parent/supervisor"},
}

MODULES = sorted(str(file.relative_to(ROOT).with_suffix("")) for file in ROOT.rglob("*.py"))


def package(module):
    """The row of MAY_IMPORT that `module` belongs to."""
    first, _, rest = module.partition("/")
    if module == "__main__":
        return "commands"
    return first if rest or module == "lonnet" else "lonc"


@cache
def tree(module):
    return ast.parse((ROOT / f"{module}.py").read_text())


def imports(module):
    """The modules of lonc that `module` imports, and the top-level names of all others."""
    ours, others = set(), set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            names = [f"{node.module}.{each.name}" for each in node.names]
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            if first != "lonc":
                others.add(first)
                continue
            path = "/".join(rest)
            while path and path not in MODULES:
                path = path.rpartition("/")[0]
            ours.add(path or "__init__")
    return ours, others


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_the_row_of_its_package_names(module):
    mine = package(module)
    ours, _ = imports(module)
    assert {package(each) for each in ours} <= MAY_IMPORT[mine] | {mine}


def test_every_package_has_a_row():
    assert {package(module) for module in MODULES} == set(MAY_IMPORT)


@pytest.mark.parametrize("module", sorted(PURE))
def test_a_pure_module_imports_neither_socket_nor_clock_nor_log(module):
    assert not imports(module)[1] & IMPURE


@pytest.mark.parametrize("name", ONLY_HERE)
def test_what_is_kept_in_few_modules(name):
    assert {module for module in MODULES if name in imports(module)[1]} == ONLY_HERE[name]


def test_one_module_forks():
    callers = {module for module in MODULES if "os.fork(" in (ROOT / f"{module}.py").read_text()}
    assert callers == {"runtime/process"}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_opens_with_what_it_is_for(module):
    assert ast.get_docstring(tree(module))
