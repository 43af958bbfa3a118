"""Another process of the daemon's user reads the daemon's memory, which holds passwords and keys."""

import os

import pytest
from support import preparations
from support.machine import Machine, program

USER = 65534


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("command", [Machine.run, Machine.start])
def test_no_process_of_the_same_user_can_trace_the_daemon(public, command):
    os.chown(public.directory, USER, USER)
    os.chown(public.directory / "daemons", USER, USER)
    command(public, program=program(preparations.become_as_by_login, USER))
    for pid in (public.lonc.pid, *public.children().values()):
        # The kernel gives the files about a process to root if its own user may not trace it.
        assert os.stat(f"/proc/{pid}/mem").st_uid == 0
