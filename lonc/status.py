"""What one host is doing, and reports made of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class HostStatus:
    """One host at one moment; counters begin with the child that counts."""

    host: str
    state: str  # connecting, ready, DEAD or draining
    connections: dict[str, int]  # how many are in each state of the dialogue
    clients: int
    waiting: int  # transactions that no connection has taken yet
    done: int
    failed: int
    since: str  # when this child started, ISO 8601
    pid: int

    def to_line(self) -> bytes:
        """One line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"
