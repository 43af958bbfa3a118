"""The status report: what a child sends about its host, and the parent about all of them, as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin, get_type_hints

from lonc.monitoring.statistics import MINUTE, MINUTES, REPORTED_BOUNDS


class Phase(Enum):
    """What the daemon is doing."""

    STARTING = "starting"
    RUNNING = "running"
    RELOADING = "reloading"
    STOPPING = "stopping"


# States that only the parent can know, and that other modules compare with.
NO_CHILD = "no child"
NOT_ANSWERING = "not answering"


def _is_time(text: str) -> bool:
    try:
        # (Any character may separate date and time.)
        return datetime.fromisoformat(text).tzinfo is not None and text.isprintable()
    except ValueError:
        return False


# The bounds of each value, beyond its type; all that show a report rely on them.
Count = Annotated[int, lambda count: 0 <= count < 10**18]
Seconds = Annotated[float, lambda seconds: 0 <= seconds < 1e12]  # excludes NaN
Text = Annotated[str, str.isprintable]  # one line that cannot control a terminal
Time = Annotated[str, _is_time]  # ISO 8601, with time zone
Latency = Annotated[dict[Text, Seconds], lambda times: times.keys() == {"p50", "p90", "p99", "max"}]
SecondsOfMinute = Annotated[float, lambda seconds: 0 <= seconds <= MINUTE]
ByMinute = Annotated[list[Count], lambda counts: len(counts) == MINUTES]  # the current minute last
Durations = Annotated[list[Count], lambda counts: len(counts) == len(REPORTED_BOUNDS)]
Trouble = Annotated[Sequence[Text], lambda trouble: len(trouble) == 2]  # time and message
Change = Annotated[Sequence[Text | None], lambda change: len(change) == 3]  # time, new state, reason


class OutOfBounds(ValueError):
    """A value has the declared type, but is not one that may stand in a report."""


@dataclass(frozen=True)
class HostStatus:
    """One host at one moment. Counters start at 0 with each child; None means unknown."""

    host: Text
    state: Text  # of the pool; or of the parent: starting, no child, resting, not answering
    state_since: Time | None = None
    mode: Text | None = None  # key mode of its connections: a value of loncKeyMode except auto
    lond_version: Text | None = None  # as lond reports it, in the modes that ask for it
    connections: dict[Text, Count] | None = None  # number of connections by state of the dialogue
    max_connections: Count | None = None  # loncMaxConnections
    clients: Count | None = None
    waiting: Count | None = None  # transactions that wait for a connection
    oldest_wait: Seconds | None = None  # of the one that has waited longest
    oldest_in_flight: Seconds | None = None  # since the oldest request in flight was sent
    done: Count | None = None  # transactions that got a reply
    failed: Count | None = None  # transactions that failed
    reasons: dict[Text, Count] | None = None  # number of failures by reason
    out_of_step: Count | None = None  # of the last hour; each is a connection that was closed
    wrong_keys: Count | None = None  # of the last hour; connections whose key did not fit
    ping_known: bool | None = None  # lond knows `ping`, so connections can be found out of step
    fallbacks: Count | None = None  # connections that fell back to insecure
    fallbacks_last_hour: Count | None = None
    sent: Count | None = None  # bytes of requests that got a reply
    received: Count | None = None  # bytes of these replies
    # A latency has two parts: the wait for a connection, and lond's time after it.
    last_minute: Latency | None = None  # latencies of the last minute
    last_hour: Latency | None = None
    last_minute_wait: Latency | None = None
    last_hour_wait: Latency | None = None
    last_minute_lond: Latency | None = None
    last_hour_lond: Latency | None = None
    seconds: Seconds | None = None  # sum of the latencies of all replies
    wait_seconds: Seconds | None = None
    lond_seconds: Seconds | None = None
    durations: Durations | None = None  # number of latencies within each of statistics.REPORTED_BOUNDS
    wait_durations: Durations | None = None
    lond_durations: Durations | None = None
    saturated_last_minute: SecondsOfMinute | None = None  # for so long all connections were busy
    saturated_seconds: Seconds | None = None  # the same, since the child started
    done_by_minute: ByMinute | None = None
    failed_by_minute: ByMinute | None = None
    delayed: Count | None = None  # delayed transactions, as of the last scan
    oldest_delayed: Count | None = None  # when it was saved, UNIX time
    last_error: Trouble | None = None
    changes: Sequence[Change] | None = None  # the most recent ones
    since: Time | None = None  # when this child started
    pid: Count | None = None
    memory: Count | None = None  # resident memory, bytes
    version: Text | None = None

    @property
    def shown_state(self) -> str:
        """The state, with the key mode unless it is classic; as in the title of the child."""
        plain = self.mode in (None, "classic") or self.state != "ready"
        return self.state if plain else f"{self.state} ({self.mode})"

    @property
    def connected(self) -> int | None:
        """The number of connections in all states."""
        return None if self.connections is None else sum(self.connections.values())

    def to_line(self) -> bytes:
        """One line of JSON, without unknown values."""
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

    @classmethod
    def from_line(cls, line: bytes) -> HostStatus:
        """Parse a line of `to_line`. Raises ValueError."""
        read: HostStatus = _loaded(line, cls)
        return read

    @classmethod
    def from_child(cls, line: bytes) -> HostStatus:
        """As `from_line`, but a value out of its bounds becomes None: a wrong figure is no reason to
        kill a child that serves."""
        try:
            values = _checked_type(json.loads(line), dict)
        except RecursionError:
            raise ValueError("not a HostStatus") from None
        readers = {
            name: _reader(hint) for name, hint in get_type_hints(cls, include_extras=True).items()
        }
        for name in values.keys() & readers.keys():
            try:
                readers[name](values[name])
            except OutOfBounds:
                values[name] = None
        return cls.from_line(json.dumps(values).encode())


@dataclass(frozen=True)
class FilesStatus:
    """The files on the disk, compared with those in force."""

    faults: Sequence[Text] = ()  # the first ones
    fault_count: Count = 0
    would_start: bool = True  # whether `lonc start` would take them
    changed: Sequence[Text] = ()  # a sentence for each file that differs from what is in force


@dataclass(frozen=True)
class Report:
    """The daemon and all its hosts at one moment."""

    phase: Phase
    pid: Count
    version: Text
    since: Time  # when the daemon started
    hosts: Sequence[HostStatus]
    strays: dict[Text, Count]  # delayed transactions by host, for hosts that are not in hosts.tab
    bad: Count = 0  # delayed transactions that were rejected
    certified_until: Time | None = None  # when the certificate expires, if one is needed
    revocations_until: Time | None = None  # when the list of revoked certificates expires
    files: FilesStatus = FilesStatus()

    @property
    def oldest_wait(self) -> float:
        """The longest wait of all hosts, in seconds."""
        return max((host.oldest_wait or 0.0 for host in self.hosts), default=0.0)

    @property
    def oldest_in_flight(self) -> float:
        """The longest time of all hosts since a request in flight was sent, in seconds."""
        return max((host.oldest_in_flight or 0.0 for host in self.hosts), default=0.0)

    def total(self, name: str) -> int:
        """The sum of the field `name` of all hosts; unknown values count 0."""
        return sum(getattr(host, name) or 0 for host in self.hosts)

    def to_line(self) -> bytes:
        """One line of JSON."""
        return json.dumps(asdict(self) | {"phase": self.phase.value}).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Report:
        """Parse a line of `to_line`. Raises ValueError."""
        read: Report = _loaded(line, cls)
        return read


def _loaded(line: bytes, kind: Any) -> Any:
    try:
        return _reader(kind)(json.loads(line))
    except (KeyError, TypeError, RecursionError):
        raise ValueError(f"not a {kind.__name__}") from None


@cache
def _reader(kind: Any) -> Callable[[Any], Any]:
    """A function that checks a value from JSON against the type `kind`, and converts it.

    It raises ValueError; for a dataclass KeyError for an unknown field, TypeError for a missing one.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        fields, make = {name: _reader(hint) for name, hint in hints.items()}, cast(Any, kind)
        return lambda value: make(
            **{name: fields[name](each) for name, each in _checked_type(value, dict).items()}
        )
    if origin is Annotated:
        read, holds = _reader(inner[0]), inner[1]
        return lambda value: _checked(read(value), holds)
    if origin in (Union, UnionType):
        read = _reader(inner[0])
        return lambda value: None if value is None else read(value)
    if origin is dict:
        key, item = map(_reader, inner)
        return lambda value: {key(k): item(each) for k, each in _checked_type(value, dict).items()}
    if origin in (list, Sequence):
        item = _reader(inner[0])
        return lambda value: [item(each) for each in _checked_type(value, list)]
    if kind is Phase:
        return Phase
    if kind is float:
        return lambda value: value if type(value) is int else _checked_type(value, float)
    return lambda value: _checked_type(value, kind)


def _checked(value: Any, holds: Callable[[Any], bool]) -> Any:
    if not holds(value):
        raise OutOfBounds("out of bounds")
    return value


def _checked_type(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"not a {kind.__name__}")
    return value


def text_if_known(count: int | None) -> str:
    """The number as text; "" if it is unknown."""
    return "" if count is None else str(count)


def describe_stray(host: str, count: int) -> str:
    """The sentence about delayed transactions for a host that is not in hosts.tab."""
    return f"delayed transactions for {host}, which is not in the table: {count}"
