"""What hosts are doing, and reports made of it: JSON for programs, text for people."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin, get_type_hints

from lonc.monitoring.statistics import MINUTES, TOLD_BOUNDS


class Phase(Enum):
    """What the daemon is about."""

    STARTING = "starting"
    RUNNING = "running"
    RELOADING = "reloading"
    STOPPING = "stopping"


# States of which only the parent can tell, and that others look for.
NO_CHILD = "no child"
NOT_ANSWERING = "not answering"


_SURROGATE = re.compile("[\ud800-\udfff]")  # no UTF-8


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


# What may stand in a report, beyond its type: who shows one relies on it.
Count = Annotated[int, lambda count: 0 <= count < 10**18]
Seconds = Annotated[float, lambda seconds: 0 <= seconds < 1e12]  # (NaN is not)
Text = Annotated[str, lambda text: not _SURROGATE.search(text)]
Time = Annotated[str, _is_time]  # ISO 8601, with its zone
Latency = Annotated[dict[Text, Seconds], lambda times: times.keys() == {"p50", "p90", "p99", "max"}]
ByMinute = Annotated[list[Count], lambda counts: len(counts) == MINUTES]  # the present one last
Durations = Annotated[list[Count], lambda counts: len(counts) == len(TOLD_BOUNDS)]
Trouble = Annotated[Sequence[Text], lambda trouble: len(trouble) == 2]  # when, and what
Change = Annotated[Sequence[Text | None], lambda change: len(change) == 3]  # when, to which state, why


class OutOfBounds(ValueError):
    """A value has the declared type, but is not one that may stand in a report."""


@dataclass(frozen=True)
class HostStatus:
    """One host at one moment. Counters begin with the child that counts; None is what is not known."""

    host: Text
    state: Text  # the pool's; the parent's: starting, no child, resting, not answering
    state_since: Time | None = None
    mode: Text | None = None  # how its connections came to their keys: one of loncKeyMode, but auto
    lond_version: Text | None = None  # as lond says, where it is asked
    connections: dict[Text, Count] | None = None  # how many are in each state of the dialogue
    clients: Count | None = None
    waiting: Count | None = None  # transactions that no connection has taken yet
    oldest_wait: Seconds | None = None  # of one of these
    done: Count | None = None  # transactions with a reply
    failed: Count | None = None  # and without
    reasons: dict[Text, Count] | None = None  # why these failed
    sent: Count | None = None  # bytes of requests that got a reply
    received: Count | None = None  # and of those replies
    last_minute: Latency | None = None  # how long replies took
    last_hour: Latency | None = None
    seconds: Seconds | None = None  # that all replies took, together
    durations: Durations | None = None  # how many took at most each of the statistics's TOLD_BOUNDS
    done_by_minute: ByMinute | None = None
    failed_by_minute: ByMinute | None = None
    delayed: Count | None = None  # transactions on the disk, by the last look
    oldest_delayed: Count | None = None  # when it was saved, UNIX time
    last_error: Trouble | None = None
    changes: Sequence[Change] | None = None  # the last ones
    since: Time | None = None  # when this child started
    pid: Count | None = None
    memory: Count | None = None  # bytes that are in memory
    version: Text | None = None

    @property
    def shown_state(self) -> str:
        """With the mode of its keys, as in the child's title, where that is not the mode of 2003."""
        plain = self.mode in (None, "classic") or self.state != "ready"
        return self.state if plain else f"{self.state} ({self.mode})"

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

    @classmethod
    def from_line(cls, line: bytes) -> HostStatus:
        """Raises ValueError if it is none."""
        read: HostStatus = _loaded(line, cls)
        return read

    @classmethod
    def from_child(cls, line: bytes) -> HostStatus:
        """As `from_line`, but a value out of its bounds becomes None: a wrong figure is no reason to
        kill a child that serves."""
        try:
            values = _checked_type(json.loads(line), dict)
        except RecursionError:
            raise ValueError("no HostStatus") from None
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
class Report:
    """The daemon and all its hosts at one moment."""

    phase: Phase
    pid: Count
    version: Text
    since: Time  # when the daemon started
    hosts: Sequence[HostStatus]
    strays: dict[Text, Count]  # delayed transactions of hosts that are not in the table
    bad: Count = 0  # delayed transactions that were put aside
    certified_until: Time | None = None  # when our certificate expires, where one is needed

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
        read: Report = _loaded(line, cls)
        return read


def _loaded(line: bytes, kind: Any) -> Any:
    try:
        return _reader(kind)(json.loads(line))
    except (KeyError, TypeError, RecursionError):
        raise ValueError(f"no {kind.__name__}") from None


@cache
def _reader(kind: Any) -> Callable[[Any], Any]:
    """What reads a value out of JSON as what is declared with that type.

    It raises ValueError; for a class KeyError and TypeError for fields too many and too few.
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
        raise OutOfBounds("beyond what was declared")
    return value


def _checked_type(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"no {kind.__name__}")
    return value


def if_known(count: int | None) -> str:
    """As text; nothing for what is not known."""
    return "" if count is None else str(count)


def stray(host: str, count: int) -> str:
    """A sentence about what waits for a host that has left the table."""
    return f"delayed transactions for {host}, which is not in the table: {count}"
