"""Reads `dns_hosts.tab` and `hosts.tab` into Host records, in the order of the files.

LON-CAPA fetches `dns_hosts.tab` from the network, where there is one: its name, and its fields
`id:domain:role:dnsname:protocol:internet-domain`, are not proven. A line that begins with `^` names a
server that it is fetched from.

With `loncSocketName dns` the hosts of one DNS name become one record with several ids.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lonc.configuration import Settings, did_you_mean
from lonc.errors import AtStart, Fault, UsageError
from lonc.setting_types import DELAYED_DIRECTORY, SOCKET_PATH_MAX, id_word
from lonc.source_file import FileState, SourceFile, read_file

_DNS_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_TO_LAST_DIGIT = re.compile(r".*[0-9]", re.DOTALL)  # by `match`, so that a long field is searched once


@dataclass(frozen=True)
class Host:
    """One line of the table: `id:domain:role:dnsname[:address[:…]]`."""

    id: str
    domain: str
    role: str
    dnsname: str
    address: str | None  # IPv4; None if the table has none
    line: int = field(compare=False)  # number of the line; 0: no table has the host
    file: Path = field(default=Path("hosts.tab"), compare=False)  # the table that has the line
    name: str = ""  # of its socket, and in logs: the id, or with loncSocketName dns the DNS name
    ids: tuple[str, ...] = ()  # `id`, and with loncSocketName dns the other ids of the DNS name
    is_own: bool = False  # it is this machine

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.id)
        object.__setattr__(self, "ids", self.ids or (self.id,))

    def fault(self, text: str, at_start: AtStart = AtStart.SKIPS) -> Fault:
        """A fault of its line."""
        return Fault(self.file, self.line, text, at_start)


@dataclass(frozen=True)
class Table:
    """The valid hosts of all table files, and the faults of those files."""

    hosts: Sequence[Host] = ()
    faults: Sequence[Fault] = ()
    files: Sequence[FileState] = ()


def read_tables(settings: Settings) -> Table:
    """Read `settings.table_files`."""
    table = read_hosts(settings.table_files, settings.socket_directory, settings.by_dns)
    table = replace(table, hosts=_mark_own(table.hosts, settings.host_id))
    place = settings.create_socket
    clashes = [host for host in table.hosts if settings.socket_directory / host.name == place]
    if not clashes:
        return table
    faults = [
        host.fault(f"the socket of {host.name} would be lonSockCreate", AtStart.REFUSES)
        for host in clashes
    ]
    return replace(table, faults=[*table.faults, *faults])


def read_hosts(files: Sequence[Path], socket_directory: Path, by_dns: bool = False) -> Table:
    """Read `files`, of which only the last one must exist. An id in two of them is the later one's.

    `socket_directory`: a host whose socket path would be too long there is a fault.
    `by_dns`: whether sockets have DNS names; then the hosts of one DNS name are one record.

    Comments, and fields after the fifth, are skipped; they may be in any encoding.
    """
    hosts: dict[str, Host] = {}  # by id
    faults: list[Fault] = []
    states: list[FileState] = []
    for file in files:
        try:
            source = read_file(file, AtStart.SKIPS)
        except OSError as error:
            states.append(FileState(file))
            if not isinstance(error, FileNotFoundError) or file is files[-1]:
                faults.append(Fault(file, None, f"{error.strerror} (lonTabDir sets the directory)"))
            continue
        states.append(source.state)
        read, more = _read_lines(source, socket_directory, by_dns)
        hosts |= read
        faults += more
    if not by_dns:
        return Table(list(hosts.values()), faults, states)
    machines, more = _merge(hosts.values())
    return Table(machines, [*faults, *more], states)


def _read_lines(
    source: SourceFile, socket_directory: Path, by_dns: bool
) -> tuple[dict[str, Host], list[Fault]]:
    hosts: dict[str, Host] = {}
    faults: list[Fault] = []
    file = source.state.path
    for number, line in source.lines:
        if not line.strip() or line.lstrip().startswith((b"#", b"^")):
            continue
        try:
            host = _read_host(line, file, number, socket_directory, by_dns)
            if host.id in hosts:
                raise ValueError(f"{host.id} is in line {hosts[host.id].line} already")
            hosts[host.id] = host
        except ValueError as error:
            faults.append(Fault(file, number, str(error), AtStart.SKIPS))
    return hosts, sorted([*source.faults, *faults], key=lambda fault: fault.line or 0)


def _mark_own(hosts: Sequence[Host], own_id: str) -> list[Host]:
    """`hosts`, with those marked that have the id or the DNS name of this machine."""
    own_names = {host.dnsname.lower() for host in hosts if own_id in host.ids} - {""}
    return [
        replace(host, is_own=True) if own_id in host.ids or host.dnsname.lower() in own_names else host
        for host in hosts
    ]


def _merge(hosts: Iterable[Host]) -> tuple[list[Host], list[Fault]]:
    """One record for each DNS name. A host without an address takes that of the others of its name."""
    machines: dict[str, Host] = {}
    faults: list[Fault] = []
    for host in hosts:
        first = machines.setdefault(host.name, host)
        if None not in (first.address, host.address) and first.address != host.address:
            text = f"{host.id} and {first.id} have the same DNS name, but different addresses"
            faults.append(host.fault(text))
        elif first is not host:
            address = first.address or host.address
            machines[host.name] = replace(first, ids=(*first.ids, host.id), address=address)
    return list(machines.values()), faults


def _read_host(line: bytes, file: Path, number: int, socket_directory: Path, by_dns: bool) -> Host:
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
    return Host(id_, domain, role, dnsname, address, number, file, name)


def host_of_request(name: str, ids: Sequence[str], settings: Settings) -> Host:
    """A host that no table has, with the DNS name and the ids that a client has named.

    Raises ValueError with a sentence.
    """
    line = f"{ids[0]}:::{name}".encode()
    if not _DNS_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a DNS name")
    host = _read_host(line, settings.hosts_file, 0, settings.socket_directory, settings.by_dns)
    if settings.socket_directory / host.name == settings.create_socket:
        raise ValueError(f"the socket of {host.name} would be lonSockCreate")
    host = replace(host, ids=tuple(dict.fromkeys(ids)) if settings.by_dns else (host.id,))
    return _mark_own([host], settings.host_id)[0]


def _address(field: str) -> str | None:
    """The IPv4 address in a fifth field, or None: later tables have a protocol there."""
    found = _TO_LAST_DIGIT.match(field)
    try:
        return None if found is None else str(ipaddress.IPv4Address(found[0]))
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
