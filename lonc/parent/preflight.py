"""Checks what the settings need of this machine: open files, addresses, certificates, keys."""

from __future__ import annotations

import socket
from dataclasses import replace
from datetime import datetime, timezone

from lonc.configuration import Settings
from lonc.errors import CannotStart
from lonc.log import logger
from lonc.monitoring.health import revocations_verdict
from lonc.parent.control import MAX_CLIENTS
from lonc.parent.rolling_restart import MAX_PARALLEL
from lonc.runtime.process import SPARE_DESCRIPTORS, raise_descriptor_limit
from lonc.spool.sealing import require_keys
from lonc.wire.key_exchange import require_certificates


def within_limits(settings: Settings, hosts: int) -> Settings:
    """`settings`, with fewer clients per host if the limit of open files requires it.

    Raises the soft limit to the hard one. Raises CannotStart if it is too low for so many hosts, or for
    one client of a host, and if `loncBindAddress` is no address of this machine.
    """
    if settings.bind_address is not None:
        _try_address(settings.bind_address)
    limit = raise_descriptor_limit()
    # Listener and channel of each host, as many more for each child being replaced, and orders.
    sockets = 1 if settings.create_socket is None else 2
    parents_need = 2 * hosts + 2 * min(hosts, MAX_PARALLEL) + sockets * MAX_CLIENTS + SPARE_DESCRIPTORS
    if limit < parents_need:
        raise CannotStart(
            f"{hosts} hosts need {parents_need} open files, and the limit is {limit}: raise it"
        )
    childs_need = settings.max_connections + SPARE_DESCRIPTORS
    clients = limit - childs_need
    if clients < 1:
        raise CannotStart(
            f"a child needs {childs_need + 1} open files, and the limit is {limit}: raise it"
        )
    if clients >= settings.max_clients:
        return settings
    logger.warning(
        "at most %d clients a host, not %d: the limit of open files is %d",
        clients,
        settings.max_clients,
        limit,
    )
    return replace(settings, max_clients=clients)


def require_usable(settings: Settings) -> datetime | None:
    """Raises CannotStart unless this user can use the certificates and keys that are needed.

    Returns when this machine's certificate expires; None if none is needed. Imports what using them
    takes, so that children share its memory.
    """
    certified_until = require_certificates(settings)
    require_keys(settings.delayed_key_file)
    return certified_until


def revocations_until(settings: Settings) -> datetime | None:
    """When the list of revoked certificates expires; None if none is needed. Raises CannotStart.

    To be called after `require_usable`.
    """
    needed = settings.needed_certificates
    if needed is None or needed.revocation_list is None:
        return None
    from lonc.wire.tls import list_valid_until

    return list_valid_until(needed.revocation_list)


def log_expiry(revoked_until: datetime | None) -> None:
    """Log if the list of revoked certificates has expired, or soon will."""
    if revoked_until is not None:
        verdict = revocations_verdict(revoked_until, datetime.now(timezone.utc))
        if verdict.level:
            logger.warning("%s", verdict.text)


def _try_address(address: str) -> None:
    try:
        with socket.socket() as probe:
            probe.bind((address, 0))
    except OSError as error:
        raise CannotStart(
            f"cannot connect from {address} (loncBindAddress): {error.strerror}"
        ) from error
