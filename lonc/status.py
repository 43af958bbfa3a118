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


# States of which only the parent can tell, and that others look for.
NO_CHILD = "no child"
NOT_ANSWERING = "not answering"


@dataclass(frozen=True)
class HostStatus:
    """One host at one moment. Counters begin with the child that counts; None is what is not known.

    Times of day are ISO 8601, durations in seconds.
    """

    host: str
    state: str  # the pool's; the parent's: starting, no child, resting, not answering
    state_since: str | None = None
    mode: str | None = None  # how its connections came to their keys: one of loncKeyMode, but auto
    lond_version: str | None = None  # as lond says, where it is asked
    connections: dict[str, int] | None = None  # how many are in each state of the dialogue
    clients: int | None = None
    waiting: int | None = None  # transactions that no connection has taken yet
    oldest_wait: float | None = None  # of one of these
    done: int | None = None  # transactions with a reply
    failed: int | None = None  # and without
    reasons: dict[str, int] | None = None  # why these failed
    sent: int | None = None  # bytes of requests that got a reply
    received: int | None = None  # and of those replies
    last_minute: dict[str, float] | None = None  # p50, p90, p99, max: how long replies took
    last_hour: dict[str, float] | None = None
    seconds: float | None = None  # that all replies took, together
    durations: list[int] | None = None  # how many took at most each of the tally's TOLD_BOUNDS
    done_by_minute: list[int] | None = None  # in each of the last sixty, the present one last
    failed_by_minute: list[int] | None = None
    delayed: int | None = None  # transactions on the disk, by the last look
    oldest_delayed: int | None = None  # when it was saved, UNIX time
    last_error: Sequence[str] | None = None  # when, and what
    changes: Sequence[Sequence[str | None]] | None = None  # the last ones: when, to which state, why
    since: str | None = None  # when this child started
    pid: int | None = None
    memory: int | None = None  # bytes that are in memory
    version: str | None = None

    @property
    def shown_state(self) -> str:
        """With the mode of its keys, as in the child's title, where that is not the mode of 2003."""
        return self.state if self.mode in (None, "classic") else f"{self.state} ({self.mode})"

    @property
    def connected(self) -> int | None:
        """How many connections there are, in whatever state."""
        return None if self.connections is None else sum(self.connections.values())

    def to_line(self) -> bytes:
        """One line of JSON, without what is not known."""
        known = {name: value for name, value in vars(self).items() if value is not None}
        return json.dumps(known, separators=(",", ":")).encode() + b"\n"

    def to_text(self) -> str:
        """One sentence for the log."""
        figures = {
            "connections": self.connected,
            "clients": self.clients,
            "waiting": self.waiting,
            "done": self.done,
            "failed": self.failed,
            "delayed": self.delayed,
            "up since": self.since,
        }
        words = [f"{name} {'-' if value is None else value}" for name, value in figures.items()]
        return f"{self.state}, {', '.join(words)}"


@dataclass(frozen=True)
class Report:
    """The daemon and all its hosts at one moment."""

    phase: Phase
    pid: int
    version: str
    since: str  # when the daemon started, ISO 8601
    hosts: Sequence[HostStatus]
    strays: Mapping[str, int]  # delayed transactions of hosts that are not in the table

    @property
    def oldest_wait(self) -> float:
        """Of all hosts, in seconds."""
        return max((host.oldest_wait or 0.0 for host in self.hosts), default=0.0)

    def total(self, name: str) -> int:
        """Of what `name` counts, as far as it is known."""
        return sum(getattr(host, name) or 0 for host in self.hosts)

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


def if_known(count: int | None) -> str:
    """As text; nothing for what is not known."""
    return "" if count is None else str(count)


def stray(host: str, count: int) -> str:
    """A sentence about what waits for a host that has left the table."""
    return f"delayed transactions for {host}, which is not in the table: {count}"
