"""Seals what is secret where it lies on a disk: one line into another, AES-256-GCM.

    lonc:sealed:1:KEYID:BASE64:sealed:lonc      (of nonce, 12 bytes, what was sealed, and tag, 16 bytes)

A request that begins with `lonc:` never reaches a lond, so no plain line begins so. The end is marked as
well, lest one whose first bytes were altered or lost be taken for a plain one. Host and name of the file
are sealed with it: under another name it does not open.

Keys stand in a file, one a line, `KEYID:64 hex digits`; the first seals, all open. The file is read each
time that a key is needed, so that a change of keys is known to all at once.
"""

from __future__ import annotations

import binascii
import contextlib
import os
import re
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lonc.errors import CannotStart, Fault, Misconfigured
from lonc.runtime.atomic_file import appearing, sync_directory

# Crypto is imported only where somebody has a key file: it takes every process 2 MiB.

FILE_MODE = 0o640  # of a new one: programs that save are in its group

HEAD, FOOT = b"lonc:sealed:1:", b":sealed:lonc\n"
LONGEST_ID = 32
NONCE, TAG, KEY = 12, 16, 32  # bytes; (nonces are random: 2**32 of a key are safe)

_KEY_ID = rb"[A-Za-z0-9-]{1,%d}" % LONGEST_ID
_KEY_LINE = re.compile(rb"[ \t]*(%b):([0-9A-Fa-f]{%d})\s*" % (_KEY_ID, 2 * KEY))
_NO_KEY = re.compile(rb"\s*(?:#.*)?", re.DOTALL)
_SEALED = re.compile(rb"%b(%b):([A-Za-z0-9+/]*={0,2})%b" % (HEAD, _KEY_ID, FOOT))
_SEALED_BY = re.compile(rb"%b(%b):" % (HEAD, _KEY_ID))

_COMMENT = b"# The first key seals delayed transactions, all of them open: KEYID:64 hex digits\n"


class Keyring:
    """Keys by their ids, the one that seals first."""

    def __init__(self, file: Path, keys: Mapping[str, bytes]) -> None:
        self._file = file
        self._keys = dict(keys)
        self._aes = _aes(file)

    @property
    def first(self) -> str:
        """The id of the key that seals."""
        return next(iter(self._keys))

    def __contains__(self, key_id: str) -> bool:
        return key_id in self._keys

    def seal(self, line: bytes, host: str, name: str) -> bytes:
        """A line instead of `line`, which may lie in the file `name` for `host`."""
        nonce = os.urandom(NONCE)
        cipher = self._cipher(self.first, nonce, host, name)
        secret, tag = cipher.encrypt_and_digest(line)
        text = binascii.b2a_base64(nonce + secret + tag, newline=False)
        return b"".join([HEAD, self.first.encode(), b":", text, FOOT])

    def open(self, sealed: bytes, host: str, name: str) -> bytes:
        """What was sealed for this host in a file of this name.

        Raises ValueError, with a sentence, for anything else.
        """
        match = _SEALED.fullmatch(sealed)
        if match is None:
            raise ValueError("it is sealed, and was cut or altered")
        key_id, text = match[1].decode(), match[2]
        if key_id not in self._keys:
            raise ValueError(f"it is sealed with the key {key_id}, which is not in {self._file}")
        try:
            data = binascii.a2b_base64(text)
            # Only in one way can it be written: whatever bit is altered, it is not as we wrote it.
            if len(data) < NONCE + TAG or binascii.b2a_base64(data, newline=False) != text:
                raise ValueError
            cipher = self._cipher(key_id, data[:NONCE], host, name)
            line: bytes = cipher.decrypt_and_verify(data[NONCE:-TAG], data[-TAG:])
        except ValueError:  # also of base64
            why = "it is sealed, and was cut or altered, or had another name"
            raise ValueError(why) from None
        return line

    def _cipher(self, key_id: str, nonce: bytes, host: str, name: str) -> Any:
        cipher = self._aes.new(self._keys[key_id], self._aes.MODE_GCM, nonce=nonce, mac_len=TAG)
        cipher.update(HEAD + f"{key_id}:{host}:{name}".encode())
        return cipher


def is_sealed(line: bytes) -> bool:
    """Whether it is, or was before it was altered."""
    return line.startswith(HEAD) or line.endswith(FOOT)


