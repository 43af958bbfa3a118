"""A temporary certificate authority for demonstrations and tests of TLS. Not for production."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ONE_DAY = timedelta(days=1)
KEY_MODE = 0o600


class Authority:
    """A certificate authority with a self-signed certificate, valid for a day.

    Its private key exists in memory only.
    """

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _x509_name(name)
        self._certificate = (
            _certificate_builder(self._name, self._key, self._name, ONE_DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def write(self, file: Path) -> None:
        """Write the certificate of the authority, as PEM."""
        file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def revoke(self, file: Path, *certificates: Path, until: timedelta = ONE_DAY) -> None:
        """Write the list of revoked certificates, with `certificates` in it, as PEM.

        `until`: the time from now after which the list has expired.
        """
        now = datetime.now(timezone.utc)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(now - 2 * ONE_DAY)
            .next_update(now + until)
        )
        for certificate in certificates:
            serial = x509.load_pem_x509_certificate(certificate.read_bytes()).serial_number
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
            builder = builder.add_revoked_certificate(revoked.build())
        file.write_bytes(
            builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )

    def issue(
        self,
        host: str,
        certificate: Path,
        key: Path,
        until: timedelta = ONE_DAY,
        common_name: str | None = None,
        dns_names: Sequence[str] | None = None,
    ) -> None:
        """Write a certificate for the DNS name `host`, and its private key, both as PEM.

        `until`: the time from now after which the certificate has expired. `common_name`, `dns_names`:
        others than `host`. Only this process's user can read the key file, which must not exist yet.
        Raises OSError.
        """
        private = ec.generate_private_key(ec.SECP256R1())
        builder = _certificate_builder(_x509_name(common_name or host), private, self._name, until)
        names = [x509.DNSName(name) for name in ([host] if dns_names is None else dns_names)]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        issued = builder.sign(self._key, hashes.SHA256())
        certificate.write_bytes(issued.public_bytes(serialization.Encoding.PEM))
        with open(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, KEY_MODE), "wb") as file:
            file.write(
                private.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )


def _x509_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _certificate_builder(
    name: x509.Name, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, until: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 2 * ONE_DAY)
        .not_valid_after(now + until)
    )
