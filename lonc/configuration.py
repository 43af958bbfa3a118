"""`loncapa.conf` into frozen Settings.

The file is Apache's; only its lines `PerlSetVar NAME VALUE` count here, and of those only LON-CAPA's
names in the table below and whatever begins with `lonc`, which is ours.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from lonc.errors import Fault, Misconfigured
from lonc.setting_types import (
    CONTROL_SOCKET,
    Reader,
    absolute,
    absolute_file,
    daemons,
    file_name,
    group,
    id_word,
    ipv4,
    octal_mode,
    one_of,
    seconds,
    socket_path,
    user,
    whole,
    zero_or_one,
)

DEFAULT_FILES = (Path("/etc/lonc/loncapa.conf"), Path("/etc/httpd/conf/loncapa.conf"))

_PERL_SET_VAR = re.compile(rb"\s*PerlSetVar(?:\s|\Z)", re.IGNORECASE)
_WORD = re.compile(r'"[^"]*"(?!\S)|\S+')

EAGER, ON_DEMAND = "eager", "ondemand"  # children
BY_ID, BY_DNS = "id", "dns"  # what the socket of a host is called
CLASSIC, AUTO, LOCAL, SSL, INSECURE = KEY_MODES = ("classic", "auto", "local", "ssl", "insecure")
LOG_LEVELS = ("debug", "info", "warning", "error")


def setting(name: str, default: Any, read: Reader, *, fixed: bool = False) -> Any:
    """A `fixed` one cannot change while lonc runs."""
    return field(default=default, metadata={"name": name, "read": read, "fixed": fixed})


class Certificates(NamedTuple):
    """What TLS needs: our certificate and its private key, and that of the authority of all hosts."""

    certificate: Path
    private_key: Path
    authority: Path


CERTIFICATE_SETTINGS = ("lonnetCertificate", "lonnetPrivateKey", "lonnetCertificateAuthority")


# fmt: off
@dataclass(frozen=True)
class Settings:
    """Every setting of the program, by its name in the file, with its default and what it may be."""

    host_id: str             = setting("lonHostID", "", id_word)
    table_directory: Path    = setting("lonTabDir", Path("/home/httpd/lonTabs"), absolute)
    socket_directory: Path   = setting("lonSockDir", Path("/home/httpd/sockets"), absolute, fixed=True)
    daemons: Path            = setting("lonDaemons", Path("/home/httpd/perl"), daemons, fixed=True)
    lond_port: int           = setting("londPort", 5663, whole(1, 65535))
    max_connections: int     = setting("loncMaxConnections", 5, whole(1, 1000))
    connect_retries: int     = setting("loncConnectRetries", 2, whole(1, 1000))
    bind_address: str | None = setting("loncBindAddress", None, ipv4)
    max_clients: int         = setting("loncMaxClients", 1000, whole(1, 1_000_000))
    max_request: int         = setting("loncMaxRequest", 16777216, whole(1, 1 << 40))
    max_reply: int           = setting("loncMaxReply", 67108864, whole(64, 1 << 40))
    socket_mode: int         = setting("loncSocketMode", 0o660, octal_mode, fixed=True)
    log_level: str           = setting("loncLogLevel", "info", one_of(*LOG_LEVELS))
    drain_timeout: float     = setting("loncDrainTimeout", 30.0, seconds(0, 86400))
    connect_timeout: float   = setting("loncConnectTimeout", 5.0, seconds(0.1, 3600))
    handshake_timeout: float = setting("loncHandshakeTimeout", 10.0, seconds(0.1, 3600))
    request_timeout: float   = setting("loncRequestTimeout", 300.0, seconds(0.1, 86400))
    queue_timeout: float     = setting("loncQueueTimeout", 60.0, seconds(0.1, 86400))
    idle_timeout: float      = setting("loncIdleTimeout", 3600.0, seconds(0.1, 31536000))
    retry_delay: float       = setting("loncRetryDelay", 1.0, seconds(0.1, 86400))
    retry_max_delay: float   = setting("loncRetryMaxDelay", 60.0, seconds(0.1, 86400))
    max_buffered: int        = setting("loncMaxBuffered", 536870912, whole(1048576, 1 << 40))
    delayed_interval: float  = setting("loncDelayedInterval", 30.0, seconds(0.1, 86400))
    delayed_key_file: Path | None = setting("loncDelayedKeyFile", None, absolute_file)
    children: str            = setting("loncChildren", EAGER, one_of(EAGER, ON_DEMAND))
    socket_name: str         = setting("loncSocketName", BY_ID, one_of(BY_ID, BY_DNS), fixed=True)
    create_socket: Path | None = setting("lonSockCreate", None, socket_path, fixed=True)
    key_mode: str            = setting("loncKeyMode", CLASSIC, one_of(*KEY_MODES))
    allow_insecure: bool     = setting("loncAllowInsecure", True, zero_or_one)
    certificate_directory: Path | None = setting("lonCertificateDirectory", None, absolute)
    certificate: Path | None = setting("lonnetCertificate", None, file_name)
    private_key: Path | None = setting("lonnetPrivateKey", None, file_name)
    authority: Path | None   = setting("lonnetCertificateAuthority", None, file_name)
    user: str | None         = setting("loncUser", None, user, fixed=True)
    group: str | None        = setting("loncGroup", None, group, fixed=True)
# fmt: on

    @property
    def by_dns(self) -> bool:
        """Whether a host's socket has its DNS name, and not its id."""
        return self.socket_name == BY_DNS

    @property
    def hosts_file(self) -> Path:
        return self.table_directory / "hosts.tab"

    @property
    def certificates(self) -> Certificates | None:
        """None unless all of it is set."""
        place, files = self.certificate_directory, (self.certificate, self.private_key, self.authority)
        if place is None or None in files:
            return None
        return Certificates(*(place / file for file in files if file is not None))

    @property
    def needed_certificates(self) -> Certificates | None:
        """None where loncKeyMode does without."""
        return self.certificates if self.key_mode in (AUTO, SSL) else None

    @property
    def secrets(self) -> list[Path]:
        """Files that the daemon must be able to read, and not everybody may."""
        keys = [] if self.delayed_key_file is None else [self.delayed_key_file]
        return [*(self.needed_certificates or ()), *keys]

    @property
    def log_directory(self) -> Path:
        return self.daemons / "logs"

    @property
    def log_file(self) -> Path:
        return self.log_directory / "lonc.log"

    @property
    def pid_file(self) -> Path:
        return self.log_directory / "lonc.pid"

    @property
    def control_file(self) -> Path:
        return self.daemons / CONTROL_SOCKET

    @property
    def delayed_directory(self) -> Path:
        return self.socket_directory / "delayed"

    @property
    def perm_log(self) -> Path:
        return self.log_directory / "lonnet.perm.log"

    @property
    def status_file(self) -> Path:
        return self.log_directory / "lonc_status.txt"

    def fixed_changes(self, other: Settings) -> list[str]:
        """Names of settings that differ in `other` and cannot change while lonc runs."""
        return [
            each.metadata["name"]
            for each in fields(self)
            if each.metadata["fixed"] and getattr(self, each.name) != getattr(other, each.name)
        ]


