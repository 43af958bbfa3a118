"""A program of another user that plays lond here, or somebody on the way who answers for it."""

import os
import socket

import pytest
from support.machine import as_nobody, free_port
from support.scripted_lond import BUILD_KEY, ScriptedLond

QUICK = {"loncRetryDelay": "0.1", "loncRetryMaxDelay": "0.2"}


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
@pytest.mark.parametrize("mode", ["auto", "local", "insecure"])
def test_another_user_at_the_port_of_lond_gets_no_request(public, mode):
    """lond is down, and the program listens in its place. It sees the name of the key file."""
    machine = public
    machine.port = free_port("127.0.0.1")
    machine.sockets.mkdir(mode=0o755)
    machine.table.write_text(f"a1:dom:access:a1.example.org:{machine.address(1)}\n")
    machine.configure(loncKeyMode=mode, **QUICK)
    machine.start()

    def play_lond():
        with socket.create_server(("127.0.0.1", machine.port)) as listening:
            listening.settimeout(60)
            connection, _ = listening.accept()
            with connection, connection.makefile("rb") as lines:
                connection.settimeout(60)
                word, how, file, _ = lines.readline().split(b":")
                failures = []
                for try_it in (lambda: os.close(os.open(file, os.O_RDONLY)), lambda: os.unlink(file)):
                    try:
                        try_it()
                    except PermissionError:
                        failures.append("denied")
                connection.sendall(b"ok:local\n")
                return repr((word, how, failures, lines.readline()))

    assert as_nobody(play_lond) == repr((b"init", b"local", ["denied", "denied"], b""))
    assert machine.ask(b"encrypt:auth:dom:user:pw", "a1") == b"con_lost"


def test_a_false_answer_in_clear_to_an_enciphered_request_is_not_believed(machine):
    """Somebody who can change the network knows no key, and writes `authorized` in place of lond."""

    def script(peer):
        peer.hear()
        for answer in (b"12345", b"ok", b"2.11", b"ok", BUILD_KEY):
            peer.say(answer)
            peer.hear()
        peer.say(b"authorized")
        peer.hear()

    machine.configure(loncKeyMode="insecure", **QUICK)
    with ScriptedLond(machine.address(1), machine.port, script):
        machine.run()
        assert machine.ask(b"encrypt:auth:dom:user:wrong") == b"con_lost"
        machine.stop()
