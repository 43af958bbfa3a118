"""Who may import whom: the structure of the program, held against its source."""

import ast
from pathlib import Path

import pytest

import lonc

PACKAGE = Path(lonc.__file__).parent

PATH_OF_A_REQUEST = {
    "addressee", "backoff", "channel", "chronicle", "cipher", "client", "configuration", "containers",
    "delayed", "durable", "errors", "event_loop", "handover", "hosts", "keying", "line_buffer",
    "listener", "log", "lond_connection", "lond_protocol", "pool", "process", "readers", "replay",
    "resolver", "seal", "status", "stock", "tally", "transaction",
}  # fmt: skip

MAY_IMPORT = {
    "__init__": set(),
    "errors": set(),
    "addressee": set(),
    "containers": set(),
    "line_buffer": {"errors"},
    "transaction": {"line_buffer"},
    "event_loop": set(),
    "backoff": set(),
    "process": set(),
    "systemd": set(),
    "socket_file": {"errors"},
    "channel": {"errors", "event_loop", "line_buffer"},
    "cipher": {"errors"},
    "readers": set(),
    "durable": set(),
    "configuration": {"errors", "readers"},
    "hosts": {"configuration", "errors", "readers"},
    "log": set(),
    "lond_protocol": {"cipher", "configuration", "errors", "line_buffer"},
    "tls": {"configuration", "errors"},
    "keying": {"__init__", "configuration", "errors", "hosts", "lond_protocol", "tls"},
    "authority": set(),
    "user_data": {"errors"},
    "resolver": {"event_loop"},
    "lond_connection": {
        "errors", "event_loop", "line_buffer", "lond_protocol", "resolver", "transaction",
    },
    "stock": set(),
    "client": {"errors", "event_loop", "line_buffer", "transaction"},
    "listener": {"client", "event_loop"},
    "handover": {"channel", "client", "event_loop", "line_buffer"},
    "tally": set(),
    "pool": {"backoff", "containers", "line_buffer", "tally", "transaction"},
    "chronicle": {"event_loop", "log", "pool"},
    "seal": {"durable", "errors"},
    "delayed": {"configuration", "durable", "errors", "readers", "seal"},
    "replay": {
        "configuration", "delayed", "errors", "event_loop", "line_buffer", "log", "seal", "transaction",
    },
    "post": {"delayed", "event_loop", "log", "status"},
    "status": {"tally"},
    "child": PATH_OF_A_REQUEST | {"__init__"},
    "child_process": {
        "channel", "child", "configuration", "event_loop", "hosts", "log", "process", "status",
    },
    "keeper": {
        "backoff", "child", "child_process", "configuration", "event_loop", "hosts", "log",
        "socket_file", "status",
    },
    "rollout": {"event_loop", "keeper"},
    "roster": {"configuration", "errors", "event_loop", "hosts", "keeper"},
    "survey": {"child_process", "event_loop", "keeper", "status"},
    "limits": {"answering", "configuration", "errors", "keying", "log", "process", "rollout", "seal"},
    "answering": {
        "client", "event_loop", "line_buffer", "listener", "log", "socket_file", "transaction",
    },
    "control": {"configuration", "errors", "status", "transaction"},
    "parent": {
        "__init__", "answering", "configuration", "control", "errors", "event_loop", "hosts", "keeper",
        "keying", "limits", "log", "post", "process", "rollout", "roster", "status", "survey", "systemd",
        "table",
        "transaction",
    },
    "health": {"status"},
    "table": {"health", "status"},
    "page": {"errors", "health", "status"},
    "top": {"errors", "health", "status"},
    "exporter": {"errors", "status", "tally"},
    "sources": {"configuration", "errors", "hosts"},
    "operation": {
        "configuration", "control", "delayed", "errors", "health", "hosts", "instance", "keying",
        "launch", "log", "post", "shutdown", "sources", "status",
    },
    "sending": {"configuration", "errors", "hosts", "lonnet", "seal", "sources"},
    "monitoring": {
        "configuration", "control", "errors", "exporter", "health", "hosts", "instance", "page",
        "sources", "status", "table", "top",
    },
    "privileges": {"configuration", "delayed", "errors", "process"},
    "instance": {"configuration", "delayed", "errors", "privileges"},
    "launch": {
        "cipher", "configuration", "control", "errors", "hosts", "instance", "limits", "log", "parent",
        "privileges", "process", "socket_file", "status",
    },
    "custody": {"configuration", "delayed", "durable", "errors", "seal"},
    "safekeeping": {
        "configuration", "custody", "errors", "health", "privileges", "seal", "sending", "sources",
    },
    "shutdown": {"configuration", "control", "errors", "hosts", "instance", "keying", "privileges"},
    "lonnet": {"configuration", "delayed", "errors", "hosts", "readers"},
    "loopback": {
        "__init__", "channel", "cipher", "configuration", "errors", "event_loop", "hosts", "keying",
        "line_buffer", "tls", "user_data",
    },
}  # fmt: skip

PURE = [
    "addressee",
    "backoff",
    "cipher",
    "containers",
    "errors",
    "line_buffer",
    "lond_protocol",
    "pool",
    "tally",
    "transaction",
]
IMPURE = {"logging", "os", "selectors", "signal", "socket", "time"}

ONLY_HERE = {
    "selectors": {"event_loop"},
    "select": {"event_loop", "shutdown", "top"},
    "logging": {"log", "chronicle", "keeper"},
}

MODULES = sorted(file.stem for file in PACKAGE.glob("*.py"))


def imports(module):
    """The modules of lonc that `module` imports, and the top-level names of all others."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            names = [node.module or ""]
            if node.module == "lonc":
                names = [f"lonc.{each.name}" for each in node.names]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == "lonc":
                ours.add(rest if rest in MODULES else "__init__")
            else:
                others.add(first)
    return ours, others


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_row_names(module):
    if module in ("cli", "demo"):
        return  # whatever they need
    ours, _ = imports(module)
    assert ours <= MAY_IMPORT[module]


def test_every_row_is_of_a_module():
    assert set(MAY_IMPORT) | {"cli", "demo"} == set(MODULES)


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_imports_neither_socket_nor_clock_nor_log(module):
    _, others = imports(module)
    assert not others & IMPURE


@pytest.mark.parametrize("name", ONLY_HERE)
def test_what_is_kept_in_few_modules(name):
    assert {module for module in MODULES if name in imports(module)[1]} <= ONLY_HERE[name]


def test_one_module_forks():
    callers = {module for module in MODULES if "os.fork(" in (PACKAGE / f"{module}.py").read_text()}
    assert callers == {"process"}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_opens_with_what_it_is_for(module):
    assert ast.get_docstring(ast.parse((PACKAGE / f"{module}.py").read_text()))
