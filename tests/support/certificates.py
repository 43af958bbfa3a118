"""Certificates for tests: an authority, hosts of it, and what must not be accepted."""

from datetime import timedelta

from lonc.configuration import Certificates
from lonc.demo.certificate_authority import Authority


class Office:
    """Issues what a test asks for, into `directory`."""

    def __init__(self, directory):
        self.directory = directory
        self._ours, self._others = Authority("ours"), Authority("others")
        self._ours.write(directory / "ca.pem")
        self._others.write(directory / "others-ca.pem")

    def issue(self, host, *, ours=True, until=timedelta(days=1), authority="ca.pem"):
        """For the host of that DNS name."""
        stem = f"{host}-{'ours' if ours else 'others'}-{until.total_seconds():.0f}"
        certificate, key = self.directory / f"{stem}.pem", self.directory / f"{stem}.key"
        if not key.exists():
            (self._ours if ours else self._others).issue(host, certificate, key, until)
        return Certificates(certificate, key, self.directory / authority)


def settings_for(certificates):
    """What names them in a configuration of a test's machine."""
    return {
        "lonCertificateDirectory": certificates.certificate.parent,
        "lonnetCertificate": certificates.certificate.name,
        "lonnetPrivateKey": certificates.private_key.name,
        "lonnetCertificateAuthority": certificates.authority.name,
    }
