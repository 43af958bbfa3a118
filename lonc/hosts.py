"""Reads `hosts.tab` into Host records, in the order of the file.

With `loncSocketName dns` the hosts of one DNS name become one record with several ids.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lonc.configuration import did_you_mean
from lonc.errors import Fault, UsageError
from lonc.setting_types import DELAYED_DIRECTORY, SOCKET_PATH_MAX, id_word

_DNS_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Host:
    """One line of the table: `id:domain:role:dnsname[:address[:…]]`."""

    id: str
    domain: str
    role: str
    dnsname: str
    address: str | None  # IPv4; None if the table has none
    line: int = field(compare=False)  # number of the line
    name: str = ""  # of its socket, and in logs: the id, or with loncSocketName dns the DNS name
    ids: tuple[str, ...] = ()  # `id`, and with loncSocketName dns the other ids of the DNS name

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.id)
        object.__setattr__(self, "ids", self.ids or (self.id,))


def read_hosts(
    file: Path, socket_directory: Path, by_dns: bool = False
) -> tuple[list[Host], list[Fault]]:
    """The valid hosts of `file`, and its faults.

    `socket_directory`: a host whose socket path would be too long there is a fault.
    `by_dns`: whether sockets have DNS names; then the hosts of one DNS name are one record.

    Comments, and fields after the fifth, are skipped; they may be in any encoding.
    """
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        return [], [Fault(file, None, f"{error.strerror} (lonTabDir sets the directory)")]
    hosts: dict[str, Host] = {}  # by id
    faults: list[Fault] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith((b"#", b"^")):
            continue
        try:
            host = _read_host(line, number, socket_directory, by_dns)
            if host.id in hosts:
                raise ValueError(f"{host.id} is in line {hosts[host.id].line} already")
            hosts[host.id] = host
        except ValueError as error:
            faults.append(Fault(file, number, str(error)))
    if not by_dns:
        return list(hosts.values()), faults
    machines: dict[str, Host] = {}
    for host in hosts.values():
        first = machines.setdefault(host.name, host)
        if first.address != host.address:
            text = f"{host.id} and {first.id} have the same DNS name, but different addresses"
            faults.append(Fault(file, host.line, text))
        elif first is not host:
            machines[host.name] = replace(first, ids=(*first.ids, host.id))
    return list(machines.values()), faults


def _read_host(line: bytes, number: int, socket_directory: Path, by_dns: bool) -> Host:
    """Raises ValueError with a sentence."""
    try:
        fields = [field.decode() for field in line.rstrip().split(b":")[:5]]
    except UnicodeDecodeError as error:
        raise ValueError(f"a field has bytes that are not UTF-8: {error.object!r}") from None
    if len(fields) < 4:
        count = "1 field" if len(fields) == 1 else f"{len(fields)} fields"
        raise ValueError(f"a host is id:domain:role:dnsname:address, but this line has {count}")
    id_, domain, role, dnsname = fields[:4]
    id_word(id_)
    name = dnsname if by_dns else id_
    if by_dns and not _DNS_NAME.fullmatch(dnsname):
        raise ValueError(f"{dnsname!r} is not a DNS name, which loncSocketName dns needs")
    if name == DELAYED_DIRECTORY:
        raise ValueError("a host cannot be named delayed: a directory beside the sockets has that name")
    path = socket_directory / name
    if len(os.fsencode(path)) + (len(name) == 1) > SOCKET_PATH_MAX:  # a temporary name has two at least
        raise ValueError(f"the socket path {path} is longer than {SOCKET_PATH_MAX} bytes")
    address = _address(fields[4]) if len(fields) > 4 else None
    if address is None and not dnsname:
        raise ValueError(f"{id_} has neither an address nor a DNS name")
    return Host(id_, domain, role, dnsname, address, number, name)


def _address(field: str) -> str | None:
    """The IPv4 address in a fifth field, or None: later tables have a protocol there."""
    try:
        return str(ipaddress.IPv4Address(re.sub(r"[^0-9]*\Z", "", field)))
    except ValueError:
        return None


def find_host(hosts: Sequence[Host], id_: str, file: Path) -> Host:
    """The host with the id or name `id_`. Raises UsageError, which suggests the most similar id.

    `file`: the table, for the error message.
    """
    for host in hosts:
        if id_ in host.ids or id_ == host.name:
            return host
    raise UsageError(f"{id_} is not in {file}{did_you_mean(id_, [host.id for host in hosts])}")
