"""What hosts are doing, and reports made of it: JSON for programs, text for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum


class Phase(Enum):
    """What the daemon is about."""

    STARTING = "starting"
    RUNNING = "running"
    RELOADING = "reloading"
    STOPPING = "stopping"


@dataclass(frozen=True)
class HostStatus:
    """One host at one moment. Counters begin with the child that counts; None is what is not known."""

    host: str
    state: str  # the pool's; the parent's: starting, no child, resting, not answering
    connections: dict[str, int] | None = None  # how many are in each state of the dialogue
    clients: int | None = None
    waiting: int | None = None  # transactions that no connection has taken yet
    done: int | None = None
    failed: int | None = None
    delayed: int | None = None  # transactions on the disk, by the last look
    since: str | None = None  # when this child started, ISO 8601
    pid: int | None = None

    def to_line(self) -> bytes:
        """One line of JSON, without what is not known."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(known).encode() + b"\n"

    def to_text(self) -> str:
        """One sentence for the log."""
        words = [f"{name} {text}" for name, text in zip(_COLUMNS[2:], self.columns()[2:], strict=True)]
        return f"{self.state}, {', '.join(words)}"

    def columns(self) -> list[str]:
        connections = None if self.connections is None else sum(self.connections.values())
        numbers = (connections, self.clients, self.waiting, self.done, self.failed, self.delayed)
        texts = ["-" if each is None else str(each) for each in numbers]
        return [self.host, self.state, *texts, self.since or "-"]


_COLUMNS = (
    "host",
    "state",
    "connections",
    "clients",
    "waiting",
    "done",
    "failed",
    "delayed",
    "up since",
)


@dataclass(frozen=True)
class Report:
    """The daemon and all its hosts at one moment."""

    phase: Phase
    pid: int
    version: str
    since: str  # when the daemon started, ISO 8601
    hosts: Sequence[HostStatus]
    strays: Mapping[str, int]  # delayed transactions of hosts that are not in the table

    def to_line(self) -> bytes:
        """One line of JSON."""
        return json.dumps(asdict(self) | {"phase": self.phase.value}).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Report:
        """Raises ValueError if it is none."""
        try:
            values = json.loads(line)
            values["phase"] = Phase(values["phase"])
            values["hosts"] = [HostStatus(**host) for host in values["hosts"]]
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise ValueError(f"no report: {line!r}") from error

    def to_text(self) -> str:
        """A sentence, and a table with a line for each host."""
        said = f"lonc {self.version} is {self.phase.value}, pid {self.pid}, since {self.since}"
        rows = [[name.upper() for name in _COLUMNS], *(host.columns() for host in self.hosts)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [_row(row, widths) for row in rows] if self.hosts else ["no hosts"]
        lines += [stray(host, count) for host, count in self.strays.items()]
        return "\n".join([said, *lines]) + "\n"


def stray(host: str, count: int) -> str:
    """A sentence about what waits for a host that has left the table."""
    return f"delayed transactions for {host}, which is not in the table: {count}"


def _row(texts: Sequence[str], widths: Sequence[int]) -> str:
    """Words to the left, numbers to the right."""
    cells = [
        text.rjust(width) if 2 <= number < len(texts) - 1 else text.ljust(width)
        for number, (text, width) in enumerate(zip(texts, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()
