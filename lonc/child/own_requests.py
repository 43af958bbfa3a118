"""The requests that lonc answers itself, and those that it refuses, instead of passing them to lond.

    request                                     reply
    ------------------------------------------------------------------------------------------
    lonc:status                                 the status report, one line of JSON
    lonc:…                                      error: unknown lonc command
    reset_retries                               ok; forget past failures, connect now
    close_connection_exit                       ok; replace this child
      both from another user and group          refused
    init…, ekey, exit, sethost:…,
      also behind encrypt:                      refused
    sethost:ID:REQUEST, where one child serves
      several ids                               as REQUEST; no_such_host if ID is another host's

Every other request is for lond.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Protocol

from lonc.replies import NO_SUCH_HOST
from lonc.runtime.line_buffer import Line

# Every request that is not for lond begins with one of these.
OWN_PREFIXES = (
    b"lonc:",
    b"reset_retries",
    b"close_connection_exit",
    b"init",
    b"ekey",
    b"exit",
    b"sethost:",
    b"encrypt:",
)

# These would change or end a connection that all clients share. (Later londs take the part before a
# colon for the command.)
REFUSED = re.compile(rb"(?:encrypt:)?(?:init|sethost:|(?:ekey|exit)[:\n])")

# These affect other clients, so not every client may send them.
ADMINISTRATIVE = (b"reset_retries\n", b"close_connection_exit\n")

NOT_FOR_LOND = re.compile(b"|".join([REFUSED.pattern, b"lonc:", *ADMINISTRATIVE]))

SETHOST = re.compile(rb"sethost:([^:\n]*):")  # the id that a later client puts in front of a request
ENCRYPTED = re.compile(rb"(?:%b)?encrypt:" % SETHOST.pattern)  # travels encrypted; never logged


class Asker(Protocol):
    """The client that sent a request."""

    @property
    def may_administer(self) -> bool: ...


class OwnRequests:
    """Answers the requests of the table above.

    `ids` are the host's ids if a request may begin with `sethost:ID:`, else None. Callbacks: `status()`
    returns the report, a line; `retry()` and `replace()` carry out the two administrative requests.
    """

    def __init__(
        self,
        ids: Collection[str] | None,
        status: Callable[[], bytes],
        retry: Callable[[], None],
        replace: Callable[[], None],
    ) -> None:
        self._ids = ids
        self._status = status
        self._retry = retry
        self._replace = replace

    def answer(self, request: Line, client: Asker) -> bytes | None:
        """The reply, a line; None if the request is for lond."""
        if self._ids is not None and (sethost := SETHOST.match(request)):
            if sethost[1].decode(errors="replace") not in self._ids:
                return NO_SUCH_HOST + b"\n"
            request = request[sethost.end() :]
        if REFUSED.match(request) or (request in ADMINISTRATIVE and not client.may_administer):
            return b"refused\n"
        if request == b"lonc:status\n":
            return self._status()
        if request.startswith(b"lonc:"):
            return b"error: unknown lonc command\n"
        if request == b"reset_retries\n":
            self._retry()
            return b"ok\n"
        if request == b"close_connection_exit\n":
            self._replace()
            return b"ok\n"
        return None
