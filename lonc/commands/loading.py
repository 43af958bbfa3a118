"""Configuration and hosts table, as the commands read them."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lonc.commands.output import print_error
from lonc.configuration import Settings
from lonc.configuration_file import find_configuration, read_settings
from lonc.errors import Fault, Misconfigured
from lonc.hosts import Host, read_hosts

Loaded = tuple[Settings, list[Host]]


def load(options: argparse.Namespace) -> Loaded:
    """Both files; raises Misconfigured with the faults of both."""
    return loader(options)()


def load_settings(options: argparse.Namespace) -> Settings:
    """The configuration alone, where the table is of no matter; raises Misconfigured."""
    settings, faults = read_settings(find_configuration(options.configuration, os.environ))
    if faults:
        raise Misconfigured(faults)
    return settings


def loader(options: argparse.Namespace) -> Callable[[], Loaded]:
    """What reads both files, now and at each reload, wherever that may be."""
    file = find_configuration(options.configuration, os.environ)
    # Where we are may be no more; then the file is not there either.
    with contextlib.suppress(FileNotFoundError):
        file = file.absolute()
    return partial(read, file)


def read(file: Path) -> Loaded:
    """Configuration and table; raises Misconfigured with the faults of both."""
    settings, faults = read_settings(file)
    hosts, more = read_hosts(settings.hosts_file, settings.socket_directory, settings.by_dns)
    more += [
        Fault(settings.hosts_file, host.line, f"the socket of {host.name} would be lonSockCreate")
        for host in hosts
        if settings.socket_directory / host.name == settings.create_socket
    ]
    if faults or more:
        raise Misconfigured(faults + more)
    return settings, hosts


def tolerant(options: argparse.Namespace, complain: bool = True) -> Settings:
    """The settings, as far as they can be read: a typo must not make a running daemon unstoppable.

    Raises Misconfigured where nobody can know which daemon is meant.
    """
    settings, faults = read_settings(find_configuration(options.configuration, os.environ))
    if any(fault.text.startswith("lonDaemons:") for fault in faults):
        raise Misconfigured(faults)
    for fault in faults if complain else ():
        print_error(fault)
    return settings
