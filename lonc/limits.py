"""What this machine allows of the settings: open files, and the address that connections come from."""

from __future__ import annotations

import socket
from dataclasses import replace

from lonc.configuration import Settings
from lonc.errors import CannotStart
from lonc.log import logger
from lonc.process import raise_descriptor_limit
from lonc.rollout import ABREAST

SPARE_DESCRIPTORS = 32  # of each process, beside listeners, channels, clients and lond connections


def within_limits(settings: Settings, hosts: int, passed_on: int = 0) -> Settings:
    """`settings`, with fewer clients a host if there are few open files.

    At a reload so many clients may be `passed_on` to each new child, whatever its own limit.

    Raises CannotStart where there are too few even for that, or for so many hosts, or where connections
    cannot come from `loncBindAddress`.
    """
    if settings.bind_address is not None:
        _try_address(settings.bind_address)
    limit = raise_descriptor_limit()
    # Listener and channel of each host, and for each child that is being replaced two more.
    parents_need = 2 * hosts + 2 * min(hosts, ABREAST) + SPARE_DESCRIPTORS
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
    if clients < passed_on:
        raise CannotStart(
            f"{passed_on} clients may be passed on, and beside {settings.max_connections} connections"
            f" a child has room for {clients}: restart it, or raise the limit of open files, {limit}"
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


def _try_address(address: str) -> None:
    try:
        with socket.socket() as probe:
            probe.bind((address, 0))
    except OSError as error:
        raise CannotStart(
            f"cannot connect from {address} (loncBindAddress): {error.strerror}"
        ) from error
