"""A member of the sockets' group connects as often as it can."""

import os
import socket

import pytest
from support.crowding import crowd
from support.machine import asked, eventually, read_line

MEMBER = 65534

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


def test_a_thousand_idle_connections_of_one_user_do_not_shut_out_another(public):
    public.configure(loncMaxClients=1000, loncMaxClientsPerUser=500)
    public.start_lond("l1")
    public.run()
    with crowd(public.sockets / "l1", 1000, MEMBER, os.getgid()) as count:
        assert count == 1000
        eventually(lambda: public.status()["clients"] == 501)
        assert public.ask(b"ping") == b"l1"


def test_idle_connections_are_closed_after_a_while(public):
    public.configure(loncMaxClients=100, loncClientIdleTimeout=1)
    public.start_lond("l1")
    public.run()
    with crowd(public.sockets / "l1", 200, MEMBER, os.getgid()):
        assert public.ask(b"ping") == b"l1"  # in the backlog until there is room


@pytest.mark.parametrize("line", [b"", b"nonsense\n" * 500], ids=["idle", "reads nothing"])
def test_the_socket_for_creation_makes_room_whatever_the_others_owe(public, line):
    creation = public.sockets / "common_parent"
    public.configure(lonSockCreate=creation, loncChildren="eager")
    public.run()
    with crowd(creation, 200, MEMBER, os.getgid(), line), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(creation))
        client.sendall(b"l1.example.org:l1\n")
        assert read_line(client) == b"done"
        assert b'"phase": "running"' in asked(public, b"status")


def test_the_control_socket_makes_room_whatever_the_others_owe(public):
    public.run()
    control = public.pid_file.with_name("lonc.ctl")
    # 200 programs of the daemon's user that ask for much and read nothing
    with crowd(control, 200, os.getuid(), os.getgid(), b"status\n" * 500):
        assert b'"phase": "running"' in asked(public, b"status")
        assert public.command("stop").returncode == 0
