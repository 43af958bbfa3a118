"""The verdict on each host, and on the whole daemon in one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import IntEnum

from lonc.monitoring.statistics import MINUTE
from lonc.monitoring.status import (
    NO_CHILD,
    NOT_ANSWERING,
    FilesStatus,
    HostStatus,
    Report,
    describe_stray,
)

MAX_NAMED_HOSTS = 3  # in the sentence
FAILURE_MINUTES = 5  # the last minutes, whose failures count
MIN_REQUESTS = 20  # with fewer requests, no percentage of failures is computed
MIN_WAIT = 0.1  # seconds, p90 of the last minute; a pool that causes shorter waits is large enough


class Level(IntEnum):
    """The exit statuses of Nagios plugins."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


@dataclass(frozen=True)
class Threshold:
    """A value from `warning` on is a warning, from `critical` on it is critical."""

    warning: float
    critical: float = math.inf

    def level(self, value: float) -> Level:
        if value >= self.critical:
            return Level.CRITICAL
        return Level.WARNING if value >= self.warning else Level.OK


@dataclass(frozen=True)
class Thresholds:
    """The limits of a healthy daemon."""

    dead: Threshold = Threshold(1)  # hosts; if all are DEAD, that is critical anyway
    wait: Threshold = Threshold(5, 30)  # seconds that a transaction has waited for a connection
    reply: Threshold = Threshold(30)  # seconds that a transaction in flight has waited for its reply
    busy: Threshold = Threshold(30)  # seconds of the last minute in which the pool was too small
    failed: Threshold = Threshold(5, 50)  # percent of a host's requests in FAILURE_MINUTES
    latency: Threshold = Threshold(10, 60)  # seconds, p99 of a host's replies in the last minute
    delayed: Threshold = Threshold(1000)  # delayed transactions of all hosts
    age: Threshold = Threshold(86400)  # seconds, the age of the oldest delayed transaction


@dataclass(frozen=True)
class Verdict:
    """`text` follows the name of a host, or is a sentence of its own."""

    level: Level
    text: str


DEFAULT = Thresholds()

# Seconds since the certificate has expired; negative: before. Getting another may take some days.
EXPIRED = Threshold(-14 * 86400.0, -3 * 86400.0)
# The same of the list of revoked certificates, which is usually renewed every few days.
LIST_EXPIRED = Threshold(-86400.0, 0.0)


