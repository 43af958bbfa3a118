import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmark import hosts
from support.machine import eventually, exists


def test_a_short_round_has_a_figure_for_each_case(tmp_path):
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "tests.benchmark", "cipher", "--rounds", "1", "--seconds", "0.05"]
    done = subprocess.run(
        [*command, "--json", file], cwd=Path(__file__).parents[2], capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")
    found = json.loads(file.read_text())
    assert [each["case"] for each in found] == [
        "enciphered request and reply, 100 B",
        "enciphered reply, 1 MiB",
    ]
    for each in found:
        assert each["least"] <= each["figure"] <= each["most"]
        assert all(side["cpu_us"] > 0 for side in each["sides"].values())
        assert each["case"].encode() in done.stdout


def test_a_group_that_is_not_there_is_named():
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmark", "nothing"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
    )
    assert done.returncode == 2
    assert b"there is no nothing" in done.stderr


def test_forks_that_fail_are_said_and_leave_nobody_behind(restore_afterwards, tmp_path):
    file = tmp_path / "group"
    failing = (
        "import os, signal, sys\n"
        "children = [os.fork() or (os.close(1), signal.pause()) for _ in range(int(sys.argv[2]))]\n"
        "open(sys.argv[1], 'w').write(' '.join(map(str, children)))\n"
        "1 / 0"
    )
    restore_afterwards(hosts)
    hosts.HOSTS = 3
    hosts.FORKS = [sys.executable, "-c", failing, str(file)]
    with pytest.raises(AssertionError, match="cannot be forked"):
        hosts.forks()
    pids = list(map(int, file.read_text().split()))
    assert len(pids) == 3
    eventually(lambda: not any(map(exists, pids)))
