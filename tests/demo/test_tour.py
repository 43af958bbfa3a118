import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support.machine import BIN_LONC, eventually


def processes_of(directory):
    """Pids of processes that name the directory in their command line or have it or its files open."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                words = os.fsdecode((process / "cmdline").read_bytes())
                words += "".join(os.readlink(fd) for fd in (process / "fd").iterdir())
            except OSError:
                continue
            if str(directory) in words:
                found.append(int(process.name))
    return found


@pytest.fixture
def tmp_path():
    """A short path: sockets are made two directories below it, and their paths are limited."""
    with tempfile.TemporaryDirectory(prefix="lonc-", dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture
def demo(tmp_path):
    """The tour, with `tmp_path` as its TMPDIR, so that leftovers can be found."""
    process = subprocess.Popen(
        [sys.executable, BIN_LONC, "demo"],  # as a user does: an interruption may come anywhere
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        start_new_session=True,
    )
    yield process
    process.kill()
    process.communicate()


def test_the_tour_holds_and_leaves_nothing_behind(demo, tmp_path):
    out, err = demo.communicate(timeout=60)
    assert (demo.returncode, err) == (0, b"")
    lines = out.decode().splitlines()
    assert sum(re.match(r" *\d+\.\d{3} s  \S", line) is not None for line in lines) == 15
    for word in (
        "authorized",
        "refused",
        "17",
        "1 MiB",
        "200 clients",
        "killed",
        "demo4",
        "exchanged in TLS",
        "another authority",
        "stopped",
    ):
        assert word in out.decode()
    assert os.listdir(tmp_path) == []
    eventually(lambda: processes_of(tmp_path) == [])


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("lines", [0, 1, 2, 3])
def test_interrupted_it_leaves_nothing_behind_either(demo, tmp_path, signum, lines):
    for _ in range(lines):
        demo.stdout.readline()
    if not lines:
        eventually(lambda: os.listdir(tmp_path))
    os.killpg(demo.pid, signum)
    _, err = demo.communicate(timeout=60)
    if demo.returncode != 0:  # the tour may have been over already
        assert demo.returncode == 130
        assert err == b"\nlonc: interrupted; all processes are ended and all files removed\n"
    assert os.listdir(tmp_path) == []
    eventually(lambda: processes_of(tmp_path) == [])
