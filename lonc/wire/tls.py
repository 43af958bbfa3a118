"""TLS between lonc and lond, only until lond has sent the key; knows no socket.

    lonc                     lond
    ----------------------------------------------------------------------
    the handshake, in which each sends a certificate of the common authority
                             the key, 32 hex digits and a newline, in TLS
                             perhaps a close_notify, or session tickets
    the rest of the dialogue, in clear, on the same connection

lonc sends no close_notify and waits for none.
"""

from __future__ import annotations

import contextlib
import os
import re
import ssl
import stat
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path

from lonc.configuration import CERTIFICATE_SETTINGS, REVOCATION_SETTING, Certificates
from lonc.errors import CannotStart, ProtocolError
from lonc.wire.cipher import KEY_DIGITS

KEY_LINE = KEY_DIGITS + 1  # bytes: the hex digits and the newline

# A record is a type (1 byte), a version (2), a length (2), and as many bytes of content.
HEADER = 5
MAX_RECORD = HEADER + (1 << 14) + 2048  # bytes, by TLS 1.2; TLS 1.3 allows less
CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA = 0x14, 0x15, 0x16, 0x17
_TYPES = frozenset((CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA))
_TYPES_AFTER_KEY = frozenset((ALERT, APPLICATION_DATA))  # any other first byte begins the clear text

# By OpenSSL's verify codes (x509_vfy.h).
_CERTIFICATE_FAULTS = {
    9: "is not valid yet",
    10: "has expired",
    18: "is of another authority",
    19: "is of another authority",
    20: "is of another authority",
    21: "is of another authority",
    3: "cannot be checked: there is no list of revoked certificates of its authority",
    8: "cannot be checked: the list of revoked certificates is not signed by its authority",
    11: "cannot be checked: the list of revoked certificates is not valid yet",
    12: "cannot be checked: the list of revoked certificates has expired",
    23: "is revoked",
    62: "is not for {name}",
    64: "is not for {name}",
}


_NO_LIST = "is no list of revoked certificates"
_LIST = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----\n?", re.DOTALL)


class Tunnel:
    """One side of TLS: with `key`, lond's, which sends it; without, lonc's, which receives it in `key`.

    - `name`: the name that the other side's certificate must be for, by one of its DNS names, or if it
      has none, by its common name; None for any, as lond has it.
    - `on_common_name()`: it has none.

    The caller sends `data_to_send()` after each call of `begin` and `receive`. Raises ProtocolError if
    `name` cannot be in a certificate.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        name: str | None,
        key: bytes | None = None,
        on_common_name: Callable[[], None] | None = None,
    ) -> None:
        self.key: bytes | None = None
        self._name = name
        self._on_common_name = on_common_name
        self._key_to_send = key
        self._key_line = b""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        try:
            self._tls = context.wrap_bio(self._incoming, self._outgoing, key is not None, name)
        except (ValueError, TypeError):  # a label too long or empty, or a zero byte
            raise ProtocolError(f"no certificate can be for {name!r}") from None
        self._handshake_done = False
        self._ended = False
        self._rest = bytearray()  # an incomplete record

    def __len__(self) -> int:
        """The number of received bytes held."""
        return len(self._rest)

    def begin(self) -> None:
        """For lonc: start the handshake."""
        self._continue()

    def data_to_send(self) -> bytes:
        """The data that TLS wants to send; each byte is returned once."""
        return self._outgoing.read()

    def receive(self, data: bytes) -> bytes:
        """Process received data. Returns the clear text that follows TLS: then TLS has ended.

        Records are separated here, so that OpenSSL never gets a byte of the clear text. Raises
        ProtocolError.
        """
        rest = self._rest
        rest += data
        while rest:
            if self.key is not None and rest[0] not in _TYPES_AFTER_KEY:
                clear = bytes(rest)
                rest.clear()
                return clear
            if rest[0] not in _TYPES:
                raise ProtocolError("the data is not TLS")
            if len(rest) < HEADER:
                break
            length = HEADER + int.from_bytes(rest[3:HEADER], "big")
            if length > MAX_RECORD:
                raise ProtocolError(f"a TLS record of {length} bytes is longer than TLS allows")
            if len(rest) < length:
                break
            record = rest[:length]
            del rest[:length]
            if not self._ended:  # records after close_notify are dropped
                self._incoming.write(record)
                self._continue()
        return b""

    def _continue(self) -> None:
        try:
            if not self._handshake_done:
                self._tls.do_handshake()
                self._handshake_done = True
                if self._on_common_name is not None and not self._has_dns_name():
                    self._on_common_name()
                if self._key_to_send is not None:
                    self._send_key(self._key_to_send)
            while text := self._tls.read(KEY_LINE + 1):
                self._receive_key(text)
            self._ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLCertVerificationError as error:
            unknown = f"is not valid ({error.verify_message})"
            fault = _CERTIFICATE_FAULTS.get(error.verify_code, unknown)
            raise ProtocolError(f"its certificate {fault.format(name=self._name)}") from None
        except ssl.SSLError as error:
            raise ProtocolError(_failure_in_words(error)) from None
        if self._ended and self.key is None:
            raise ProtocolError("TLS ended before the key was sent")
        if self.key is not None and self._key_to_send is None:
            self._outgoing.read()  # dropped: from now on lonc sends in clear

    def _has_dns_name(self) -> bool:
        names: Iterable[tuple[str, str]] = (self._tls.getpeercert() or {}).get("subjectAltName", ())  # type: ignore[assignment]
        return any(kind == "DNS" for kind, _ in names)

    def _send_key(self, key: bytes) -> None:
        self._tls.write(key + b"\n")
        self.key = key
        with contextlib.suppress(ssl.SSLWantReadError):  # lonc does not answer the close_notify
            self._tls.unwrap()

    def _receive_key(self, text: bytes) -> None:
        if self.key is not None:
            return
        self._key_line += text
        if len(self._key_line) > KEY_LINE or (b"\n" in self._key_line) != (
            len(self._key_line) == KEY_LINE
        ):
            raise ProtocolError("the key in TLS is not a line of 32 hex digits")
        if len(self._key_line) == KEY_LINE:
            self.key = self._key_line[:-1]


def _failure_in_words(error: ssl.SSLError) -> str:
    words = _in_words(error)
    _, _, alert = words.partition(" alert ")  # the reason that the other side has sent
    if alert == "handshake failure":
        return "TLS failed: it has no certificate, or no cipher that we have"
    if "certificate" in alert or alert == "unknown ca":
        return f"it does not accept our certificate: {alert}"
    return f"TLS failed: {words}"


def _in_words(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()


def client_context(certificates: Certificates) -> ssl.SSLContext:
    """For lonc, which connects. Raises CannotStart."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, certificates)


