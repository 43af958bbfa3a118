"""Reads the configuration and the hosts tables for the commands."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Sequence
from functools import partial

from lonc.commands.output import print_error
from lonc.configuration import Settings
from lonc.configuration_file import find_configuration, read_settings
from lonc.errors import AtStart, Misconfigured
from lonc.hosts import Host
from lonc.sources import Load, Sources, read_sources


def load(options: argparse.Namespace) -> tuple[Settings, Sequence[Host]]:
    """Settings and hosts, as a daemon has them. Raises Misconfigured as a start does."""
    sources = load_sources(options).require_startable()
    return sources.settings, sources.hosts


def load_sources(options: argparse.Namespace) -> Sources:
    """All files, with their faults. Raises Misconfigured if there is no configuration."""
    return loader(options)()


def load_settings(options: argparse.Namespace) -> Settings:
    """Read the configuration only. Raises Misconfigured."""
    settings, faults = read_settings(find_configuration(options.configuration, os.environ))
    if any(fault.at_start is AtStart.REFUSES for fault in faults):
        raise Misconfigured(faults)
    return settings


def loader(options: argparse.Namespace) -> Load:
    """A function that reads all files, now and at each reload, from any working directory."""
    file = find_configuration(options.configuration, os.environ)
    # The working directory may have been removed; then the file does not exist either.
    with contextlib.suppress(FileNotFoundError):
        file = file.absolute()
    return partial(read_sources, file)


def tolerant(options: argparse.Namespace, print_faults: bool = True) -> Settings:
    """The settings without faults, so that a typo cannot prevent stopping a running daemon.

    `print_faults`: print them as errors. Raises Misconfigured if lonDaemons has a fault: then it is
    unknown which daemon is meant.
    """
    settings, faults = read_settings(find_configuration(options.configuration, os.environ))
    if any(fault.text.startswith("lonDaemons:") for fault in faults):
        raise Misconfigured(faults)
    for fault in faults:
        if print_faults and fault.at_start is AtStart.REFUSES:
            print_error(fault)
    return settings
