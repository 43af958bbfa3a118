"""Somebody who can connect to the exporter sends half requests."""

import os
import resource
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from support.machine import LONC, eventually

FILES = 64  # that the exporter may have open
CLIENTS = 120


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def exporter(machine):
    """The process and the URL of an exporter that may have few files open."""
    command = [*LONC, "-c", machine.configuration, "exporter", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES)),
    )
    with process:
        yield process, process.stdout.readline().split()[-1].decode()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_half_requests_neither_make_it_spin_nor_shut_others_out(exporter):
    process, url = exporter
    host, port = url.split("/")[2].split(":")
    clients = []
    for _ in range(CLIENTS):
        client = socket.create_connection((host, int(port)), timeout=10)
        clients.append(client)
        client.sendall(b"GET /metrics HTTP/1.1\r\n")
    with urllib.request.urlopen(url, timeout=20) as answer:
        assert b"\nlonc_up 0.0\n" in answer.read()
    before = cpu_seconds(process.pid)
    time.sleep(2)  # an interval to measure in, not one to wait for something
    assert cpu_seconds(process.pid) - before < 0.5
    assert len(os.listdir(f"/proc/{process.pid}/fd")) < FILES
    threads = os.listdir(f"/proc/{process.pid}/task")
    assert len(threads) == 1
    for client in clients:
        client.setblocking(True)
        client.settimeout(30)
        eventually(lambda client=client: ended(client), 30)
        client.close()


def ended(client):
    try:
        return client.recv(1000) == b""
    except ConnectionResetError:
        return True