def server_context(certificates: Certificates) -> ssl.SSLContext:
    """For lond, which accepts. Raises CannotStart."""
    return _context(ssl.PROTOCOL_TLS_SERVER, certificates)


def _context(protocol: int, certificates: Certificates) -> ssl.SSLContext:
    require_files(certificates)
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(certificates.certificate, certificates.private_key, _no_password)
    except (OSError, ValueError) as error:
        raise CannotStart(
            f"{certificates.certificate} and {certificates.private_key} (lonnetCertificate,"
            f" lonnetPrivateKey) are no certificate and its key: {_short(error)}"
        ) from error
    try:
        context.load_verify_locations(certificates.authority)
    except OSError as error:
        raise CannotStart(
            f"{certificates.authority} (lonnetCertificateAuthority) is no certificate: {_short(error)}"
        ) from error
    if certificates.revocation_list is not None:
        _load_revocations(context, certificates.revocation_list)
    return context


def _load_revocations(context: ssl.SSLContext, file: Path) -> None:
    """Refuse the certificates that are in the lists of `file`. Raises CannotStart."""
    before = context.cert_store_stats()
    try:
        context.load_verify_locations(file)
        loaded = context.cert_store_stats()
    except OSError as error:
        raise CannotStart(f"{file} ({REVOCATION_SETTING}) {_NO_LIST}: {_short(error)}") from error
    if loaded["crl"] == before["crl"]:
        raise CannotStart(f"{file} ({REVOCATION_SETTING}) {_NO_LIST}")
    if loaded["x509"] != before["x509"]:  # it would be trusted as an authority's
        raise CannotStart(f"{file} ({REVOCATION_SETTING}) has a certificate, not only lists")
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN


def list_valid_until(file: Path) -> datetime | None:
    """When the first list in `file` expires; None if none does. Raises CannotStart."""
    from cryptography import x509  # needed by the parent only

    try:
        lists = [x509.load_pem_x509_crl(found[0]) for found in _LIST.finditer(file.read_bytes())]
    except (OSError, ValueError) as error:
        raise CannotStart(f"{file} ({REVOCATION_SETTING}) {_NO_LIST}: {error}") from error
    return min((each.next_update_utc for each in lists if each.next_update_utc), default=None)


def valid_until(certificate: Path) -> datetime:
    """When `certificate` expires. Raises CannotStart."""
    from cryptography import x509  # needed by the parent only

    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        raise CannotStart(f"{certificate} is no certificate: {error}") from error


def require_files(certificates: Certificates) -> None:
    """Raises CannotStart if a file cannot be read, or all users can write it or read the key."""
    for file, setting in zip(certificates, (*CERTIFICATE_SETTINGS, REVOCATION_SETTING), strict=True):
        if file is None:
            continue
        try:
            fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise CannotStart(f"cannot read {file} ({setting}): {error.strerror}") from error
        try:
            mode = os.fstat(fd).st_mode
        finally:
            os.close(fd)
        if not stat.S_ISREG(mode):
            raise CannotStart(f"{file} ({setting}) is no file")
        if file == certificates.private_key and mode & stat.S_IRWXO:
            raise CannotStart(
                f"{file} ({setting}) can be read by others, mode {stat.S_IMODE(mode):04o}:"
                f" chmod o-rwx {file}"
            )
        if mode & stat.S_IWOTH:
            raise CannotStart(f"all users can write to {file} ({setting}): chmod o-w {file}")


def _no_password() -> bytes:
    """Instead of asking on the terminal."""
    return b""


def _short(error: Exception) -> str:
    return _in_words(error) if isinstance(error, ssl.SSLError) else str(error)
