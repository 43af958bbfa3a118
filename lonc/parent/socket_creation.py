"""Answers the lines that clients of later LON-CAPA send to the socket `lonSockCreate`.

Such a client sends one before it connects to a host whose socket is missing, and waits for `done`:

    DNSNAME:HOSTID[:HOSTID...]

perhaps with more fields, such as a version. That later lonc has no table of its own is known; the form
of the line is not proven: `_parse` is the one place that knows it.

The name may be in another case than in the table: then it becomes a link to the socket.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lonc.child.transaction import Transaction
from lonc.errors import CannotStart
from lonc.hosts import host_of_request
from lonc.log import RateLimitedLog, logger
from lonc.monitoring.status import Phase
from lonc.parent.preflight import within_limits
from lonc.parent.reload import PhaseNotifier
from lonc.parent.served_hosts import ServedHosts
from lonc.parent.socket_names import same_but_for_case
from lonc.parent.supervisor import Supervisor
from lonc.replies import NO_SUCH_HOST
from lonc.runtime.event_loop import EventLoop
from lonc.setting_types import HOST_ID

MAX_REQUESTED = 1000  # hosts that are in no table: a client must not fill the memory with them


class SocketCreation:
    """Callback: `on_added()`, when a host is served that was not."""

    def __init__(
        self,
        loop: EventLoop,
        served_hosts: ServedHosts,
        phase: PhaseNotifier,
        on_added: Callable[[], None],
    ) -> None:
        self._served_hosts = served_hosts
        self._phase = phase
        self._on_added = on_added
        self._log = RateLimitedLog(loop)

    def carry_out(self, transaction: Transaction) -> None:
        """Bind the host's socket again if its file is missing, and let the client find it by the name
        that it has sent. Serve the host if clients are trusted."""

        def answer(why_not: str | None) -> None:
            transaction.complete(b"done\n" if why_not is None else f"error: {why_not}\n".encode())

        name, ids = _parse(bytes(transaction.request))
        served = self._served_hosts
        known = self._find(name, ids)
        trusted = served.settings.trust_create and bool(ids)
        if known is None and not trusted:
            transaction.complete(NO_SUCH_HOST + b"\n")
        elif self._phase.current is Phase.STOPPING:
            answer("lonc is stopping")
        else:
            try:
                supervisor = known or self._add(name, ids)
                if trusted and supervisor.host.name in served.requested:
                    self._add_ids(supervisor, ids)
                supervisor.renew_socket()
                if self._is_spelling(name, supervisor):
                    supervisor.add_spelling(name)
            except CannotStart as error:
                self._log.warn(str(error))
                answer(str(error))
            else:
                if supervisor.outdated or supervisor is not known:
                    supervisor.restart(answer)
                else:
                    answer(None)

    def _find(self, name: str, ids: list[str]) -> Supervisor | None:
        """The host of that name; or else of the first id, if sockets are named by ids; or else of the
        name in another case, of several preferably the one that has the first id."""
        served = self._served_hosts
        for each in (name, *ids[:1]):
            if each in served.supervisors:
                return served.supervisors[each]
        found = [each for each in served if self._is_spelling(name, each)]
        found.sort(key=lambda each: not ids or ids[0] not in each.host.ids)
        return found[0] if found else None

    def _is_spelling(self, name: str, supervisor: Supervisor) -> bool:
        """Whether it is the name of the socket in another case. Ids are names with their case."""
        by_dns, own = self._served_hosts.settings.by_dns, supervisor.host.name
        return by_dns and name != own and same_but_for_case(name, own)

    def _add(self, name: str, ids: list[str]) -> Supervisor:
        """Serve a host that no table has. Raises CannotStart."""
        served = self._served_hosts
        if len(served.requested) >= MAX_REQUESTED:
            raise CannotStart(f"{len(served.requested)} hosts are served that are in no table")
        names = served.names
        free = [id_ for id_ in ids if id_ not in names]  # a client must not take over a served host
        if not free:
            raise CannotStart(f"{ids[0]} is an id of {names[ids[0]]}")
        try:
            host = host_of_request(name, free, served.settings)
        except ValueError as error:
            raise CannotStart(str(error)) from error
        within_limits(served.settings, len(served.hosts) + 1)
        supervisor = served.request(host)
        logger.info("%s, ids %s: served since a client named it", name, ", ".join(host.ids))
        self._on_added()
        return supervisor

    def _add_ids(self, supervisor: Supervisor, ids: list[str]) -> None:
        """Add ids that a client names to those that others have named before."""
        served, host = self._served_hosts, supervisor.host
        if served.settings.by_dns and (new := [id_ for id_ in ids if id_ not in served.names]):
            own = host.is_own or served.settings.host_id in new
            served.request(replace(host, ids=(*host.ids, *new), is_own=own))


def _parse(line: bytes) -> tuple[str, list[str]]:
    """DNS name and ids. Fields that cannot be an id, and bare numbers, are something else."""
    name, *fields = line.decode(errors="replace").rstrip("\n").split(":")
    return name, [field for field in fields if HOST_ID.fullmatch(field) and not field.isdigit()]
