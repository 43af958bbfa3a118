"""Certificates for tests: of a trusted authority, of another one, and expired ones."""

from datetime import timedelta

from lonc.configuration import Certificates
from lonc.demo.certificate_authority import Authority


class Office:
    """Issues certificates into `directory`, by the trusted authority (`ours`) or another one."""

    def __init__(self, directory):
        self.directory = directory
        self._ours, self._others = Authority("ours"), Authority("others")
        self._lists = 0
        self._ours.write(directory / "ca.pem")
        self._others.write(directory / "others-ca.pem")

    def revoke(self, *certificates, ours=True, until=timedelta(days=1)):
        """A new list of revoked certificates, with `certificates` in it."""
        self._lists += 1
        file = self.directory / f"revoked-{self._lists}.pem"
        (self._ours if ours else self._others).revoke(file, *certificates, until=until)
        return file

    def issue_with(self, common_name, *dns_names):
        """A certificate with these names."""
        stem = f"{common_name}-{'-'.join(dns_names).replace('*', 'any')}"
        certificate, key = self.directory / f"{stem}.pem", self.directory / f"{stem}.key"
        if not key.exists():
            self._ours.issue("", certificate, key, common_name=common_name, dns_names=dns_names)
        return Certificates(certificate, key, self.directory / "ca.pem")

    def issue(self, host, *, ours=True, until=timedelta(days=1), authority="ca.pem"):
        """A certificate for the DNS name `host`, valid `until` from now; issued once."""
        stem = f"{host}-{'ours' if ours else 'others'}-{until.total_seconds():.0f}"
        certificate, key = self.directory / f"{stem}.pem", self.directory / f"{stem}.key"
        if not key.exists():
            (self._ours if ours else self._others).issue(host, certificate, key, until)
        return Certificates(certificate, key, self.directory / authority)


def settings_for(certificates):
    """The settings that name these certificates."""
    revocations = certificates.revocation_list
    listed = {} if revocations is None else {"loncCertificateRevocationList": revocations}
    return {
        **listed,
        "lonCertificateDirectory": certificates.certificate.parent,
        "lonnetCertificate": certificates.certificate.name,
        "lonnetPrivateKey": certificates.private_key.name,
        "lonnetCertificateAuthority": certificates.authority.name,
    }
