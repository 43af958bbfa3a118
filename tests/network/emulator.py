"""Two network namespaces and the network between them.

There is a tun device in each, and a loop that hands packets from one to the other as a Link says.

python emulator.py FD SEED    until the socket FD ends

FD is a connected UNIX socket. The first line on it is `{"pid", "local", "remote"}`: this process, and
its descriptors of the two network namespaces. Then each order, a line of JSON, is answered with a line
when it has been carried out:

    {"change": {CONDITION: VALUE …}, "direction": "out", "back" or null}
    {"forget_after": SECONDS}      of the firewall
    {"forget": true}               all flows, now
    {"counts": true}               -> {"out": {WHAT: PACKETS …}, "back": {…}}
"""

import json
import os
import select
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from network.link import BACK, OUT, Link
from network.namespaces import (
    CLONE_NEWNET,
    add_address,
    open_tun,
    set_queue_length,
    set_up,
    unshare,
    wait_for_address,
)

DEVICE = "wan0"
LOCAL_ADDRESS, LOCAL_ADDRESS6 = "10.99.0.1", "2001:db8:99::1"
REMOTE_ADDRESSES = [f"10.99.0.{number}" for number in range(2, 6)]
REMOTE_ADDRESS6 = "2001:db8:99::2"
IPV4_PREFIX, IPV6_PREFIX = 24, 64
PACKET_SIZE = 65536
AT_ONCE = 64  # packets of one device, then the other one is read
QUEUE_LENGTH = 5000  # packets; the kernel must not drop any before we read them


def make_namespace(addresses, address6):
    """A new network namespace with lo and a tun device: descriptors of it and of the device.

    This process stays in it. Raises OSError.
    """
    unshare(CLONE_NEWNET)
    set_up("lo")
    tun = open_tun(DEVICE)
    for address in addresses:
        add_address(DEVICE, f"{address}/{IPV4_PREFIX}")
    add_address(DEVICE, f"{address6}/{IPV6_PREFIX}")
    set_queue_length(DEVICE, QUEUE_LENGTH)
    set_up(DEVICE)
    wait_for_address(address6)
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC), tun


class Emulator:
    """`tuns` by the direction of what is read from them."""

    def __init__(self, control, link, tuns):
        self._control = control
        self._lines = control.makefile("rb")
        self._link = link
        self._tuns = tuns
        self._other = {OUT: tuns[BACK], BACK: tuns[OUT]}

    def run(self):
        reading = [self._control, *self._tuns.values()]
        while True:
            next_due = self._link.next_due()
            timeout = None if next_due is None else max(0.0, next_due - time.monotonic())
            ready, _, _ = select.select(reading, [], [], timeout)
            for direction, tun in self._tuns.items():
                if tun in ready:
                    self._read(direction, tun)
            for direction, packet in self._link.due(time.monotonic()):
                self._write(direction, packet)
            if self._control in ready and not self._order():
                return

    def _read(self, direction, tun):
        for _ in range(AT_ONCE):
            try:
                packet = os.read(tun, PACKET_SIZE)
            except BlockingIOError:
                return
            self._link.send(direction, packet, time.monotonic())

    def _write(self, direction, packet):
        try:
            os.write(self._other[direction], packet)
            self._link.counts[direction]["arrived"] += 1
        except BlockingIOError:
            self._link.counts[direction]["not taken"] += 1

    def _order(self):
        """Carry out one order; False at the end."""
        line = self._lines.readline()
        if not line:
            return False
        order = json.loads(line)
        answer = {}
        if "change" in order:
            self._link.change(order.get("direction"), **order["change"])
        if "forget_after" in order:
            self._link.firewall.forget_after = order["forget_after"]
        if "forget" in order:
            self._link.firewall.forget()
        if "counts" in order:
            answer = self._link.counts
        self._control.sendall(json.dumps(answer).encode() + b"\n")
        return True


def main(fd, seed):
    control = socket.socket(fileno=int(fd))
    local, local_tun = make_namespace([LOCAL_ADDRESS], LOCAL_ADDRESS6)
    remote, remote_tun = make_namespace(REMOTE_ADDRESSES, REMOTE_ADDRESS6)
    greeting = {"pid": os.getpid(), "local": local, "remote": remote}
    control.sendall(json.dumps(greeting).encode() + b"\n")
    emulator = Emulator(control, Link(int(seed)), {OUT: local_tun, BACK: remote_tun})
    emulator.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
