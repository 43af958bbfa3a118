"""The commands to try lonc on one machine: lond and demo."""

from __future__ import annotations

import argparse

from lonc.commands.loading import load
from lonc.errors import DONE
from lonc.hosts import find_host


def lond(options: argparse.Namespace) -> int:
    from lonc.demo.lond import DemoLond

    settings, hosts = load(options)
    host = find_host(hosts, options.host, settings.hosts_file)
    DemoLond(host, settings, options.database).run()
    return DONE


def tour(_: argparse.Namespace) -> int:
    from lonc.demo import tour

    return tour.main()
