"""Files are changed by descriptor (`lonc.runtime.directory`); a call by path needs a reason, here."""

import ast
from pathlib import Path

import pytest

import lonc

ROOT = Path(lonc.__file__).parent
MODULES = sorted(str(file.relative_to(ROOT).with_suffix("")) for file in ROOT.rglob("*.py"))

# Functions of os that change what a path names. With dir_fd they may: they name a file in a directory.
CHANGING = {
    "chmod", "chown", "lchown", "link", "makedirs", "mkdir", "mkfifo", "mknod", "remove", "removedirs",
    "removexattr", "rename", "renames", "replace", "rmdir", "setxattr", "symlink", "truncate", "unlink",
}  # fmt: skip
LOOKING = {"access", "listdir", "lstat", "open", "readlink", "scandir", "stat", "walk"}
# Methods of Path, and of no other class here.
METHODS_CHANGING = {"hardlink_to", "symlink_to", "touch", "write_bytes", "write_text"}
METHODS_LOOKING = {"glob", "iterdir", "lstat", "read_bytes", "read_text", "rglob"}
# Methods of Path that Directory has as well: there with a name, or more arguments.
MOST_ARGUMENTS = {"unlink": 0, "rename": 1, "rmdir": 0, "chmod": 1, "mkdir": 1}
MOST_ARGUMENTS_LOOKING = {"stat": 0}

MAY_CHANGE = {
    "demo/certificate_authority": "writes in a directory that the demo has just made for itself",
    "demo/lond": "plays lond, which removes the key file that lonc names",
    "demo/tour": "writes in a directory that the demo has just made for itself",
}
MAY_LOOK = MAY_CHANGE | {
    "commands/cli": "opens /dev/null",
    "commands/service": "asks for the group of lonSockDir",
    "lifecycle/instance": "reads lonc.pid, of which nothing is believed",
    "lifecycle/other_lonc": "reads /proc, and the time of lonc.pid",
    "lifecycle/privileges": "asks what the daemon's user may do, as that user",
    "lifecycle/start": "asks what the daemon's user may do",
    "log": "compares the log with its name; it is opened by descriptor",
    "monitoring/html": "reads page.css of the package",
    "runtime/process": "reads /proc",
    "runtime/socket_file": "asks whether a directory may be written",
    "runtime/trust": "asks who may write what leads to a file",
    "source_file": "reads configuration and tables; a start by root asks who may write them",
    "spool/sealing": "reads the key file; a start by root asks who may write it",
    "wire/tls": "reads certificates; a start by root asks who may write them",
}


def by_path(module, root=ROOT):
    """The calls by path in a module: those that change a file, and those that only look."""
    changing, looking = set(), set()
    for node in ast.walk(ast.parse((root / f"{module}.py").read_text())):
        if not isinstance(node, ast.Call):
            continue
        name, of_os = _called(node)
        named = {keyword.arg for keyword in node.keywords}
        if of_os:
            if name not in CHANGING | LOOKING:
                continue
            if named & {"dir_fd", "src_dir_fd"} or _is_descriptor(node):
                continue
            if name in CHANGING:
                changing.add(name)
            else:
                looking.add(name)
        elif isinstance(node.func, ast.Name) and name == "open":
            if "closefd" not in named:
                looking.add(name)
        elif isinstance(node.func, ast.Attribute):
            if name in METHODS_CHANGING or len(node.args) <= MOST_ARGUMENTS.get(name, -1):
                changing.add(name)
            elif name in METHODS_LOOKING or len(node.args) <= MOST_ARGUMENTS_LOOKING.get(name, -1):
                looking.add(name)
    return changing, looking


def _called(node):
    """The name of what is called, and whether it is a function of os."""
    function = node.func
    if isinstance(function, ast.Attribute):
        return function.attr, isinstance(function.value, ast.Name) and function.value.id == "os"
    return function.id if isinstance(function, ast.Name) else "", False


def _is_descriptor(node):
    """Whether the path is made of a descriptor: /proc/self/fd/N, or Directory.path_of."""
    first = node.args[0]
    if isinstance(first, ast.JoinedStr):
        beginning = first.values[0]
        return isinstance(beginning, ast.Constant) and beginning.value.startswith("/proc/self/fd/")
    return isinstance(first, ast.Call) and _called(first)[0] == "path_of"


@pytest.mark.parametrize("module", sorted({*MODULES} - {"runtime/directory"}))
def test_a_module_changes_files_by_descriptor_and_names_none_by_path(module):
    changing, looking = by_path(module)
    assert not changing or module in MAY_CHANGE
    assert not looking or module in MAY_LOOK


def test_every_reason_is_needed():
    assert {module for module in MAY_CHANGE if not by_path(module)[0]} == set()
    assert {module for module in MAY_LOOK if not any(by_path(module))} == set()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("os.unlink(path)", "changing"),
        ("os.unlink(name, dir_fd=fd)", ""),
        ("os.rename(a, b, src_dir_fd=fd, dst_dir_fd=fd)", ""),
        ("os.truncate(f'/proc/self/fd/{fd}', 0)", ""),
        ("os.access(directory.path_of('.'), 1)", ""),
        ("path.unlink()", "changing"),
        ("path.unlink(missing_ok=True)", "changing"),
        ("directory.unlink(name)", ""),
        ("path.rename(target)", "changing"),
        ("directory.rename(name, new)", ""),
        ("path.write_text(text)", "changing"),
        ("open(path)", "looking"),
        ("open(fd, 'rb', closefd=False)", ""),
        ("path.stat()", "looking"),
        ("directory.stat(name)", ""),
        ("os.listdir(path)", "looking"),
    ],
)
def test_what_counts_as_a_call_by_path(line, found, tmp_path):
    (tmp_path / "module.py").write_text(line)
    changing, looking = by_path("module", tmp_path)
    assert (bool(changing), bool(looking)) == (found == "changing", found == "looking")
