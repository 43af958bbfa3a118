import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import settings
from support import launcher
from support.machine import Machine

# `--hypothesis-profile thorough` tries more, and at random.
settings.register_profile("brief", max_examples=30, derandomize=True, deadline=None)
settings.register_profile("thorough", max_examples=500, deadline=None)
settings.load_profile("brief")


def pytest_addoption(parser):
    parser.addoption("--rounds", type=int, default=3, help="how often several starts at once are tried")
    help_ = "how many seconds the slowest request of the test of reloads lasts at least"
    parser.addoption("--slow", type=float, default=0, help=help_)


@pytest.fixture
def slow(request):
    return request.config.getoption("--slow")


@pytest.fixture
def rounds(request):
    return request.config.getoption("--rounds")


def _descriptors() -> set[str]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
        except FileNotFoundError:
            continue  # the one that listed the directory
    return found


def _children() -> set[str]:
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            found.update((task / "children").read_text().split())
    return found


@pytest.fixture(autouse=True)
def nothing_left():
    """No test leaves a descriptor or a process behind."""
    descriptors, children = _descriptors(), _children()
    yield
    deadline = time.monotonic() + 5
    while (_descriptors() - descriptors or _children() - children) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _descriptors() - descriptors == set()
    assert _children() - children == set()


@pytest.fixture
def restore_afterwards():
    """A function of a module or class: after the test its attributes are what they are now.

    So a test assigns to attributes that mypy can see: monkeypatch.setattr takes their names as text.
    """
    with contextlib.ExitStack() as stack:

        def note(owner):
            for name, value in list(vars(owner).items()):
                if not name.startswith("__"):
                    stack.callback(restore, owner, name, value)

        def restore(owner, name, value):
            if vars(owner).get(name) is not value:
                setattr(owner, name, value)

        yield note


@pytest.fixture(scope="session")
def forks():
    """Commands of the machines are started by fork."""
    launcher.current = launcher.Launcher()
    yield
    launcher.current.end()
    launcher.current = None


@pytest.fixture
def public(forks):
    """A machine whose files everybody may read."""
    directory = Path(tempfile.mkdtemp(prefix="lonc-test-"))
    directory.chmod(0o755)
    made = Machine(directory)
    yield made
    try:
        made.end()
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def machine(forks, tmp_path):
    """A configuration in a directory of its own, at addresses of its own; all it started is ended."""
    made = Machine(tmp_path)
    yield made
    made.end()
