"""`hosts.tab` into Host records, in file order.

With `loncSocketName dns` hosts of one DNS name are one record: one machine, with several ids.
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
from lonc.setting_types import SOCKET_PATH_MAX, id_word

_DNS_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Host:
    """One line of the table: id:domain:role:dnsname[:ip[:…]]."""

    id: str
    domain: str
    role: str
    dnsname: str
    address: str | None  # IPv4; None where the table has none
    line: int = field(compare=False)
    name: str = ""  # of its socket, and in whatever is told: its id, or its DNS name
    ids: tuple[str, ...] = ()  # the others, behind the same DNS name, too

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.id)
        object.__setattr__(self, "ids", self.ids or (self.id,))


def read_hosts(
    file: Path, socket_directory: Path, by_dns: bool = False
) -> tuple[list[Host], list[Fault]]:
    """All hosts that could be read, and everything that is wrong with `file`; `by_dns` those of one DNS
    name are one, called by that.

    What stands behind the fifth field is not looked at, nor are comments: they may be in any encoding.
    """
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        return [], [Fault(file, None, f"{error.strerror} (lonTabDir says where it is)")]
    hosts: dict[str, Host] = {}  # by id
    faults: list[Fault] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith((b"#", b"^")):
            continue
        try:
            host = _read_host(line, number, socket_directory, by_dns)
            if host.id in hosts:
                raise ValueError(f"{host.id} stands in line {hosts[host.id].line} already")
            hosts[host.id] = host
        except ValueError as error:
            faults.append(Fault(file, number, str(error)))
    if not by_dns:
        return list(hosts.values()), faults
    machines: dict[str, Host] = {}
    for host in hosts.values():
        first = machines.setdefault(host.name, host)
        if first.address != host.address:
            text = f"{host.id} has another address than {first.id}, of the same DNS name"
            faults.append(Fault(file, host.line, text))
        elif first is not host:
            machines[host.name] = replace(first, ids=(*first.ids, host.id))
    return list(machines.values()), faults


def _read_host(line: bytes, number: int, socket_directory: Path, by_dns: bool) -> Host:
    """Raises ValueError with a sentence."""
    try:
        fields = [field.decode() for field in line.rstrip().split(b":")[:5]]
    except UnicodeDecodeError as error:
        raise ValueError(f"a field with bytes that are no UTF-8: {error.object!r}") from None
    if len(fields) < 4:
        raise ValueError(f"a host is id:domain:role:dnsname:address, and this has {len(fields)} of them")
    id_, domain, role, dnsname = fields[:4]
    id_word(id_)
    name = dnsname if by_dns else id_
    if by_dns and not _DNS_NAME.fullmatch(dnsname):
        raise ValueError(f"{dnsname!r} is no DNS name, which loncSocketName dns needs")
    if name == "delayed":
        raise ValueError("no host may be called delayed: its socket would be that directory")
    path = socket_directory / name
    if len(os.fsencode(path)) + (len(name) == 1) > SOCKET_PATH_MAX:  # a dot must fit while it is made
        raise ValueError(f"the socket path {path} is longer than {SOCKET_PATH_MAX} bytes")
    address = _address(fields[4]) if len(fields) > 4 else None
    if address is None and not dnsname:
        raise ValueError(f"{id_} has neither an address nor a DNS name")
    return Host(id_, domain, role, dnsname, address, number, name)


def _address(field: str) -> str | None:
    """The IPv4 address in a fifth field; later tables have a protocol there instead."""
    try:
        return str(ipaddress.IPv4Address(re.sub(r"[^0-9]*\Z", "", field)))
    except ValueError:
        return None


def find_host(hosts: Sequence[Host], id_: str, file: Path) -> Host:
    """The host of that id, or name. Raises UsageError, with the id that looks most like it."""
    for host in hosts:
        if id_ in host.ids or id_ == host.name:
            return host
    raise UsageError(f"{id_} is not in {file}{did_you_mean(id_, [host.id for host in hosts])}")
