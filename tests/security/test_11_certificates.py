"""A certificate that was revoked, or that is for another host, is refused; a fallback is reported."""

import os
import shutil
import ssl
from datetime import datetime, timedelta, timezone

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from support.certificates import Office, settings_for
from support.machine import eventually

from lonc.errors import CannotStart, ProtocolError
from lonc.monitoring.prometheus import StatusCollector
from lonc.monitoring.status import Report
from lonc.wire.tls import Tunnel, client_context, list_valid_until, server_context

KEY = b"0123456789abcdef" * 2
HOST = "l1.example.org"
QUICK = {"loncRetryDelay": "0.1", "loncRetryMaxDelay": "0.2"}


@pytest.fixture(scope="module")
def office(tmp_path_factory):
    return Office(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=["TLSv1_2", "TLSv1_3"])
def key_of(request, office):
    """What lonc gets from a lond with `theirs`, by its own certificate and this list."""

    def key_of(theirs, revocations, on_common_name=None):
        ours = office.issue("lonc.example")._replace(revocation_list=revocations)
        contexts = client_context(ours), server_context(theirs)
        for context in contexts:
            context.maximum_version = ssl.TLSVersion[request.param]
        lonc = Tunnel(contexts[0], HOST, on_common_name=on_common_name)
        lond = Tunnel(contexts[1], None, KEY)
        lonc.begin()
        while said := lonc.data_to_send():
            lond.receive(said)
            lonc.receive(lond.data_to_send())
        return lonc.key

    return key_of


class TestRevocations:
    def test_a_revoked_certificate_is_refused(self, office, key_of):
        theirs = office.issue(HOST)
        assert key_of(theirs, None) == KEY
        assert key_of(theirs, office.revoke()) == KEY
        with pytest.raises(ProtocolError, match=r"^its certificate is revoked$"):
            key_of(theirs, office.revoke(theirs.certificate))

    def test_with_an_expired_list_none_is_accepted(self, office, key_of):
        expired = office.revoke(until=-timedelta(hours=1))
        with pytest.raises(ProtocolError, match="the list of revoked certificates has expired"):
            key_of(office.issue(HOST), expired)

    def test_a_list_of_another_authority_says_nothing(self, office, key_of):
        with pytest.raises(ProtocolError, match="there is no list of revoked certificates of its auth"):
            key_of(office.issue(HOST), office.revoke(ours=False))

    def test_a_file_without_a_list_is_refused(self, office):
        ours = office.issue("lonc.example")
        nonsense = office.directory / "nonsense.pem"
        nonsense.write_text("nonsense")
        missing = office.directory / "missing.pem"
        for file, why in (
            (nonsense, "is no list of revoked certificates"),
            (office.directory, "is no file"),
            (missing, "No such file"),
            (office.directory / "ca.pem", "is no list of revoked certificates"),
        ):
            with pytest.raises(CannotStart, match=rf"loncCertificateRevocationList\).*{why}|{why}"):
                client_context(ours._replace(revocation_list=file))

    def test_a_certificate_in_the_file_does_not_become_an_authority(self, office):
        both = office.directory / "both.pem"
        others = (office.directory / "others-ca.pem").read_bytes()
        both.write_bytes(office.revoke().read_bytes() + others)
        with pytest.raises(CannotStart, match="has a certificate, not only lists"):
            client_context(office.issue("lonc.example")._replace(revocation_list=both))

    def test_a_file_may_have_several_lists_and_expires_with_the_first(self, office, key_of):
        theirs = office.issue(HOST)
        several = office.directory / "several.pem"
        first = office.revoke(ours=False, until=timedelta(hours=2))
        second = office.revoke(theirs.certificate, until=timedelta(hours=9))
        several.write_bytes(b"# a comment\n" + first.read_bytes() + second.read_bytes())
        with pytest.raises(ProtocolError, match="is revoked"):
            key_of(theirs, several)
        left = list_valid_until(several) - datetime.now(timezone.utc)
        assert timedelta(hours=1, minutes=50) < left <= timedelta(hours=2)


class TestNames:
    @pytest.mark.parametrize(
        ("common_name", "dns_names", "accepted"),
        [
            (HOST, (HOST,), True),
            ("other.example.org", (HOST,), True),
            ("other.example.org", ("x.example.org", HOST), True),
            ("other.example.org", ("*.example.org",), True),
            (HOST, ("other.example.org",), False),  # by its common name it would be
            (HOST, ("*.example.com",), False),
            (HOST, ("l*.example.org",), False),
            (HOST, ("*.org",), False),
            (HOST, (), True),
            ("other.example.org", (), False),
        ],
    )
    def test_it_is_for_a_host_by_its_dns_names_and_only_without_any_by_its_common_name(
        self, office, key_of, common_name, dns_names, accepted
    ):
        by_common_name = []
        theirs = office.issue_with(common_name, *dns_names)
        if accepted:
            assert key_of(theirs, None, lambda: by_common_name.append(1)) == KEY
        else:
            with pytest.raises(ProtocolError, match=f"its certificate is not for {HOST}"):
                key_of(theirs, None, lambda: by_common_name.append(1))
        assert len(by_common_name) == (accepted and not dns_names)


def configure(machine, office, theirs, listed=None, **settings):
    """lond has the certificate `theirs`; lonc has its own, and the list."""
    machine.configure(**settings_for(theirs))
    lond = machine.start_lond("l1")
    ours = office.issue("a1.example.org", until=timedelta(days=40))._replace(revocation_list=listed)
    machine.configure(loncKeyMode="ssl", **QUICK, **settings_for(ours), **settings)
    return lond


