"""Whether all is well: the verdict on each host, and on all of them in one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import IntEnum

from lonc.monitoring.status import NO_CHILD, NOT_ANSWERING, HostStatus, Report, stray

MOST_NAMED = 3  # hosts in a sentence
FAILURES_OF = 5  # minutes, the last
FEW = 20  # requests; of fewer no share is taken


class Level(IntEnum):
    """By Nagios' exit statuses."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


@dataclass(frozen=True)
class Threshold:
    """From `warning` on it is a warning, from `critical` on it is critical."""

    warning: float
    critical: float = math.inf

    def level(self, value: float) -> Level:
        if value >= self.critical:
            return Level.CRITICAL
        return Level.WARNING if value >= self.warning else Level.OK


@dataclass(frozen=True)
class Thresholds:
    """What is taken for trouble."""

    dead: Threshold = Threshold(1)  # hosts; all of them are critical anyway
    wait: Threshold = Threshold(5, 30)  # seconds of the transaction that waits longest for a connection
    failed: Threshold = Threshold(5, 50)  # percent of a host's requests in the last minutes
    latency: Threshold = Threshold(10, 60)  # seconds, p99 of a host's replies in the last minute
    delayed: Threshold = Threshold(1000)  # delayed transactions of all hosts
    age: Threshold = Threshold(86400)  # seconds of the oldest of them


@dataclass(frozen=True)
class Verdict:
    """`text` is what can follow a host's name, or a sentence."""

    level: Level
    text: str


DEFAULT = Thresholds()

# Seconds since our certificate has expired. (To get another may take a colleague some days.)
EXPIRED = Threshold(-14 * 86400.0, -3 * 86400.0)


class Health:
    """`level` and `sentence` are of all together; `hosts` is each with its verdict, the worst first.

    The sentence is made of `in_short`, some names, and `others`, what is no single host's trouble.
    """

    def __init__(
        self, report: Report, thresholds: Thresholds = DEFAULT, now: datetime | None = None
    ) -> None:
        self._thresholds = thresholds
        self._now = datetime.now(timezone.utc) if now is None else now
        dead = sum(host.state == "DEAD" for host in report.hosts)
        all_dead = dead == len(report.hosts)
        self._dead = Level.CRITICAL if all_dead else thresholds.dead.level(dead)
        judged = [(host, self._judge(host)) for host in report.hosts]
        self.hosts = sorted(judged, key=lambda each: -each[1].level)
        others = list(self._others(report))
        verdicts = [*(verdict for _, verdict in self.hosts), *others]
        self.level = max((verdict.level for verdict in verdicts), default=Level.OK)
        self.in_short, names = self._of_hosts()
        self.others = [verdict.text for verdict in others]
        self.sentence = "; ".join([self.in_short + names, *self.others])

    def _judge(self, host: HostStatus) -> Verdict:
        """The worst of all that can be said about it, and of that the first."""
        limits = self._thresholds
        wait = host.oldest_wait or 0.0
        percent = 0.0 if host.state in ("DEAD", "disabled") else _percent_failed(host)
        p99 = (host.last_minute or {}).get("p99", 0.0)
        age = 0.0 if host.oldest_delayed is None else self._now.timestamp() - host.oldest_delayed
        return max(
            Verdict(self._of_state(host.state), self._state_in_words(host)),
            Verdict(limits.wait.level(wait), f"has a request that has waited for {short_time(wait)}"),
            Verdict(limits.failed.level(percent), f"has failed {percent:.0f} % of its requests"),
            Verdict(limits.latency.level(p99), f"takes {short_time(p99)} for a reply"),
            Verdict(limits.age.level(age), f"has not got a transaction of {short_time(age)} ago"),
            key=lambda verdict: verdict.level,
        )

    def _of_state(self, state: str) -> Level:
        if state in (NOT_ANSWERING, NO_CHILD):
            return Level.CRITICAL
        if state == "DEAD":
            return self._dead
        return Level.WARNING if state in ("connecting", "starting") else Level.OK

    def _state_in_words(self, host: HostStatus) -> str:
        if host.state == NOT_ANSWERING:
            return "hangs"
        if host.state == NO_CHILD:
            return "has no child"
        if host.state == "DEAD" and host.state_since is not None:
            return f"has been DEAD for {short_time(self.age(host.state_since))}"
        return f"is {host.state}"

    def age(self, at: str) -> float:
        """Seconds since that time of day, ISO 8601."""
        return max(0.0, (self._now - datetime.fromisoformat(at)).total_seconds())

    def _others(self, report: Report) -> Iterator[Verdict]:
        """What is no single host's trouble."""
        delayed = report.total("delayed")
        if level := self._thresholds.delayed.level(delayed):
            yield Verdict(level, f"{delayed} delayed transactions wait")
        for id_, count in report.strays.items():
            yield Verdict(Level.WARNING, stray(id_, count))
        if report.bad:
            yield Verdict(Level.WARNING, f"bad delayed transactions: {report.bad}")
        if report.certified_until is not None:
            verdict = of_certificate(datetime.fromisoformat(report.certified_until), self._now)
            if verdict.level:
                yield verdict
        if not report.hosts:
            yield Verdict(Level.WARNING, "no requests are served")

    def _of_hosts(self) -> tuple[str, str]:
        """How many are well, and the names of those that need looking after."""
        count = len(self.hosts)
        of = f"{count or 'no'} host{'' if count == 1 else 's'}"
        unwell = [(host, verdict) for host, verdict in self.hosts if verdict.level]
        if unwell:
            told = f"{len(unwell)} of {of} {'is' if len(unwell) == 1 else 'are'} not well"
        else:
            unwell = [(host, verdict) for host, verdict in self.hosts if host.state == "disabled"]
            told = f"{of}, all well" if count else of
            told += f", but {len(unwell)} disabled" if unwell else ""
        names = [f"{host.host} {verdict.text}" for host, verdict in unwell[:MOST_NAMED]]
        names += [f"{len(unwell) - MOST_NAMED} more"] if len(unwell) > MOST_NAMED else []
        return told, f": {', '.join(names)}" if names else ""


def of_certificate(until: datetime, now: datetime) -> Verdict:
    """On ours, by when it expires."""
    since = (now - until).total_seconds()
    when = f"has expired {short_time(since)} ago" if since >= 0 else f"expires in {short_time(-since)}"
    return Verdict(EXPIRED.level(since), f"our certificate {when}")


def _percent_failed(host: HostStatus) -> float:
    failed = sum((host.failed_by_minute or [])[-FAILURES_OF:])
    done = sum((host.done_by_minute or [])[-FAILURES_OF:])
    return 100 * failed / (failed + done) if failed + done >= FEW else 0.0


def short_time(seconds: float) -> str:
    """In one unit, as it fits: 0.4 ms, 12 s, 3 h."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if seconds >= 2 * size or (unit == "s" and seconds >= 1):
            number = seconds / size
            return f"{number:.1f} s" if unit == "s" and number < 10 else f"{number:.0f} {unit}"
    return f"{1000 * seconds:.1f} ms" if seconds < 0.1 else f"{1000 * seconds:.0f} ms"