class Health:
    """The verdicts on a report.

    `level`: the worst level.
    `sentence`: `summary`, the names of some hosts, and `other_problems`.
    `hosts`: each host with its verdict, the worst first.
    `other_problems`: a sentence for each problem that is not one of a single host.

    `now`: with its time zone; default: the current time.
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
        others = list(self._other_verdicts(report))
        verdicts = [*(verdict for _, verdict in self.hosts), *others]
        self.level = max((verdict.level for verdict in verdicts), default=Level.OK)
        self.summary, names = self._summarize_hosts()
        self.other_problems = [verdict.text for verdict in others]
        self.sentence = "; ".join([self.summary + names, *self.other_problems])

    def _judge(self, host: HostStatus) -> Verdict:
        """The worst verdict on a host; of several equally bad ones, the first."""
        limits = self._thresholds
        wait = host.oldest_wait or 0.0
        flight = host.oldest_in_flight or 0.0
        percent = 0.0 if host.state in ("DEAD", "disabled") else _percent_failed(host)
        p99 = (host.last_minute or {}).get("p99", 0.0)
        age = 0.0 if host.oldest_delayed is None else self._now.timestamp() - host.oldest_delayed
        return max(
            Verdict(self._state_level(host.state), self._describe_state(host)),
            self._judge_pool(host, wait),
            Verdict(limits.wait.level(wait), f"has a request waiting for {short_time(wait)}"),
            Verdict(limits.reply.level(flight), f"has waited for a reply for {short_time(flight)}"),
            Verdict(
                Level.WARNING if host.out_of_step else Level.OK,
                f"has had connections out of step in the last hour: {host.out_of_step}",
            ),
            Verdict(
                Level.WARNING if host.wrong_keys else Level.OK,
                f"has had connections whose key did not fit in the last hour: {host.wrong_keys}",
            ),
            Verdict(
                Level.WARNING if host.fallbacks_last_hour else Level.OK,
                f"has had insecure connections in the last hour: {host.fallbacks_last_hour}",
            ),
            Verdict(limits.failed.level(percent), f"has failed {percent:.0f} % of its requests"),
            Verdict(limits.latency.level(p99), f"takes {short_time(p99)} for a reply"),
            Verdict(limits.age.level(age), f"has a delayed transaction that is {short_time(age)} old"),
            key=lambda verdict: verdict.level,
        )

    def _judge_pool(self, host: HostStatus, wait: float) -> Verdict:
        """If the pool is too small, that is why requests wait: at least as bad as their wait."""
        if (reason := describe_small_pool(host, self._thresholds.busy)) is None:
            return Verdict(Level.OK, "")
        level = self._thresholds.busy.level(host.saturated_last_minute or 0.0)
        return Verdict(max(level, self._thresholds.wait.level(wait)), f"has {reason}")

    def _state_level(self, state: str) -> Level:
        if state in (NOT_ANSWERING, NO_CHILD):
            return Level.CRITICAL
        if state == "DEAD":
            return self._dead
        return Level.WARNING if state in ("connecting", "starting") else Level.OK

    def _describe_state(self, host: HostStatus) -> str:
        if host.state == NOT_ANSWERING:
            return "hangs"
        if host.state == NO_CHILD:
            return "has no child"
        if host.state == "DEAD" and host.state_since is not None:
            return f"has been DEAD for {short_time(self.age(host.state_since))}"
        return f"is {host.state}"

    def age(self, at: str) -> float:
        """Seconds since `at`, a time in ISO 8601."""
        return max(0.0, (self._now - datetime.fromisoformat(at)).total_seconds())

    def _other_verdicts(self, report: Report) -> Iterator[Verdict]:
        delayed = report.total("delayed")
        if level := self._thresholds.delayed.level(delayed):
            yield Verdict(level, f"{delayed} delayed transactions wait")
        for id_, count in report.strays.items():
            yield Verdict(Level.WARNING, describe_stray(id_, count))
        if report.bad:
            yield Verdict(Level.WARNING, f"bad delayed transactions: {report.bad}")
        if report.certified_until is not None:
            verdict = certificate_verdict(datetime.fromisoformat(report.certified_until), self._now)
            if verdict.level:
                yield verdict
        if report.revocations_until is not None:
            verdict = revocations_verdict(datetime.fromisoformat(report.revocations_until), self._now)
            if verdict.level:
                yield verdict
        if not report.hosts:
            yield Verdict(Level.WARNING, "no requests are served")
        yield from _file_verdicts(report.files)

    def _summarize_hosts(self) -> tuple[str, str]:
        """The number of degraded hosts, and the names of some of them with their verdicts."""
        count = len(self.hosts)
        hosts = f"{count or 'no'} host{'' if count == 1 else 's'}"
        degraded = [(host, verdict) for host, verdict in self.hosts if verdict.level]
        if degraded:
            summary = f"{len(degraded)} of {hosts} {'is' if len(degraded) == 1 else 'are'} degraded"
        else:
            degraded = [(host, verdict) for host, verdict in self.hosts if host.state == "disabled"]
            summary = f"{hosts}, all healthy" if count else hosts
            summary += f", but {len(degraded)} disabled" if degraded else ""
        names = [f"{host.host} {verdict.text}" for host, verdict in degraded[:MAX_NAMED_HOSTS]]
        names += [f"{len(degraded) - MAX_NAMED_HOSTS} more"] if len(degraded) > MAX_NAMED_HOSTS else []
        return summary, f": {', '.join(names)}" if names else ""


def _file_verdicts(files: FilesStatus) -> Iterator[Verdict]:
    if files.faults:
        what = "faults in the files on the disk"
        if not files.would_start:
            what = "lonc would not start with the files on the disk"
        more = f", and {files.fault_count - 1} more (`lonc check`)" if files.fault_count > 1 else ""
        yield Verdict(Level.WARNING, f"{what}: {files.faults[0]}{more}")
    for sentence in files.changed:
        yield Verdict(Level.OK, sentence)


def describe_small_pool(host: HostStatus, busy: Threshold = DEFAULT.busy) -> str | None:
    """Why the host needs more connections; None if it does not, or if no wait has ended lately.

    Without replies, more connections would not help.
    """
    seconds = host.saturated_last_minute or 0.0
    wait = (host.last_minute_wait or {}).get("p90", 0.0)
    if not busy.level(seconds) or wait < MIN_WAIT:
        return None
    number = "" if host.max_connections is None else f"{host.max_connections} "
    connections = "the only connection" if host.max_connections == 1 else f"all {number}connections"
    return (
        f"{connections} busy for {seconds:.0f} of {MINUTE:.0f} s, waits of {short_time(wait)}:"
        " raise loncMaxConnections"
    )


def certificate_verdict(until: datetime, now: datetime) -> Verdict:
    """The verdict on the certificate of this machine, which expires at `until`."""
    since = (now - until).total_seconds()
    return Verdict(EXPIRED.level(since), f"our certificate {_expiry(since)}")


def revocations_verdict(until: datetime, now: datetime) -> Verdict:
    """The verdict on the list of revoked certificates, which expires at `until`."""
    since = (now - until).total_seconds()
    more = ": every certificate is refused" if since >= 0 else ""
    return Verdict(LIST_EXPIRED.level(since), f"the list of revoked certificates {_expiry(since)}{more}")


def _expiry(since: float) -> str:
    return f"has expired {short_time(since)} ago" if since >= 0 else f"expires in {short_time(-since)}"


def _percent_failed(host: HostStatus) -> float:
    """The share of failures in the last FAILURE_MINUTES; 0 for fewer than MIN_REQUESTS."""
    failed = sum((host.failed_by_minute or [])[-FAILURE_MINUTES:])
    done = sum((host.done_by_minute or [])[-FAILURE_MINUTES:])
    return 100 * failed / (failed + done) if failed + done >= MIN_REQUESTS else 0.0


def short_time(seconds: float) -> str:
    """A duration in the unit that fits: 0.4 ms, 12 s, 3 h."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if seconds >= 2 * size or (unit == "s" and seconds >= 1):
            number = seconds / size
            return f"{number:.1f} s" if unit == "s" and number < 10 else f"{number:.0f} {unit}"
    return f"{1000 * seconds:.1f} ms" if seconds < 0.1 else f"{1000 * seconds:.0f} ms"