_BY_NAME = {each.metadata["name"]: each for each in fields(Settings)}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a sentence that says `word` is not known: the nearest known word, or nothing."""
    nearest = get_close_matches(word, known, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def find_configuration(named: str | None, environment: Mapping[str, str]) -> Path:
    """The file to read: `named`, else $LONC_CONF, else the first default place that has one.

    Raises Misconfigured if there is none in either default place.
    """
    if named is None:
        named = environment.get("LONC_CONF") or None
    if named is not None:
        return Path(named)
    for file in DEFAULT_FILES:
        if file.exists():
            return file
    text = f"no such file, nor is there {DEFAULT_FILES[1]}: name one with -c FILE or $LONC_CONF"
    raise Misconfigured([Fault(DEFAULT_FILES[0], None, text)])


def read_settings(file: Path) -> tuple[Settings, list[Fault]]:
    """The settings, at their defaults where the file says nothing or nonsense, and all its faults.

    Raises Misconfigured if it cannot be read at all.
    """
    try:
        lines = file.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    except OSError as error:
        raise Misconfigured([Fault(file, None, f"{error.strerror}")]) from error
    values: dict[str, Any] = {}
    lines_of: dict[str, int] = {}
    faults: list[Fault] = []
    for number, line in enumerate(lines, start=1):
        if not _PERL_SET_VAR.match(line):
            continue
        try:
            name, text = _name_and_value(line)
            lines_of[name] = number
            if name in _BY_NAME:
                values[_BY_NAME[name].name] = _value(name, text)
            elif name.startswith("lonc"):
                raise ValueError(f"there is no setting {name!r}{did_you_mean(name, _BY_NAME)}")
        except ValueError as error:
            faults.append(Fault(file, number, str(error)))
    settings = Settings(**values)
    faults += _contradictions(settings, file, lines_of)
    if "lonHostID" not in lines_of:
        faults.append(Fault(file, None, "lonHostID, the id of this machine, is not set"))
    return settings, faults


def _contradictions(settings: Settings, file: Path, lines_of: Mapping[str, int]) -> Iterator[Fault]:
    mode = settings.key_mode
    if mode in (CLASSIC, INSECURE) and not settings.allow_insecure:
        text = f"loncAllowInsecure 0 forbids loncKeyMode {mode}: set it to auto or ssl"
        yield Fault(file, lines_of["loncAllowInsecure"], text)
    names = "lonCertificateDirectory", *CERTIFICATE_SETTINGS
    # (Where one is forgotten, auto would be insecure with everybody.)
    wanted = mode == SSL or (mode == AUTO and any(name in lines_of for name in names))
    if wanted and settings.certificates is None:
        text = f"loncKeyMode {mode} needs all of {', '.join(names)}{', or none' * (mode == AUTO)}"
        yield Fault(file, lines_of["loncKeyMode"], text)
    if "loncGroup" in lines_of and "loncUser" not in lines_of:
        yield Fault(file, lines_of["loncGroup"], "loncGroup is set, and loncUser is not")


def _name_and_value(line: bytes) -> tuple[str, str]:
    try:
        words = _WORD.findall(line.decode())[1:]
    except UnicodeDecodeError:
        raise ValueError(f"bytes that are no UTF-8: {line!r}") from None
    name = f"{repr(words[0])[1:-1]}: " if words else ""
    if len(words) != 2:
        raise ValueError(
            f"{name}PerlSetVar takes NAME VALUE, and has {len(words)} words"
            " (a comment needs its own line)"
        )
    if any('"' in word.removeprefix('"').removesuffix('"') or word.count('"') == 1 for word in words):
        raise ValueError(f"{name}a double quote that stands alone")
    return words[0].strip('"'), words[1].strip('"')


def _value(name: str, text: str) -> Any:
    try:
        return _BY_NAME[name].metadata["read"](text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
