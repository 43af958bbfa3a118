"""A certificate authority made on the spot, to try TLS on this machine. Nothing real may rely on it."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

A_DAY = timedelta(days=1)
KEY_MODE = 0o600


class Authority:
    """Its own key is never written anywhere."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        self._certificate = (
            _begun(self._name, self._key, self._name, A_DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def write(self, file: Path) -> None:
        """What others know it by."""
        file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, host: str, certificate: Path, key: Path, until: timedelta = A_DAY) -> None:
        """A certificate for the host of that DNS name, and its private key, which only we can read."""
        private = ec.generate_private_key(ec.SECP256R1())
        issued = (
            _begun(_named(host), private, self._name, until)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        certificate.write_bytes(issued.public_bytes(serialization.Encoding.PEM))
        with open(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, KEY_MODE), "wb") as file:
            file.write(
                private.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _begun(
    name: x509.Name, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, until: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 2 * A_DAY)
        .not_valid_after(now + until)
    )