def test_the_daemon_refuses_a_certificate_that_was_revoked_since(machine, office):
    theirs = office.issue(HOST)
    listed = machine.directory / "revoked.pem"
    shutil.copy(office.revoke(), listed)
    configure(machine, office, theirs, listed)
    machine.start()
    assert machine.ask(b"ping") == b"l1"
    shutil.copy(office.revoke(theirs.certificate), listed)
    assert machine.command("reload").returncode == 0
    assert machine.ask(b"ping") == b"con_lost"
    assert "its certificate is revoked" in machine.status()["last_error"][1]


def test_an_expired_list_is_reported_in_log_status_check_and_check_health(machine, office):
    sentence = "the list of revoked certificates"
    listed = machine.directory / "revoked.pem"
    configure(machine, office, office.issue(HOST), listed)
    for hours, level, expiry in (
        (30, 0, None),
        (20, 1, "expires in 20 h"),
        (-3, 2, "has expired 3 h ago: every certificate is refused"),
    ):
        shutil.copy(office.revoke(until=timedelta(hours=hours)), listed)
        if machine.lonc is None:
            machine.start()
        else:
            assert machine.command("reload").returncode == 0
        assert machine.ask(b"ping") == (b"l1" if hours > 0 else b"con_lost")
        if hours < 0:
            eventually(lambda: machine.status()["state"] == "DEAD")
        judged = machine.command("check-health")
        assert judged.returncode == level
        assert machine.command("check").stderr == b""
        for said in (
            machine.command("check").stdout.decode(),
            machine.command("status").stdout.decode(),
            judged.stdout.decode(),
            machine.log(),
        ):
            assert f"{sentence} {expiry}" in said if expiry else sentence not in said


def test_a_list_that_cannot_be_used_refuses_a_start_and_a_reload(machine, office):
    listed = machine.directory / "revoked.pem"
    configure(machine, office, office.issue(HOST), listed)
    done = machine.command("start")
    assert done.returncode == 1
    assert f"cannot read {listed} (loncCertificateRevocationList)" in done.stderr.decode()
    shutil.copy(office.revoke(), listed)
    machine.start()
    listed.write_text("nonsense")
    done = machine.command("reload")
    assert done.returncode == 1
    assert "is no list of revoked certificates" in done.stderr.decode()
    assert machine.ask(b"ping") == b"l1"


@pytest.mark.skipif(os.getuid() != 0, reason="gives the file to another user")
def test_a_list_that_another_user_can_change_is_refused(machine, office):
    listed = machine.directory / "revoked.pem"
    configure(machine, office, office.issue(HOST), listed)
    shutil.copy(office.revoke(), listed)
    os.chown(listed, 65534, -1)
    done = machine.command("start")
    assert done.returncode == 1
    assert f"{listed} can be changed by others" in done.stderr.decode()
    os.chown(listed, 0, -1)
    listed.chmod(0o666)
    done = machine.command("start")
    assert done.returncode == 1
    assert str(listed) in done.stderr.decode()


def test_a_list_without_certificates_is_a_fault(machine):
    machine.configure(loncKeyMode="auto", loncCertificateRevocationList="/revoked.pem")
    done = machine.command("check")
    assert done.returncode == 6
    assert "loncKeyMode auto needs all of lonCertificateDirectory" in done.stdout.decode()


def test_a_certificate_by_its_common_name_alone_is_in_the_log_once(machine, office):
    configure(machine, office, office.issue_with(HOST))
    machine.run()
    assert machine.ask(b"ping") == b"l1"
    machine.command("retry", "l1")
    assert machine.ask(b"ping") == b"l1"
    assert machine.log().count(f"it is for {HOST} by its common name alone") == 1


def test_a_fallback_to_insecure_is_a_warning_and_a_metric(machine, office):
    """As an attacker on the network causes it, who answers as an old lond does."""
    machine.start_lond("l1")  # it has no certificate
    machine.configure(
        loncKeyMode="ssl", **settings_for(office.issue("a1.example.org", until=timedelta(days=40)))
    )
    machine.run()
    assert machine.ask(b"ping") == b"l1"
    status = machine.status()
    assert (status["mode"], status["fallbacks"], status["fallbacks_last_hour"]) == ("insecure", 1, 1)
    judged = machine.command("check-health")
    assert judged.returncode == 1
    said = judged.stdout.decode()
    assert "l1 has had insecure connections in the last hour: 1" in said
    assert " insecure=1;;;0" in said
    assert "insecure connections in the last hour: 1" in machine.command("status", "l1").stdout.decode()
    report = Report.from_line(machine.command("status", "--json").stdout)
    registry = CollectorRegistry()
    registry.register(StatusCollector(lambda: report))
    metrics = generate_latest(registry).decode()
    assert 'lonc_insecure_fallbacks_total{host="l1"} 1.0' in metrics
    assert (
        "# HELP lonc_insecure_fallbacks_total Connections whose key was exchanged in clear, because lond"
        " did not know the mode of loncKeyMode.\n"
    ) in metrics


def test_a_mode_that_is_configured_is_no_fallback(machine):
    for mode in ("insecure", "classic", "auto"):
        machine.configure(loncKeyMode=mode)
        if machine.lonc is None:
            machine.start_lond("l1")
            machine.start()
        else:
            assert machine.command("reload").returncode == 0
        assert machine.ask(b"ping") == b"l1"
        assert machine.status()["fallbacks"] == 0
        assert machine.command("check-health").returncode == 0
