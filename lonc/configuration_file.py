"""`loncapa.conf` and `loncapa_apache.conf`: finds the files and reads them into Settings.

The files are Apache's. Only lines `PerlSetVar NAME VALUE` count, and of those only the settings that
`configuration` declares. Another name that begins with `lonc` is a fault; all others are skipped.

LON-CAPA's own programs read both files as well. That the second one is read last, so that its values
win, is not proven.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lonc.configuration import (
    AUTO,
    BY_DNS,
    CERTIFICATE_SETTINGS,
    CLASSIC,
    DECLARATIONS,
    INSECURE,
    ON_DEMAND,
    REVOCATION_SETTING,
    SSL,
    Settings,
    did_you_mean,
)
from lonc.errors import AtStart, Fault, Misconfigured
from lonc.source_file import FileState, read_file

DEFAULT_FILES = (
    Path("/etc/lonc/loncapa.conf"),
    Path("/etc/httpd/conf/loncapa.conf"),
    Path("/etc/apache2/loncapa.conf"),
)
APACHE_FILE = "loncapa_apache.conf"

_PERL_SET_VAR = re.compile(rb"\s*PerlSetVar(?:\s|\Z)", re.IGNORECASE)
_WORD = re.compile(r'"[^"]*"(?!\S)|\S+')
_ATTRIBUTES = {declaration.name: attribute for attribute, declaration in DECLARATIONS.items()}


def find_configuration(named: str | None, environment: Mapping[str, str]) -> Path:
    """The configuration file: `named`, else $LONC_CONF, else the first of DEFAULT_FILES that exists.

    Raises Misconfigured if there is none.
    """
    if named is None:
        named = environment.get("LONC_CONF") or None
    if named is not None:
        return Path(named)
    for file in DEFAULT_FILES:
        if file.exists():
            return file
    others = " or ".join(map(str, DEFAULT_FILES[1:]))
    text = f"no such file, nor is there {others}: name one with -c FILE or $LONC_CONF"
    raise Misconfigured([Fault(DEFAULT_FILES[0], None, text)])


def read_settings(file: Path) -> tuple[Settings, list[Fault]]:
    """The settings, and all faults of the file. A setting that is missing or faulty has its default.

    Raises Misconfigured if the file cannot be read.
    """
    configuration = read_configuration(file)
    return configuration.settings, list(configuration.faults)


@dataclass(frozen=True)
class Origin:
    """Where a value comes from: from a line that sets it, or, `derived`, from one that sets another."""

    file: Path
    line: int
    derived: str = ""  # the reason for which the value is another than the usual default

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}"
        return f"{self.derived} ({place})" if self.derived else place


@dataclass(frozen=True)
class Configuration:
    """What the files say. `origins`: by the name of a setting, unless it has its default."""

    settings: Settings
    origins: Mapping[str, Origin] = field(default_factory=dict)
    faults: Sequence[Fault] = ()
    files: Sequence[FileState] = ()


def read_configuration(file: Path) -> Configuration:
    """Read `file` and, where it is beside it, APACHE_FILE. A setting that is faulty has its default.

    Raises Misconfigured if `file` cannot be read.
    """
    reader = _ConfigurationReader()
    try:
        reader.read(file)
    except OSError as error:
        raise Misconfigured([Fault(file, None, f"{error.strerror}")]) from error
    beside = file.parent / APACHE_FILE
    if file.name != APACHE_FILE:
        try:
            reader.read(beside)
        except (FileNotFoundError, NotADirectoryError):
            reader.files.append(FileState(beside))
        except OSError as error:
            reader.files.append(FileState(beside))
            reader.faults.append(Fault(beside, None, f"{error.strerror}"))
    _derive(reader.values, reader.origins)
    settings = Settings(**reader.values)
    faults = [*reader.faults, *_contradictions(settings, reader.origins, reader.mentioned)]
    if "lonHostID" not in reader.mentioned:
        faults.append(Fault(file, None, "lonHostID, the id of this machine, is not set"))
    return Configuration(settings, reader.origins, faults, reader.files)


class _ConfigurationReader:
    """Values by attribute of Settings, and origins by name, of the files read so far; the last one wins.

    `mentioned`: names that a line sets, also if its value has a fault.
    """

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origins: dict[str, Origin] = {}
        self.mentioned: set[str] = set()
        self.faults: list[Fault] = []
        self.files: list[FileState] = []

    def read(self, file: Path) -> None:
        """Raises OSError."""
        state, lines, faults = read_file(file, AtStart.REFUSES)
        self.files.append(state)
        for number, line in lines:
            if not _PERL_SET_VAR.match(line):
                continue
            try:
                name, text = _name_and_value(line)
                self.mentioned.add(name)
                if name in _ATTRIBUTES:
                    self.values[_ATTRIBUTES[name]] = _value(name, text)
                    self.origins[name] = Origin(file, number)
                elif name.startswith("lonc"):
                    raise ValueError(f"there is no setting {name!r}{did_you_mean(name, _ATTRIBUTES)}")
            except ValueError as error:
                faults.append(Fault(file, number, str(error)))
        self.faults += sorted(faults, key=lambda fault: fault.line or 0)


def _derive(values: dict[str, Any], origins: dict[str, Origin]) -> None:
    """Where `lonSockCreate` is set, LON-CAPA is a later one, and some settings have other defaults."""
    if values.get("create_socket") is None:
        return
    # One of them is enough: if others are missing, that is a fault, and not a reason to go without.
    certified = any(name in origins for name in (*CERTIFICATE_SETTINGS, REVOCATION_SETTING))
    certificates = "certificates are set" if certified else "no certificates are set"
    place = origins["lonSockCreate"]
    for attribute, value, also in (
        ("socket_name", BY_DNS, ""),
        ("key_mode", AUTO if certified else INSECURE, f", {certificates}"),
        ("children", ON_DEMAND, ""),
        ("allow_plain_replies", True, ""),
    ):
        if attribute not in values:
            values[attribute] = value
            why = f"lonSockCreate is set{also}"
            origins[DECLARATIONS[attribute].name] = Origin(place.file, place.line, why)


def _contradictions(
    settings: Settings, origins: Mapping[str, Origin], mentioned: Collection[str]
) -> Iterator[Fault]:
    def fault(name: str, text: str) -> Fault:
        return Fault(origins[name].file, origins[name].line, text)

    mode = settings.key_mode
    if mode in (CLASSIC, INSECURE) and not settings.allow_insecure:
        text = f"loncAllowInsecure 0 forbids loncKeyMode {mode}: set it to auto or ssl"
        yield fault("loncAllowInsecure", text)
    names = "lonCertificateDirectory", *CERTIFICATE_SETTINGS
    # With one of them missing, auto would silently be insecure with every host.
    any_set = any(name in mentioned for name in (*names, REVOCATION_SETTING))
    needed = mode == SSL or (mode == AUTO and any_set)
    if needed and settings.certificates is None:
        text = f"loncKeyMode {mode} needs all of {', '.join(names)}{', or none' * (mode == AUTO)}"
        yield fault("loncKeyMode", text)
    if settings.group is not None and "loncUser" not in mentioned:
        yield fault("loncGroup", "loncGroup is set, and loncUser is not")


def _name_and_value(line: bytes) -> tuple[str, str]:
    try:
        words = _WORD.findall(line.decode())[1:]
    except UnicodeDecodeError:
        raise ValueError(f"bytes that are not UTF-8: {line!r}") from None
    name = f"{repr(words[0])[1:-1]}: " if words else ""
    if len(words) != 2:
        raise ValueError(
            f"{name}PerlSetVar takes NAME VALUE, and has {len(words)} words"
            " (a comment needs its own line)"
        )
    if any('"' in word.removeprefix('"').removesuffix('"') or word.count('"') == 1 for word in words):
        raise ValueError(f"{name}an unmatched double quote")
    return words[0].strip('"'), words[1].strip('"')


def _value(name: str, text: str) -> Any:
    try:
        return DECLARATIONS[_ATTRIBUTES[name]].read(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
