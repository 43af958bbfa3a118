"""A setting's value out of its text: each of these reads one, and raises ValueError with a sentence."""

from __future__ import annotations

import grp
import ipaddress
import os
import pwd
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

SOCKET_PATH_MAX = 107  # bytes; sun_path of Linux has 108, the last of them a zero
CONTROL_SOCKET = "logs/lonc.ctl"  # below lonDaemons

HOST_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")

Reader = Callable[[str], Any]


def whole(low: int, high: int) -> Reader:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text):
            raise ValueError(f"{text!r} is no whole number")
        if not low <= int(text) <= high:
            raise ValueError(f"{text} is not between {low} and {high}")
        return int(text)

    return read


def seconds(low: float, high: float) -> Reader:
    def read(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
            raise ValueError(f"{text!r} is no number of seconds")
        if not low <= float(text) <= high:
            raise ValueError(f"{text} is not between {low:g} and {high:g} seconds")
        return float(text)

    return read


def one_of(*words: str) -> Reader:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is none of {', '.join(words)}")
        return text

    return read


def zero_or_one(text: str) -> bool:
    return bool(whole(0, 1)(text))


def id_word(text: str) -> str:
    if not HOST_ID.fullmatch(text):
        raise ValueError(f"{text!r} is no host id: letters, digits, _ and -, no - in front")
    return text


def absolute(text: str) -> Path:
    if not text.startswith("/") or not text.isprintable():
        raise ValueError(f"{text!r} is no absolute directory")
    return Path(text)


def absolute_file(text: str) -> Path:
    if not text.startswith("/") or text.endswith("/") or "\0" in text:
        raise ValueError(f"{text!r} is no absolute name of a file")
    return Path(text)


def socket_path(text: str) -> Path:
    path = absolute_file(text)
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        raise ValueError(f"the socket path {path} is longer than {SOCKET_PATH_MAX} bytes")
    return path


def daemons(text: str) -> Path:
    path = absolute(text)
    socket_path(f"{path / CONTROL_SOCKET}")
    return path


def file_name(text: str) -> Path:
    if not text or text.endswith("/") or "\0" in text:
        raise ValueError(f"{text!r} is no name of a file")
    return Path(text)


def ipv4(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise ValueError(f"{text!r} is no IPv4 address") from None


def octal_mode(text: str) -> int:
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise ValueError(f"{text!r} is no octal mode like 0660")
    return int(text, 8)


def user(text: str) -> str:
    try:
        found = pwd.getpwnam(text)
    except (KeyError, ValueError):
        raise ValueError(f"there is no user {text!r}") from None
    if found.pw_uid == 0:
        raise ValueError(f"{text} is whom lonc is to leave: name another user, or none")
    return text


def group(text: str) -> str:
    try:
        grp.getgrnam(text)
    except (KeyError, ValueError):
        raise ValueError(f"there is no group {text!r}") from None
    return text
