"""The emulated network between two machines: pure logic, with a given clock.

A Link has two directions, OUT from the local machine and BACK to it. Each has Conditions of its own; one
firewall stands before both.
"""

import heapq
import random
import struct
from collections import Counter
from dataclasses import dataclass, fields, replace

OUT, BACK = "out", "back"
DIRECTIONS = (OUT, BACK)

_TCP, _SYN, _ACK = 6, 0x02, 0x10
_IPV6_HEADER = 40


@dataclass
class Conditions:
    """Of one direction."""

    delay_ms: float = 0.0
    jitter_ms: float = 0.0  # up to so much more; the order stays
    loss: float = 0.0  # share of packets that are dropped
    rate: float = 0.0  # bits per second; 0 is no limit
    queue: int = 100_000  # bytes that may wait for the rate; more are dropped
    reorder: float = 0.0  # share of packets that arrive late, after later ones
    reorder_ms: float = 20.0  # so much later
    down: bool = False  # every packet is dropped
    drop_ipv6: bool = False
    mtu: int = 65535  # bytes; a longer packet is dropped without an ICMP message


NAMES = frozenset(each.name for each in fields(Conditions))


class Firewall:
    """Forgets a TCP flow that has been idle for `forget_after` seconds (0: never).

    Packets of a flow that it does not know are dropped without an answer, unless they open it (SYN).
    """

    def __init__(self):
        self.forget_after = 0.0
        self._flows = {}  # of addresses and ports -> when its last packet came

    def forget(self):
        """All flows, now."""
        self._flows.clear()

    def passes(self, packet, now):
        flow, opens = _flow(packet)
        if flow is None:
            return True
        last = self._flows.get(flow)
        forgotten = last is None or (self.forget_after and now - last > self.forget_after)
        if forgotten and not opens:
            self._flows.pop(flow, None)
            return False
        self._flows[flow] = now
        return True


def _flow(packet):
    """A key that both directions of a TCP connection share, and whether this packet opens it."""
    if packet[0] >> 4 == 4:
        protocol, addresses, start = packet[9], (packet[12:16], packet[16:20]), (packet[0] & 0xF) * 4
    else:
        protocol, addresses, start = packet[6], (packet[8:24], packet[24:40]), _IPV6_HEADER
    if protocol != _TCP or len(packet) < start + 14:
        return None, False
    ports = struct.unpack_from("!HH", packet, start)
    opens = packet[start + 13] & (_SYN | _ACK) == _SYN
    return frozenset(zip(addresses, ports, strict=True)), opens


class Link:
    """Packets go in by `send` and come out by `due`, no earlier than they should."""

    def __init__(self, seed=1):
        self.conditions = {each: Conditions() for each in DIRECTIONS}
        self.firewall = Firewall()
        self.counts = {each: Counter() for each in DIRECTIONS}  # packets, by what became of them
        self._random = random.Random(seed)
        self._under_way = []  # a heap of (due, serial, direction, packet)
        self._serial = 0
        self._rate_free_at = dict.fromkeys(
            DIRECTIONS, 0.0
        )  # when the next may be sent, of each direction
        self._last_due = dict.fromkeys(DIRECTIONS, 0.0)

    def change(self, direction=None, **conditions):
        """Change conditions of one direction, or of both.

        Packets under way arrive when they would have, unless the direction is down then.
        """
        for each in DIRECTIONS if direction is None else (direction,):
            for name in conditions:
                if name not in NAMES:
                    raise ValueError(f"there is no condition {name!r}")
            self.conditions[each] = replace(self.conditions[each], **conditions)

    def send(self, direction, packet, now):
        why = self._dropped(direction, packet, now)
        self.counts[direction][why or "sent"] += 1
        if why is None:
            self._serial += 1
            heapq.heappush(
                self._under_way, (self._when(direction, packet, now), self._serial, direction, packet)
            )

    def _dropped(self, direction, packet, now):
        """Why the packet is dropped; None if it is not."""
        conditions = self.conditions[direction]
        if conditions.down:
            return "down"
        if conditions.drop_ipv6 and packet[0] >> 4 == 6:
            return "ipv6"
        if len(packet) > conditions.mtu:
            return "too long"
        if not self.firewall.passes(packet, now):
            return "forgotten"
        if self._random.random() < conditions.loss:
            return "lost"
        backlog = (self._rate_free_at[direction] - now) * conditions.rate / 8
        return "queue full" if backlog > conditions.queue else None

    def _when(self, direction, packet, now):
        conditions = self.conditions[direction]
        sent = now
        if conditions.rate:
            sent = max(now, self._rate_free_at[direction]) + len(packet) * 8 / conditions.rate
            self._rate_free_at[direction] = sent
        due = sent + (conditions.delay_ms + conditions.jitter_ms * self._random.random()) / 1000
        if self._random.random() < conditions.reorder:
            self.counts[direction]["reordered"] += 1
            return due + conditions.reorder_ms / 1000
        self._last_due[direction] = due = max(due, self._last_due[direction])
        return due

    def next_due(self):
        """When the next packet comes out; None if none is under way."""
        return self._under_way[0][0] if self._under_way else None

    def due(self, now):
        """Yields direction and packet of each that has arrived."""
        while self._under_way and self._under_way[0][0] <= now:
            _, _, direction, packet = heapq.heappop(self._under_way)
            if self.conditions[direction].down:
                self.counts[direction]["down"] += 1
            else:
                yield direction, packet
