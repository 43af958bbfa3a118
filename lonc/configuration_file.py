"""`loncapa.conf`: finds the file and reads it into Settings.

The file is Apache's. Only its lines `PerlSetVar NAME VALUE` count, and of those only the settings that
`configuration` declares. Another name that begins with `lonc` is a fault; all others are skipped.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lonc.configuration import (
    AUTO,
    CERTIFICATE_SETTINGS,
    CLASSIC,
    DECLARATIONS,
    INSECURE,
    SSL,
    Settings,
    did_you_mean,
)
from lonc.errors import Fault, Misconfigured

DEFAULT_FILES = (Path("/etc/lonc/loncapa.conf"), Path("/etc/httpd/conf/loncapa.conf"))

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
    text = f"no such file, nor is there {DEFAULT_FILES[1]}: name one with -c FILE or $LONC_CONF"
    raise Misconfigured([Fault(DEFAULT_FILES[0], None, text)])


def read_settings(file: Path) -> tuple[Settings, list[Fault]]:
    """The settings, and all faults of the file. A setting that is missing or faulty has its default.

    Raises Misconfigured if the file cannot be read.
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
            if name in _ATTRIBUTES:
                values[_ATTRIBUTES[name]] = _value(name, text)
            elif name.startswith("lonc"):
                raise ValueError(f"there is no setting {name!r}{did_you_mean(name, _ATTRIBUTES)}")
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
    # With one of them missing, auto would silently be insecure with every host.
    needed = mode == SSL or (mode == AUTO and any(name in lines_of for name in names))
    if needed and settings.certificates is None:
        text = f"loncKeyMode {mode} needs all of {', '.join(names)}{', or none' * (mode == AUTO)}"
        yield Fault(file, lines_of["loncKeyMode"], text)
    if "loncGroup" in lines_of and "loncUser" not in lines_of:
        yield Fault(file, lines_of["loncGroup"], "loncGroup is set, and loncUser is not")


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
