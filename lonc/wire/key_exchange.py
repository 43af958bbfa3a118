"""Chooses how a connection agrees on its key, by `loncKeyMode` and the address of lond.

Knows key files and certificates, so that `lond_protocol` need not.
"""

from __future__ import annotations

import contextlib
import os
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lonc import __version__
from lonc.configuration import AUTO, CLASSIC, INSECURE, LOCAL, SSL, Settings
from lonc.errors import CannotStart, ProtocolError
from lonc.hosts import Host
from lonc.log import logger
from lonc.runtime.directory import Directory, write_all
from lonc.wire.cipher import KEY_BYTES
from lonc.wire.lond_protocol import INIT, Opening

if TYPE_CHECKING:
    import ssl

LOCALHOST = "127.0.0.1"
KEY_FILE = ".key."  # prefix of the names of key files; the name of a socket never starts with a dot

# tls is imported only if the mode needs it: each child would have memory for it.


def is_asked_locally(host: Host, settings: Settings) -> bool:
    """Whether the host is this machine, and is asked at LOCALHOST in local mode, as the original does.

    `classic` and `ssl` are no such modes: with them each host is asked at its address.
    """
    return host.is_own and settings.key_mode in (AUTO, LOCAL, INSECURE)


class KeyExchange:
    """Makes the Opening of each connection to one host."""

    def __init__(self, host: Host, settings: Settings) -> None:
        self._host = host
        self._settings = settings
        self._context: ssl.SSLContext | None = None
        self._common_name_logged = False

    def choose(self, peer: str) -> Opening:
        """The Opening for the lond at `peer`. Raises ProtocolError if the settings allow none."""
        mode = self._settings.key_mode
        if mode == CLASSIC:
            return INIT
        if mode == LOCAL or (peer == LOCALHOST and self._is_local):
            return self._by_file(peer)
        if mode == SSL or (mode == AUTO and self._settings.certificates is not None):
            return self._in_tls()
        if self._settings.allow_insecure:
            return Opening(INSECURE, f"init::{__version__}\n".encode())
        raise ProtocolError("no certificates are configured, and loncAllowInsecure is 0")

    @property
    def _is_local(self) -> bool:
        """Whether a lond at LOCALHOST is asked in local mode: never because a name resolves to that."""
        in_table = self._settings.key_mode == AUTO and self._host.address == LOCALHOST
        return in_table or is_asked_locally(self._host, self._settings)

    def _by_file(self, peer: str) -> Opening:
        if peer != LOCALHOST:
            raise ProtocolError(f"loncKeyMode is local, and {peer} is not {LOCALHOST}")
        # Not by the module `secrets`, which does the same: the daemon's user may not be able to read it.
        key = os.urandom(KEY_BYTES).hex().encode()
        file = self._settings.socket_directory / f"{KEY_FILE}{os.urandom(KEY_BYTES).hex()}"
        try:
            _write(file, key)
        except OSError as error:
            raise ProtocolError(f"cannot write the key file {file}: {error.strerror}") from error
        return Opening(
            LOCAL,
            f"init:local:{file}:{__version__}\n".encode(),
            key=key,
            key_file_taken=partial(_is_gone, file),
            insecure_fallback=self._settings.allow_insecure,
            on_key_exchange_ended=partial(_remove, file),
        )

    def _in_tls(self) -> Opening:
        from lonc.wire.tls import Tunnel, client_context

        certificates = self._settings.certificates
        assert certificates is not None  # else the configuration has a fault
        try:
            self._context = self._context or client_context(certificates)
        except CannotStart as error:
            raise ProtocolError(str(error)) from error
        return Opening(
            SSL,
            f"init:ssl:{__version__}\n".encode(),
            tunnel=Tunnel(
                self._context,
                self._host.dnsname or self._host.address,
                on_common_name=self._log_common_name,
            ),
            insecure_fallback=self._settings.allow_insecure,
        )

    def _log_common_name(self) -> None:
        """Callback: lond's certificate names the host by its common name alone. Logged once."""
        if not self._common_name_logged:
            self._common_name_logged = True
            logger.warning(
                "lond's certificate has no DNS name: it is for %s by its common name alone",
                self._host.dnsname,
            )


def require_certificates(settings: Settings) -> datetime | None:
    """Check the certificates that `loncKeyMode` needs.

    Returns when lonc's own expires; None if none is needed. Also imports the modules that the mode
    needs, so that children share their memory. Raises CannotStart.
    """
    needed = settings.needed_certificates
    try:
        if needed is None:
            return None
        from lonc.wire.tls import client_context, valid_until
    except ImportError as error:  # the daemon's user cannot read the module
        raise CannotStart(f"loncKeyMode {settings.key_mode} needs a restart: {error}") from error
    client_context(needed)
    return valid_until(needed.certificate)


def remove_key_files(directory: Path) -> None:
    """Remove the key files that killed processes have left."""
    with contextlib.suppress(OSError), Directory(directory) as opened:
        for name in opened.names():
            if name.startswith(KEY_FILE):
                opened.unlink(name)


def _write(file: Path, key: bytes) -> None:
    with Directory(file.parent) as directory:
        fd = directory.create(file.name, 0o600)
        try:
            write_all(fd, key)
        except OSError:
            directory.unlink(file.name)
            raise
        finally:
            os.close(fd)


def _is_gone(file: Path) -> bool:
    """Whether it has been removed; not if that cannot be known."""
    try:
        with Directory(file.parent) as directory:
            return directory.stat(file.name) is None
    except OSError:
        return False


def _remove(file: Path) -> None:
    """Usually lond has removed it already."""
    with contextlib.suppress(OSError), Directory(file.parent) as directory:
        directory.unlink(file.name)
