"""The two files that an administrator writes: hosts.tab and loncapa.conf."""

import codecs
import contextlib
import os
import re
from dataclasses import asdict
from pathlib import Path

from lonc.configuration import DECLARATIONS
from lonc.configuration_file import read_settings
from lonc.errors import AtStart
from lonc.hosts import read_hosts

SOCKETS = Path("/" + "s" * 90)  # an id of 16 characters fits

HOSTS_WORDS = [
    b"\n", b":", b"l1:d:library:n:", b"l1", b"delayed", b"-", b"_", b"#", b"^", b" ", b"127.0.0.1", b".",
    b"255", b"256", b"127.0.0.1x", b"0", b"\r", b"\0", b"\xff", b"\xc2\x85", "é".encode(), b"\x1b[2J",
    "\u0661".encode(), b"a" * 16, b"a" * 17, b"\xef\xbb\xbf",
]  # fmt: skip
CONFIGURATION_WORDS = [
    b"\n", b" ", b"\t", b'"', b"#", b"\xef\xbb\xbf", b"PerlSetVar ", b"perlsetvar ", b"lonHostID ", b"x",
    b"/", b"/a", b"0", b"1", b"18", b"0660", b".5", b"9" * 19, b"-", b"127.0.0.1", b"debug", b"ondemand",
    b"\0", b"\xff", "é".encode(), "\u0661".encode(), b"\x1b[2J", b"/" + b"x" * 93,
    *(declaration.name.encode() + b" " for declaration in DECLARATIONS.values()),
]  # fmt: skip

MAY_BE_ZERO = {
    "client_idle_timeout",
    "drain_timeout",
    "keepalive",
    "max_lifetime",
    "sync_interval",
    "table_watch",
}


@contextlib.contextmanager
def _file(data):
    """The path of a file in memory with that content."""
    fd = os.memfd_create("table")
    try:
        os.write(fd, data)
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _check_faults(faults, count):
    for fault in faults:
        assert fault.line is None or 1 <= fault.line <= count
        assert fault.text.isprintable(), "the text of a fault contains no control character"


def hosts(data):
    """Each line except empty lines and comments gives one host or one fault, in order.

    An id is unique and short enough for a socket's path; a host has an IPv4 address or a DNS name. The
    same bytes give the same table.
    """
    with _file(data) as file:
        table = read_hosts([file], SOCKETS)
        assert read_hosts([file], SOCKETS) == table
    found, faults = table.hosts, table.faults
    lines = data.removeprefix(codecs.BOM_UTF8).split(b"\n")
    _check_faults(faults, len(lines))
    finished = not lines[-1].strip()
    if finished:
        lines.pop()
    count = [
        number
        for number, line in enumerate(lines, 1)
        if b"\r" in line.rstrip(b"\r") or (line.strip() and line.lstrip()[:1] not in b"#^")
    ]
    unfinished = [fault for fault in faults if fault.at_start is AtStart.WARNS]
    assert [fault.line for fault in unfinished] == ([] if finished else [len(lines)])
    broken = [fault for fault in faults if fault not in unfinished]
    assert sorted([host.line for host in found] + [fault.line for fault in broken]) == count
    assert [host.line for host in found] == sorted(host.line for host in found)
    assert len({host.id for host in found}) == len(found)
    _check_by_dns(file_data=data, lines=lines)
    for host in found:
        assert re.fullmatch("[A-Za-z0-9_][A-Za-z0-9_-]{0,15}", host.id)
        assert host.id != "delayed"
        assert lines[host.line - 1].startswith(f"{host.id}:{host.domain}:{host.role}:".encode())
        if host.address is None:
            assert host.dnsname
        else:
            numbers = host.address.split(".")
            assert len(numbers) == 4
            assert all(number == str(int(number)) and int(number) < 256 for number in numbers)


def _check_by_dns(file_data, lines):
    """Hosts with the same DNS name are merged into one, and each id is unique."""
    with _file(file_data) as file:
        table = read_hosts([file], SOCKETS, by_dns=True)
    found, faults = table.hosts, table.faults
    _check_faults(faults, len(lines))
    ids = [id_ for host in found for id_ in host.ids]
    assert len(set(ids)) == len(ids)
    assert len({host.name for host in found}) == len(found)
    for host in found:
        assert host.id == host.ids[0]
        assert host.name == host.dnsname
        assert re.fullmatch("[A-Za-z0-9_][A-Za-z0-9_.-]{0,15}", host.name)
        assert host.name != "delayed"


def configuration(data):
    """Settings are within their bounds for any content; every fault names its line or the missing id.

    The same bytes give the same settings. A correct line is used, whatever precedes it.
    """
    with _file(data) as file:
        settings, faults = read_settings(file)
        assert read_settings(file) == (settings, faults)
    _check_faults(faults, data.count(b"\n") + 1)
    assert settings.host_id or faults
    _check_settings(settings)
    with _file(data + b"\nPerlSetVar lonHostID last\nPerlSetVar loncMaxClients 77\n") as file:
        settings, more = read_settings(file)
    assert (settings.host_id, settings.max_clients) == ("last", 77)
    lasting = [each for each in faults if each.at_start is not AtStart.WARNS]
    assert [each.line for each in more] == [each.line for each in lasting if each.line is not None]


def _check_settings(settings):
    assert settings.host_id == "" or re.fullmatch("[A-Za-z0-9_][A-Za-z0-9_-]*", settings.host_id)
    for directory in (settings.table_directory, settings.socket_directory, settings.daemons):
        assert directory.is_absolute()
        assert "\0" not in str(directory)
    assert len(os.fsencode(settings.control_file)) <= 107
    assert 1 <= settings.lond_port <= 65535
    assert 0 <= settings.socket_mode <= 0o777
    assert settings.max_reply >= 64
    assert settings.max_buffered >= 1 << 20
    values = asdict(settings)
    for attribute in DECLARATIONS:
        value = values[attribute]
        if isinstance(value, bool):
            continue
        if isinstance(value, int | float) and attribute != "socket_mode":
            assert (0 if attribute in MAY_BE_ZERO else 0.1) <= value <= 1 << 40
    assert settings.log_level in ("debug", "info", "warning", "error")
    assert settings.children in ("eager", "ondemand")
    if settings.bind_address is not None:
        assert re.fullmatch(r"(\d{1,3}\.){3}\d{1,3}", settings.bind_address, re.ASCII)
