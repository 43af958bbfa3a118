"""Who can read the log, whoever starts lonc, and where it is after it was rotated."""

import os
import stat

import pytest
from support import preparations
from support.machine import children_of, eventually, program


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_the_mode_of_the_log_does_not_depend_on_the_umask_of_the_caller(machine, umask):
    machine.start(preexec_fn=lambda: os.umask(umask))
    log = machine.settings().log_file
    assert stat.S_IMODE(log.stat().st_mode) == 0o640
    log.rename(log.with_name("rotated"))
    assert machine.command("reload").returncode == 0
    assert stat.S_IMODE(log.stat().st_mode) == 0o640


def test_idle_processes_follow_a_rotated_log(machine):
    """They do so when the parent pings the children: here each 100 ms, else each ten seconds."""
    machine.hosts("l1", "l2")
    machine.start(program=program(preparations.check_children_often))
    log = machine.settings().log_file
    log.rename(log.with_name("rotated"))

    def follow():
        processes = [machine.lonc.pid, *children_of(machine.lonc.pid)]
        return {os.readlink(f"/proc/{pid}/fd/2") for pid in processes} == {str(log)}

    eventually(follow)