def sealed_by(line: bytes) -> str | None:
    """The id of the key; the beginning of the line is enough. None if it cannot be known."""
    match = _SEALED_BY.match(line)
    return None if match is None else match[1].decode()


def longest_sealed(length: int) -> int:
    """How long what is sealed can be if that was so long."""
    return len(HEAD) + LONGEST_ID + 1 + 4 * ((NONCE + length + TAG + 2) // 3) + len(FOOT)


def read_keys(file: Path) -> Keyring:
    """Raises Misconfigured, with the first fault."""
    keys, _ = _read(file)
    if not keys:
        raise _fault(file, None, "no key stands in it; lonc delayed keygen makes one")
    return Keyring(file, keys)


def require_keys(file: Path | None) -> None:
    """Raises CannotStart unless the keys of `file`, if there is one, can be used.

    After this a fork has in common with us what is needed to use them.
    """
    if file is None:
        return
    try:
        keys = read_keys(file)
    except Misconfigured as error:
        raise CannotStart(str(error)) from None
    keys.open(keys.seal(b"\n", "", ""), "", "")


def add_key(file: Path, like: Path) -> str:
    """Make a new key, which is the first from now on, and the file, if need be; returns the key's id.

    A new file gets owner and group of the directory `like`, as far as we may give it away. Raises
    Misconfigured if there are faults in the file, OSError; then nothing has changed.
    """
    file = Path(os.path.realpath(file))
    being_made = file.with_name(f".{file.name}.new")
    # Until it is renamed, it also keeps others from doing the same.
    fd = os.open(being_made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with appearing(fd, being_made, file), open(fd, "wb", closefd=False) as new:
        key_id, content = _with_new_key(file, fd, like)
        new.write(content)
        new.flush()
        os.fsync(fd)
    sync_directory(file.parent)
    return key_id


def _with_new_key(file: Path, fd: int, like: Path) -> tuple[str, bytes]:
    """The id of the new key, and all that is to stand in the file; `fd`, which will be the file, gets
    its owner, group and mode."""
    if os.path.lexists(file):
        keys, old = _read(file)
        found = os.stat(file)
        os.fchown(fd, found.st_uid, found.st_gid)
        os.fchmod(fd, stat.S_IMODE(found.st_mode))
    else:
        keys, old = {}, _COMMENT
        with contextlib.suppress(FileNotFoundError, PermissionError):
            found = os.stat(like)
            os.fchown(fd, found.st_uid, found.st_gid)
        os.fchmod(fd, FILE_MODE)
    key_id = _new_id()
    while key_id in keys:
        key_id = _new_id()
    line = f"{key_id}:{os.urandom(KEY).hex()}\n".encode()
    lines = old.splitlines(keepends=True)
    first = next((number for number, each in enumerate(lines) if _KEY_LINE.fullmatch(each)), len(lines))
    before = b"".join(lines[:first])
    if before and not before.endswith(b"\n"):
        before += b"\n"
    return key_id, b"".join([before, line, *lines[first:]])


def _new_id() -> str:
    return f"{time.strftime('%Y%m%d')}-{os.urandom(3).hex()}"


def _read(file: Path) -> tuple[dict[str, bytes], bytes]:
    """The keys, and all that stands in the file. Raises Misconfigured; no key is in its text."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise _fault(file, None, "a key file is a regular file, and this is none")
            if found.st_mode & stat.S_IRWXO:
                mode = stat.S_IMODE(found.st_mode)
                raise _fault(file, None, f"its mode {mode:04o} lets others at the keys: chmod o= {file}")
            content = os.read(fd, found.st_size)
        finally:
            os.close(fd)
    except OSError as error:
        raise _fault(file, None, f"{error.strerror}") from error
    keys: dict[str, bytes] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        if _NO_KEY.fullmatch(line):
            continue
        match = _KEY_LINE.fullmatch(line)
        if match is None:
            raise _fault(file, number, f"a key is KEYID:{2 * KEY} hex digits, and this is none")
        key_id = match[1].decode()
        if key_id in keys:
            raise _fault(file, number, f"the key {key_id} stands here twice")
        keys[key_id] = bytes.fromhex(match[2].decode())
    return keys, content


def _aes(file: Path) -> Any:
    try:
        from Crypto.Cipher import AES
    except ImportError:
        raise _fault(file, None, "keys need pycryptodome: pip install pycryptodome") from None
    return AES


def _fault(file: Path, line: int | None, text: str) -> Misconfigured:
    return Misconfigured([Fault(file, line, text)])
