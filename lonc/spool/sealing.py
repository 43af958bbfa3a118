"""Sealing: encrypts a line into another line, with AES-256-GCM.

    lonc:sealed:1:KEYID:BASE64:sealed:lonc

BASE64 encodes a nonce of 12 bytes, the encrypted line, and a tag of 16 bytes. Host and file name are
authenticated with it: under another name the line does not open. No plain request begins with `lonc:`,
because lonc answers those itself. The end is marked too, so that a sealed line whose beginning was
altered is not taken for a plain one.

The key file has one key a line, `KEYID:64 hex digits`. The first key seals, every key opens. The file is
read each time that a key is needed, so that all processes notice a change of keys at once.
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
from lonc.runtime.directory import Directory, write_all

# Crypto is imported only if there is a key file: it takes 2 MiB in every process.

FILE_MODE = 0o640  # of a new key file: programs that save requests are in its group

HEAD, FOOT = b"lonc:sealed:1:", b":sealed:lonc\n"
LONGEST_ID = 32
NONCE, TAG, KEY = 12, 16, 32  # bytes; random nonces are safe for 2**32 lines of a key

_KEY_ID = rb"[A-Za-z0-9-]{1,%d}" % LONGEST_ID
_KEY_LINE = re.compile(rb"[ \t]*(%b):([0-9A-Fa-f]{%d})\s*" % (_KEY_ID, 2 * KEY))
_NO_KEY = re.compile(rb"\s*(?:#.*)?", re.DOTALL)
_SEALED = re.compile(rb"%b(%b):([A-Za-z0-9+/]*={0,2})%b" % (HEAD, _KEY_ID, FOOT))
_SEALED_BY = re.compile(rb"%b(%b):" % (HEAD, _KEY_ID))

_COMMENT = b"# The first key seals delayed transactions, all of them open: KEYID:64 hex digits\n"


class Keyring:
    """The keys of a key file. The first one seals."""

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
        """Seal `line` for the file `name` of `host`. Both lines end with a newline."""
        nonce = os.urandom(NONCE)
        cipher = self._cipher(self.first, nonce, host, name)
        secret, tag = cipher.encrypt_and_digest(line)
        text = binascii.b2a_base64(nonce + secret + tag, newline=False)
        return b"".join([HEAD, self.first.encode(), b":", text, FOOT])

    def open(self, sealed: bytes, host: str, name: str) -> bytes:
        """The line that was sealed for the file `name` of `host`. Raises ValueError with a sentence."""
        match = _SEALED.fullmatch(sealed)
        if match is None:
            raise ValueError("it is sealed, and was cut or altered")
        key_id, text = match[1].decode(), match[2]
        if key_id not in self._keys:
            raise ValueError(f"it is sealed with the key {key_id}, which is not in {self._file}")
        try:
            data = binascii.a2b_base64(text)
            # Base64 has several spellings; only ours is accepted, so that no bit can be altered.
            if len(data) < NONCE + TAG or binascii.b2a_base64(data, newline=False) != text:
                raise ValueError
            cipher = self._cipher(key_id, data[:NONCE], host, name)
            line: bytes = cipher.decrypt_and_verify(data[NONCE:-TAG], data[-TAG:])
        except ValueError:  # also from a2b_base64
            raise ValueError("it is sealed, and was cut or altered, or renamed") from None
        return line

    def _cipher(self, key_id: str, nonce: bytes, host: str, name: str) -> Any:
        cipher = self._aes.new(self._keys[key_id], self._aes.MODE_GCM, nonce=nonce, mac_len=TAG)
        cipher.update(HEAD + f"{key_id}:{host}:{name}".encode())
        return cipher


def is_sealed(line: bytes) -> bool:
    """Whether the line is sealed, also if it was cut or altered."""
    return line.startswith(HEAD) or line.endswith(FOOT)


def sealed_by(line: bytes) -> str | None:
    """The id of the key of a sealed line, or of its beginning; None if it is damaged."""
    match = _SEALED_BY.match(line)
    return None if match is None else match[1].decode()


def longest_sealed(length: int) -> int:
    """The most bytes of a sealed line if the plain line has `length` bytes."""
    return len(HEAD) + LONGEST_ID + 1 + 4 * ((NONCE + length + TAG + 2) // 3) + len(FOOT)


def read_keys(file: Path) -> Keyring:
    """The keys of `file`. Raises Misconfigured with the first fault."""
    keys, _ = _read(file)
    if not keys:
        raise _fault(file, None, "it has no key; lonc delayed keygen adds one")
    return Keyring(file, keys)


def require_keys(file: Path | None) -> None:
    """Raises CannotStart if the keys of `file` cannot be used. Without a file there is nothing to check.

    It imports the cipher: children that are forked afterwards share its memory.
    """
    if file is None:
        return
    try:
        keys = read_keys(file)
    except Misconfigured as error:
        raise CannotStart(str(error)) from None
    keys.open(keys.seal(b"\n", "", ""), "", "")


def add_key(file: Path, like: Path) -> str:
    """Add a new first key to the key file, or create the file. Returns the id of the key.

    A new file gets the owner and group of the directory `like`, if we have permission for that. Raises
    Misconfigured if the file has faults; OSError. Then nothing has changed.
    """
    file = Path(os.path.realpath(file))
    temporary = f".{file.name}.new"  # also the lock of those who add a key
    with Directory(file.parent) as directory:
        try:
            fd = directory.create(temporary, 0o600)
        except FileExistsError as error:
            error.filename = str(directory.path / temporary)
            raise
        with directory.filling(fd, temporary, file.name):
            key_id, content = _with_new_key(directory, file, fd, like)
            write_all(fd, content)
            os.fsync(fd)
        directory.sync()
    return key_id


def _with_new_key(directory: Directory, file: Path, fd: int, like: Path) -> tuple[str, bytes]:
    """Returns the id of a new key, and the new content of the file.

    `fd`, the new file, gets the owner, group and mode that the file has or shall have.
    """
    found = directory.stat(file.name)
    if found is not None:
        keys, old = _read(file)
        os.fchown(fd, found.st_uid, found.st_gid)
        os.fchmod(fd, stat.S_IMODE(found.st_mode))
    else:
        keys, old = {}, _COMMENT
        with contextlib.suppress(FileNotFoundError, PermissionError):
            with Directory(like) as example:
                found = example.fstat()
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
    """The keys, and the content of the file. Raises Misconfigured; its sentence contains no key."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise _fault(file, None, "it is not a regular file")
            if found.st_mode & stat.S_IRWXO:
                mode = stat.S_IMODE(found.st_mode)
                raise _fault(
                    file, None, f"its mode {mode:04o} lets other users read the keys: chmod o= {file}"
                )
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
            raise _fault(file, number, f"this is not a key, KEYID:{2 * KEY} hex digits")
        key_id = match[1].decode()
        if key_id in keys:
            raise _fault(file, number, f"the key {key_id} appears twice")
        keys[key_id] = bytes.fromhex(match[2].decode())
    return keys, content


def _aes(file: Path) -> Any:
    try:
        from Crypto.Cipher import AES
    except ImportError:
        raise _fault(file, None, "sealing needs pycryptodome: pip install pycryptodome") from None
    return AES


def _fault(file: Path, line: int | None, text: str) -> Misconfigured:
    return Misconfigured([Fault(file, line, text)])
