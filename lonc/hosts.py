"""`hosts.tab` into Host records, in file order."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lonc.configuration import SOCKET_PATH_MAX, did_you_mean, id_word
from lonc.errors import Fault, UsageError


@dataclass(frozen=True)
class Host:
    """One line of the table: id:domain:role:dnsname[:ip[:…]]."""

    id: str
    domain: str
    role: str
    dnsname: str
    address: str | None  # IPv4; None where the table has none
    line: int = field(compare=False)


def read_hosts(file: Path, socket_directory: Path) -> tuple[list[Host], list[Fault]]:
    """All hosts that could be read, and everything that is wrong with `file`.

    What stands behind the fifth field is not looked at, nor are comments: they may be in any encoding.
    """
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        return [], [Fault(file, None, f"{error.strerror} (lonTabDir says where it is)")]
    hosts: dict[str, Host] = {}
    faults: list[Fault] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith((b"#", b"^")):
            continue
        try:
            host = _read_host(line, number, socket_directory)
            if host.id in hosts:
                raise ValueError(f"{host.id} stands in line {hosts[host.id].line} already")
            hosts[host.id] = host
        except ValueError as error:
            faults.append(Fault(file, number, str(error)))
    return list(hosts.values()), faults


def _read_host(line: bytes, number: int, socket_directory: Path) -> Host:
    """Raises ValueError with a sentence."""
    try:
        fields = [field.decode() for field in line.rstrip().split(b":")[:5]]
    except UnicodeDecodeError as error:
        raise ValueError(f"a field with bytes that are no UTF-8: {error.object!r}") from None
    if len(fields) < 4:
        raise ValueError(f"a host is id:domain:role:dnsname:address, and this has {len(fields)} of them")
    id_, domain, role, dnsname = fields[:4]
    id_word(id_)
    if id_ == "delayed":
        raise ValueError("no host may be called delayed: its socket would be that directory")
    path = socket_directory / id_
    if len(os.fsencode(path)) + (len(id_) == 1) > SOCKET_PATH_MAX:  # a dot must fit while it is made
        raise ValueError(f"the socket path {path} is longer than {SOCKET_PATH_MAX} bytes")
    address = _address(fields[4]) if len(fields) > 4 else None
    if address is None and not dnsname:
        raise ValueError(f"{id_} has neither an address nor a DNS name")
    return Host(id_, domain, role, dnsname, address, number)


def _address(field: str) -> str | None:
    """The IPv4 address in a fifth field; later tables have a protocol there instead."""
    try:
        return str(ipaddress.IPv4Address(re.sub(r"[^0-9]*\Z", "", field)))
    except ValueError:
        return None


def find_host(hosts: Sequence[Host], id_: str, file: Path) -> Host:
    """The host of that id in `file`. Raises UsageError, with the id that looks most like it."""
    for host in hosts:
        if host.id == id_:
            return host
    raise UsageError(f"{id_} is not in {file}{did_you_mean(id_, [host.id for host in hosts])}")
