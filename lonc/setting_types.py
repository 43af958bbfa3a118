"""Readers of settings: each turns a setting's text into its value, or says what is wrong with it."""

from __future__ import annotations

import grp
import ipaddress
import os
import pwd
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOCKET_PATH_MAX = 107  # bytes; sun_path of Linux has 108, the last one is a zero
CONTROL_SOCKET = "logs/lonc.ctl"  # relative to lonDaemons
DELAYED_DIRECTORY = "delayed"  # relative to lonSockDir, so no socket can have that name

HOST_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Reader:
    """Call it with a setting's text to get the value. Raises ValueError with a sentence."""

    read: Callable[[str], Any]
    accepts: str  # the accepted texts, as the documents print them
    unit: str = ""  # of a number, as the documents print it
    write: Callable[[Any], str] = str  # makes the text of a value

    def __call__(self, text: str) -> Any:
        return self.read(text)


def _accepts(texts: str, write: Callable[[Any], str] = str) -> Callable[[Callable[[str], Any]], Reader]:
    """Decorator: makes a Reader of a function."""
    return lambda read: Reader(read, texts, write=write)


def whole(low: int, high: int, unit: str = "") -> Reader:
    """A whole number from `low` to `high`."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text):
            raise ValueError(f"{text!r} is not a whole number")
        if not low <= int(text) <= high:
            raise ValueError(f"{text} is not between {low} and {high}")
        return int(text)

    return Reader(read, f"{low} to {high}", unit)


def seconds(low: float, high: float) -> Reader:
    """A number of seconds from `low` to `high`, with decimals if wanted."""

    def read(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
            raise ValueError(f"{text!r} is not a number of seconds")
        if not low <= float(text) <= high:
            raise ValueError(f"{text} is not between {low:g} and {high:.9g} seconds")
        return float(text)

    return Reader(read, f"{low:g} to {high:.9g}", "seconds", lambda value: f"{value:.15g}")


def one_of(*words: str) -> Reader:
    """One of these words."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is none of {', '.join(words)}")
        return text

    return Reader(read, ", ".join(f"`{word}`" for word in words))


@_accepts("`0` or `1`", write="{:d}".format)
def zero_or_one(text: str) -> bool:
    return bool(whole(0, 1)(text))


@_accepts("letters, digits, `_` and `-`, not starting with `-`")
def id_word(text: str) -> str:
    if not HOST_ID.fullmatch(text):
        raise ValueError(f"{text!r} is not a host id: letters, digits, _ and -, not starting with -")
    return text


@_accepts("absolute path of a directory")
def absolute(text: str) -> Path:
    if not text.startswith("/") or not text.isprintable():
        raise ValueError(f"{text!r} is not the absolute path of a directory")
    return Path(text)


@_accepts("absolute path of a file")
def absolute_file(text: str) -> Path:
    if not text.startswith("/") or text.endswith("/") or "\0" in text:
        raise ValueError(f"{text!r} is not the absolute path of a file")
    return Path(text)


@_accepts(f"absolute path of at most {SOCKET_PATH_MAX} bytes")
def socket_path(text: str) -> Path:
    path: Path = absolute_file(text)
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        raise ValueError(f"the socket path {path} is longer than {SOCKET_PATH_MAX} bytes")
    return path


@_accepts("absolute path of a directory")
def daemons(text: str) -> Path:
    """A directory; the path of the control socket in it must fit into a socket address."""
    path: Path = absolute(text)
    socket_path(f"{path / CONTROL_SOCKET}")
    return path


@_accepts("name of a file")
def file_name(text: str) -> Path:
    if not text or text.endswith("/") or "\0" in text:
        raise ValueError(f"{text!r} is not the name of a file")
    return Path(text)


@_accepts("IPv4 address")
def ipv4(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise ValueError(f"{text!r} is not an IPv4 address") from None


@_accepts("octal mode", write="{:04o}".format)
def octal_mode(text: str) -> int:
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise ValueError(f"{text!r} is not an octal mode like 0660")
    return int(text, 8)


@_accepts("name of a user, not root")
def user(text: str) -> str:
    try:
        found = pwd.getpwnam(text)
    except (KeyError, ValueError):
        raise ValueError(f"there is no user {text!r}") from None
    if found.pw_uid == 0:
        raise ValueError(f"{text} has root's rights: name an unprivileged user, or none")
    return text


@_accepts("name of a group")
def group(text: str) -> str:
    try:
        grp.getgrnam(text)
    except (KeyError, ValueError):
        raise ValueError(f"there is no group {text!r}") from None
    return text
