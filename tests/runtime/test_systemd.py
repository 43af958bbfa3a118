import re
import socket
import time

import pytest

from lonc.runtime import systemd


@pytest.fixture
def manager(tmp_path, monkeypatch):
    """The service manager's socket, named in the environment."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(10)
        listening.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listening


def test_a_message_arrives(manager):
    systemd.notify(systemd.READY)
    assert manager.recv(100) == b"READY=1"


def test_an_address_with_an_at_sign_is_in_the_abstract_namespace(tmp_path, monkeypatch):
    name = f"{tmp_path}@x"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(10)
        listening.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        systemd.notify("READY=1")
        assert listening.recv(100) == b"READY=1"


def test_without_an_address_or_with_one_of_another_kind_nothing_is_sent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("relative")
        listening.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", "relative")
        systemd.notify("READY=1")
        with pytest.raises(BlockingIOError):
            listening.recv(100)


def test_a_manager_that_has_ended_or_does_not_read_is_no_error(manager):
    for _ in range(10_000):
        systemd.notify("READY=1")
    manager.close()
    systemd.notify("READY=1")


def test_a_reload_has_its_time_in_microseconds():
    before = time.monotonic_ns() // 1000
    message = systemd.reloading()
    found = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", message)
    assert before <= int(found[1]) <= time.monotonic_ns() // 1000
