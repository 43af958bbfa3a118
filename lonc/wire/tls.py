"""TLS between lonc and lond, free of sockets: only for as long as it takes to say a key in it.

    lonc                     lond
    ----------------------------------------------------------------------
    the handshake, in which each shows a certificate of the common authority
                             the key, 32 hex digits and a newline, in TLS
    (perhaps)                a close_notify, or tickets
    in clear, on the same connection: whatever the dialogue has next

Who hears the key sends no close_notify and waits for none.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import stat
from datetime import datetime
from pathlib import Path

from lonc.configuration import CERTIFICATE_SETTINGS, Certificates
from lonc.errors import CannotStart, ProtocolError
from lonc.wire.cipher import KEY_DIGITS

KEY_LINE = KEY_DIGITS + 1  # bytes: the hex digits and the newline

# Of a record: its type, a version of two bytes, its length of two bytes, what is in it.
HEADER = 5
MAX_RECORD = HEADER + (1 << 14) + 2048  # bytes, by TLS 1.2; TLS 1.3 allows less
CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA = 0x14, 0x15, 0x16, 0x17
_TYPES = frozenset((CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA))
_AFTER_THE_KEY = frozenset((ALERT, APPLICATION_DATA))  # all else is clear text

# OpenSSL's numbers of what is wrong with a certificate (x509_vfy.h).
_WRONG = {
    9: "is not valid yet",
    10: "has expired",
    18: "is of another authority",
    19: "is of another authority",
    20: "is of another authority",
    21: "is of another authority",
    62: "is not for {name}",
    64: "is not for {name}",
}


class Tunnel:
    """One side of it. With `key` we are lond, and say it; without we hear it, and it is in `key` then.

    `name` is what the other side's certificate must be for; lond does not ask for one. Raises
    ProtocolError if no certificate can be for it.
    """

    def __init__(self, context: ssl.SSLContext, name: str | None, key: bytes | None = None) -> None:
        self.key: bytes | None = None
        self._name = name
        self._to_say = key
        self._heard = b""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        try:
            self._tls = context.wrap_bio(self._incoming, self._outgoing, key is not None, name)
        except (ValueError, TypeError):  # of the name: its labels, or a zero in it
            raise ProtocolError(f"no certificate can be for {name!r}") from None
        self._greeted = False
        self._ended = False
        self._rest = bytearray()  # a record of which not all has come

    def __len__(self) -> int:
        """How many bytes are held."""
        return len(self._rest)

    def begin(self) -> None:
        """The first word is ours."""
        self._go_on()

    def data_to_send(self) -> bytes:
        """What TLS has to say by now; it is said once."""
        return self._outgoing.read()

    def receive(self, data: bytes) -> bytes:
        """Take what came; returns what lies behind TLS, in clear: then there is nothing more to take.

        Records are cut here, so that TLS never sees a byte that is not its own. Raises ProtocolError.
        """
        rest = self._rest
        rest += data
        while rest:
            if self.key is not None and rest[0] not in _AFTER_THE_KEY:
                clear = bytes(rest)
                rest.clear()
                return clear
            if rest[0] not in _TYPES:
                raise ProtocolError("what should be TLS is none")
            if len(rest) < HEADER:
                break
            length = HEADER + int.from_bytes(rest[3:HEADER], "big")
            if length > MAX_RECORD:
                raise ProtocolError(f"a TLS record of {length} bytes is longer than TLS allows")
            if len(rest) < length:
                break
            record = rest[:length]
            del rest[:length]
            if not self._ended:  # after that TLS takes no more, nor is it said in clear
                self._incoming.write(record)
                self._go_on()
        return b""

    def _go_on(self) -> None:
        try:
            if not self._greeted:
                self._tls.do_handshake()
                self._greeted = True
                if self._to_say is not None:
                    self._say(self._to_say)
            while text := self._tls.read(KEY_LINE + 1):
                self._hear(text)
            self._ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLCertVerificationError as error:
            wrong = _WRONG.get(error.verify_code, f"does not hold ({error.verify_message})")
            raise ProtocolError(f"its certificate {wrong.format(name=self._name)}") from None
        except ssl.SSLError as error:
            raise ProtocolError(_what_failed(error)) from None
        if self._ended and self.key is None:
            raise ProtocolError("TLS ended before the key was said")
        if self.key is not None and self._to_say is None:
            self._outgoing.read()  # from now on we speak in clear

    def _say(self, key: bytes) -> None:
        self._tls.write(key + b"\n")
        self.key = key
        with contextlib.suppress(
            ssl.SSLWantReadError
        ):  # it does not answer our end of TLS, and need not
            self._tls.unwrap()

    def _hear(self, text: bytes) -> None:
        if self.key is not None:
            return
        self._heard += text
        if len(self._heard) > KEY_LINE or (b"\n" in self._heard) != (len(self._heard) == KEY_LINE):
            raise ProtocolError("what should be a key, in TLS, is no line of 32 hex digits")
        if len(self._heard) == KEY_LINE:
            self.key = self._heard[:-1]


def _what_failed(error: ssl.SSLError) -> str:
    words = _in_words(error)
    _, _, alert = words.partition(" alert ")  # which is what the other side says of it
    if alert == "handshake failure":
        return "TLS failed: it has no certificate, or no cipher that we have"
    if "certificate" in alert or alert == "unknown ca":
        return f"it does not accept our certificate: {alert}"
    return f"TLS failed: {words}"


def _in_words(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()


def client_context(certificates: Certificates) -> ssl.SSLContext:
    """For who connects. Raises CannotStart."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, certificates)


def server_context(certificates: Certificates) -> ssl.SSLContext:
    """For who is connected to. Raises CannotStart."""
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
    return context


def valid_until(certificate: Path) -> datetime:
    """When it expires. Raises CannotStart."""
    from cryptography import x509  # (it is not needed where the rest is)

    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        raise CannotStart(f"{certificate} is no certificate: {error}") from error


def require_files(certificates: Certificates) -> None:
    """Raises CannotStart if one cannot be read, or if others can read the private key."""
    for file, setting in zip(certificates, CERTIFICATE_SETTINGS, strict=True):
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


def _no_password() -> bytes:
    """Nobody is there to be asked for one."""
    return b""


def _short(error: Exception) -> str:
    return _in_words(error) if isinstance(error, ssl.SSLError) else str(error)
