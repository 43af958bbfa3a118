"""Reads the configuration and hosts.tab for the commands."""

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
    """Read both files. Raises Misconfigured with the faults of both."""
    return loader(options)()


def load_settings(options: argparse.Namespace) -> Settings:
    """Read the configuration only. Raises Misconfigured."""
    settings, faults = read_settings(find_configuration(options.configuration, os.environ))
    if faults:
        raise Misconfigured(faults)
    return settings


def loader(options: argparse.Namespace) -> Callable[[], Loaded]:
    """A function that reads both files, now and at each reload, from any working directory."""
    file = find_configuration(options.configuration, os.environ)
    # The working directory may have been removed; then the file does not exist either.
    with contextlib.suppress(FileNotFoundError):
        file = file.absolute()
    return partial(read, file)


def read(file: Path) -> Loaded:
    """Read the configuration `file` and hosts.tab. Raises Misconfigured with the faults of both."""
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


def tolerant(options: argparse.Namespace, print_faults: bool = True) -> Settings:
    """The settings without faults, so that a typo cannot prevent stopping a running daemon.

    `print_faults`: print them as errors. Raises Misconfigured if lonDaemons has a fault: then it is
    unknown which daemon is meant.
    """
    settings, faults = read_settings(find_configuration(options.configuration, os.environ))
    if any(fault.text.startswith("lonDaemons:") for fault in faults):
        raise Misconfigured(faults)
    for fault in faults if print_faults else ():
        print_error(fault)
    return settings
