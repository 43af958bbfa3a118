from dataclasses import asdict, replace
from pathlib import Path

import pytest
from support.machine import as_nobody

from lonc import configuration_file
from lonc.configuration import DECLARATIONS, Settings
from lonc.configuration_file import find_configuration, read_configuration, read_settings
from lonc.errors import Misconfigured

ROOT = Path(__file__).parent.parent


@pytest.fixture
def read(tmp_path):
    def read(text):
        file = tmp_path / "loncapa.conf"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        settings, faults = read_settings(file)
        return settings, [str(fault).removeprefix(str(file)) for fault in faults]

    return read


def test_what_is_not_set_has_its_default(read):
    settings, faults = read("PerlSetVar lonHostID msul1\n")
    assert faults == []
    assert settings == Settings(host_id="msul1")
    assert (settings.lond_port, settings.max_connections, settings.connect_retries) == (5663, 5, 2)
    assert (settings.max_request, settings.max_reply) == (16777216, 67108864)
    assert (settings.socket_mode, settings.log_level, settings.max_clients) == (0o660, "info", 1000)
    assert str(settings.hosts_file) == "/home/httpd/lonTabs/hosts.tab"
    assert str(settings.socket_directory) == "/home/httpd/sockets"
    assert str(settings.pid_file) == "/home/httpd/perl/logs/lonc.pid"


def test_every_setting_can_be_set(read):
    settings, faults = read(
        """
        PerlSetVar lonHostID my-host_1
        PerlSetVar lonTabDir /a
        PerlSetVar lonSockDir /b
        PerlSetVar lonDaemons /c
        PerlSetVar londPort 1
        PerlSetVar loncMaxConnections 2
        PerlSetVar loncConnectRetries 3
        PerlSetVar loncBindAddress 127.0.0.4
        PerlSetVar loncMaxClients 5
        PerlSetVar loncMaxRequest 6
        PerlSetVar loncMaxReply 77
        PerlSetVar loncSocketMode 0600
        PerlSetVar loncLogLevel debug
        PerlSetVar loncDrainTimeout 2.5
        PerlSetVar loncConnectTimeout 3.5
        PerlSetVar loncHandshakeTimeout 4.5
        PerlSetVar loncRequestTimeout 5.5
        PerlSetVar loncQueueTimeout 6.5
        PerlSetVar loncIdleTimeout 7.5
        PerlSetVar loncRetryDelay 8.5
        PerlSetVar loncRetryMaxDelay 9.5
        PerlSetVar loncMaxBuffered 1048576
        PerlSetVar loncDelayedInterval 10.5
        PerlSetVar loncDelayedKeyFile /keys
        PerlSetVar loncChildren ondemand
        PerlSetVar loncSocketName dns
        PerlSetVar lonSockCreate /f
        PerlSetVar loncKeyMode ssl
        PerlSetVar loncAllowInsecure 0
        PerlSetVar loncAllowPlainReplies 1
        PerlSetVar lonCertificateDirectory /d
        PerlSetVar lonnetCertificate certificate.pem
        PerlSetVar lonnetPrivateKey /e/key.pem
        PerlSetVar lonnetCertificateAuthority authority.pem
        PerlSetVar loncCertificateRevocationList revoked.pem
        PerlSetVar loncUser nobody
        PerlSetVar loncGroup daemon
        """
    )
    assert faults == []
    assert settings.certificates == (
        Path("/d/certificate.pem"),
        Path("/e/key.pem"),
        Path("/d/authority.pem"),
        Path("/d/revoked.pem"),
    )
    assert settings == Settings(
        host_id="my-host_1",
        table_directory=Path("/a"),
        socket_directory=Path("/b"),
        daemons=Path("/c"),
        lond_port=1,
        max_connections=2,
        connect_retries=3,
        bind_address="127.0.0.4",
        max_clients=5,
        max_request=6,
        max_reply=77,
        socket_mode=0o600,
        log_level="debug",
        drain_timeout=2.5,
        connect_timeout=3.5,
        handshake_timeout=4.5,
        request_timeout=5.5,
        queue_timeout=6.5,
        idle_timeout=7.5,
        retry_delay=8.5,
        retry_max_delay=9.5,
        max_buffered=1048576,
        delayed_interval=10.5,
        delayed_key_file=Path("/keys"),
        children="ondemand",
        socket_name="dns",
        create_socket=Path("/f"),
        key_mode="ssl",
        allow_insecure=False,
        allow_plain_replies=True,
        certificate_directory=Path("/d"),
        certificate=Path("certificate.pem"),
        private_key=Path("/e/key.pem"),
        authority=Path("authority.pem"),
        revocation_list=Path("revoked.pem"),
        user="nobody",
        group="daemon",
    )


def test_modes_of_a_key_that_contradict_other_settings(read):
    head = "PerlSetVar lonHostID a1\n"
    _, faults = read(f"{head}PerlSetVar loncAllowInsecure 0\n")
    assert faults == [":2: loncAllowInsecure 0 forbids loncKeyMode classic: set it to auto or ssl"]
    _, faults = read(f"{head}PerlSetVar loncAllowInsecure 0\nPerlSetVar loncKeyMode insecure\n")
    assert faults == [":2: loncAllowInsecure 0 forbids loncKeyMode insecure: set it to auto or ssl"]
    settings, faults = read(f"{head}PerlSetVar loncKeyMode ssl\nPerlSetVar lonnetCertificate c.pem\n")
    assert settings.certificates is None
    assert faults == [
        ":2: loncKeyMode ssl needs all of lonCertificateDirectory, lonnetCertificate,"
        " lonnetPrivateKey, lonnetCertificateAuthority"
    ]
    _, faults = read(f"{head}PerlSetVar loncAllowInsecure 0\nPerlSetVar loncKeyMode auto\n")
    assert faults == []
    _, faults = read(f"{head}PerlSetVar loncKeyMode auto\nPerlSetVar lonnetCertificate c.pem\n")
    assert faults == [
        ":2: loncKeyMode auto needs all of lonCertificateDirectory, lonnetCertificate,"
        " lonnetPrivateKey, lonnetCertificateAuthority, or none"
    ]
    _, faults = read(f"{head}PerlSetVar lonnetCertificate c.pem\n")
    assert faults == []  # it may be another program's


def test_apaches_syntax(read):
    settings, faults = read(
        b"# PerlSetVar londPort x\n"
        b"   # a comment in Latin-1: M\xfcnchen\n"
        b"<Location /adm>\n"
        b"PerlSetVarNot lonHostID x y z\n"
        b"\tperlsetvar\t lonHostID   msul1  \r\n"
        b'PERLSETVAR lonTabDir "/with a/space"\n'
        b"PerlSetVar londPort 1\n"
        b"PerlSetVar londPort 2\n"
        b"PerlSetVar lonRole library\n"
        b"PerlSetVar MetadataKeys whatever\n"
        b"</Location>\n"
    )
    assert faults == []
    assert settings == Settings("msul1", Path("/with a/space"), lond_port=2)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("PerlSetVar", "PerlSetVar takes NAME VALUE, and has 0 words"),
        ("PerlSetVar londPort", "londPort: PerlSetVar takes NAME VALUE, and has 1 words"),
        ("PerlSetVar \x1b[2J", r"\x1b[2J: PerlSetVar takes NAME VALUE, and has 1 words"),
        ("PerlSetVar londPort 1 # port", "has 4 words (a comment needs its own line)"),
        ('PerlSetVar lonTabDir "/open', "lonTabDir: an unmatched double quote"),
        ('PerlSetVar lonTabDir /a"b"', "an unmatched double quote"),
        (
            "PerlSetVar loncMaxConection 3",
            "no setting 'loncMaxConection'; did you mean loncMaxConnections?",
        ),
        (
            "PerlSetVar lonHostID -x",
            "lonHostID: '-x' is not a host id: letters, digits, _ and -, not starting with -",
        ),
        ("PerlSetVar lonHostID m\u00fcsul", "lonHostID: 'm\u00fcsul' is not a host id"),
        ('PerlSetVar lonTabDir ""', "lonTabDir: '' is not the absolute path of a directory"),
        (
            "PerlSetVar lonSockDir sockets",
            "lonSockDir: 'sockets' is not the absolute path of a directory",
        ),
        (
            "PerlSetVar loncDelayedKeyFile keys",
            "loncDelayedKeyFile: 'keys' is not the absolute path of a file",
        ),
        (
            "PerlSetVar loncDelayedKeyFile /keys/",
            "loncDelayedKeyFile: '/keys/' is not the absolute path of a file",
        ),
        ("PerlSetVar lonDaemons /a\0", r"lonDaemons: '/a\x00' is not the absolute path of a directory"),
        ("PerlSetVar lonDaemons /\x1b[2J" + "x" * 100, r"lonDaemons: '/\x1b[2Jxxx"),
        ("PerlSetVar londPort http", "londPort: 'http' is not a whole number"),
        ("PerlSetVar londPort 0", "londPort: 0 is not between 1 and 65535"),
        ("PerlSetVar londPort 65536", "londPort: 65536 is not between 1 and 65535"),
        ("PerlSetVar londPort \u0663", "londPort: '\u0663' is not a whole number"),
        ("PerlSetVar londPort 1_0", "londPort: '1_0' is not a whole number"),
        ("PerlSetVar loncMaxConnections 0", "loncMaxConnections: 0 is not between 1 and 1000"),
        ("PerlSetVar loncConnectRetries -1", "loncConnectRetries: '-1' is not a whole number"),
        ("PerlSetVar loncBindAddress here", "loncBindAddress: 'here' is not an IPv4 address"),
        ("PerlSetVar loncMaxClients 1e3", "loncMaxClients: '1e3' is not a whole number"),
        ("PerlSetVar loncMaxRequest 16M", "loncMaxRequest: '16M' is not a whole number"),
        ("PerlSetVar loncMaxReply " + "9" * 5000, "is not a whole number"),
        ("PerlSetVar loncSocketMode 0680", "loncSocketMode: '0680' is not an octal mode like 0660"),
        ("PerlSetVar loncLogLevel loud", "'loud' is none of debug, info, warning, error"),
        ("PerlSetVar loncDrainTimeout 1.", "loncDrainTimeout: '1.' is not a number of seconds"),
        (
            "PerlSetVar loncDrainTimeout 90000",
            "90000 is not between 0 and 86400 seconds",
        ),
        ("PerlSetVar loncKeyMode tls", "loncKeyMode: 'tls' is none of classic, auto, local, ssl"),
        ('PerlSetVar lonnetCertificate ""', "lonnetCertificate: '' is not the name of a file"),
        ("PerlSetVar lonnetPrivateKey keys/", "lonnetPrivateKey: 'keys/' is not the name of a file"),
        ("PerlSetVar loncAllowInsecure yes", "loncAllowInsecure: 'yes' is not a whole number"),
        ("PerlSetVar loncUser who-is-that", "loncUser: there is no user 'who-is-that'"),
        ("PerlSetVar loncUser 65534", "loncUser: there is no user '65534'"),
        (
            "PerlSetVar loncUser root",
            "loncUser: root has root's rights: name an unprivileged user, or none",
        ),
        (
            "PerlSetVar loncUser nobody\nPerlSetVar loncGroup who-is-that",
            "loncGroup: there is no group 'who-is-that'",
        ),
    ],
)
def test_each_fault_is_one_sentence_with_its_line(read, line, text):
    _, faults = read(f"PerlSetVar lonHostID msul1\n{line}\n")
    assert len(faults) == 1
    assert faults[0].startswith(f":{2 + line.count(chr(10))}: ")
    assert text in faults[0]


def test_a_mark_of_byte_order_hides_no_line(read):
    settings, faults = read(b"\xef\xbb\xbfPerlSetVar lonHostID msul1\n")
    assert faults == []
    assert settings.host_id == "msul1"


def test_bytes_that_are_no_utf_8_where_they_count(read):
    _, faults = read(b"PerlSetVar lonHostID msul1\nPerlSetVar lonTabDir /\xff\n")
    assert faults == [r":2: bytes that are not UTF-8: b'PerlSetVar lonTabDir /\xff'"]


def test_all_faults_are_told_and_what_is_sound_still_counts(read):
    settings, faults = read("PerlSetVar londPort x\nPerlSetVar loncXy 1\nPerlSetVar loncMaxClients 7\n")
    assert faults == [
        ":1: londPort: 'x' is not a whole number",
        ":2: there is no setting 'loncXy'",
        ": lonHostID, the id of this machine, is not set",
    ]
    assert settings == Settings(max_clients=7)


@pytest.mark.parametrize("kind", ["missing", "directory"])
def test_a_file_that_cannot_be_read_at_all(tmp_path, kind):
    file = tmp_path / "loncapa.conf"
    if kind == "directory":
        file.mkdir()
    text = {"missing": "No such file or directory", "directory": "Is a directory"}[kind]
    with pytest.raises(Misconfigured) as error:
        read_settings(file)
    assert str(error.value) == f"{file}: {text}"


def test_a_file_that_may_not_be_read(tmp_path):
    file = tmp_path / "loncapa.conf"
    file.write_text("PerlSetVar lonHostID msul1\n")
    file.chmod(0)

    def read():
        try:
            return str(read_settings(file))
        except Misconfigured as error:
            return str(error)

    assert as_nobody(read) == f"{file}: Permission denied"


def test_which_file_is_read(tmp_path, restore_afterwards):
    default = tmp_path / "loncapa.conf"
    restore_afterwards(configuration_file)
    configuration_file.DEFAULT_FILES = (tmp_path / "first", default)
    assert find_configuration("named", {"LONC_CONF": "other"}) == Path("named")
    assert find_configuration(None, {"LONC_CONF": "other"}) == Path("other")
    with pytest.raises(Misconfigured, match=f"{tmp_path}/first: no such file, nor is there {default}"):
        find_configuration(None, {"LONC_CONF": ""})
    default.touch()
    assert find_configuration(None, {}) == default


NAMES = [declaration.name for declaration in DECLARATIONS.values()]


def test_the_configuration_to_start_from_shows_every_setting_at_its_default(tmp_path):
    shipped = (ROOT / "etc" / "loncapa.conf").read_text()
    settings, faults = read_settings(ROOT / "etc" / "loncapa.conf")
    assert faults == []
    assert settings == Settings(host_id=settings.host_id)
    for name in NAMES:
        assert f"PerlSetVar {name} " in shipped
    uncommented = tmp_path / "loncapa.conf"
    here = shipped.replace("loncUser www-data", "loncUser nobody")  # not every system has a www-data
    here = here.replace("loncGroup www-data", "loncGroup daemon")
    uncommented.write_text(here.replace("#PerlSetVar", "PerlSetVar"))
    settings, faults = read_settings(uncommented)
    assert faults == []
    without_default = (
        "max_clients_per_user",
        "bind_address",
        "delayed_key_file",
        "create_socket",
        "certificate_directory",
        "certificate",
        "private_key",
        "authority",
        "revocation_list",
        "user",
        "group",
    )
    values = asdict(settings)
    assert settings == Settings(
        host_id=settings.host_id, **{name: values[name] for name in without_default}
    )
    assert (settings.user, settings.group) == ("nobody", "daemon")


def test_what_cannot_change_while_lonc_runs():
    before = Settings("a1")
    assert before.fixed_changes(Settings("a2", lond_port=1, max_clients=7)) == []
    after = Settings("a1", socket_directory=Path("/x"), daemons=Path("/y"), socket_mode=0o600)
    assert before.fixed_changes(after) == ["lonSockDir", "lonDaemons", "loncSocketMode"]
    after = Settings("a1", user="nobody", group="daemon")
    assert before.fixed_changes(after) == ["loncUser", "loncGroup"]


def test_a_group_needs_a_user(read):
    _, faults = read("PerlSetVar lonHostID a1\nPerlSetVar loncGroup daemon\n")
    assert faults == [":2: loncGroup is set, and loncUser is not"]


def test_the_path_of_the_control_socket_must_fit(read):
    longest = "/" + "x" * (107 - len("/logs/lonc.ctl") - 1)
    settings, faults = read(f"PerlSetVar lonHostID a1\nPerlSetVar lonDaemons {longest}\n")
    assert (str(settings.control_file), faults) == (f"{longest}/logs/lonc.ctl", [])
    _, (fault,) = read(f"PerlSetVar lonHostID a1\nPerlSetVar lonDaemons {longest}x\n")
    assert fault.startswith(":2: lonDaemons: the socket path /xxx")
    assert fault.endswith("/logs/lonc.ctl is longer than 107 bytes")


def test_certificates_are_all_four_settings_or_none():
    directory, file = Path("/d"), Path("f.pem")
    partly = Settings(certificate_directory=directory, certificate=file, private_key=file)
    assert partly.certificates is None
    whole = Settings(
        certificate_directory=directory,
        certificate=file,
        private_key=file,
        authority=file,
        key_mode="ssl",
    )
    assert whole.needed_certificates == whole.certificates == (*(Path("/d/f.pem"),) * 3, None)
    listed = replace(whole, revocation_list=Path("/r.pem"))
    assert listed.certificates == (*(Path("/d/f.pem"),) * 3, Path("/r.pem"))
    assert listed.secrets == [Path("/d/f.pem")] * 3


@pytest.mark.parametrize("mode", ["classic", "insecure", "local"])
def test_other_modes_need_no_certificates(mode):
    file = Path("f.pem")
    settings = Settings(
        certificate_directory=file, certificate=file, private_key=file, authority=file, key_mode=mode
    )
    assert settings.needed_certificates is None


class TestBothFiles:
    """loncapa.conf, and loncapa_apache.conf beside it."""

    def read(self, tmp_path, first, second):
        (tmp_path / "loncapa.conf").write_text(first)
        (tmp_path / "loncapa_apache.conf").write_text(second)
        return read_configuration(tmp_path / "loncapa.conf")

    def test_of_a_name_in_both_the_later_one_wins_and_each_value_has_its_origin(self, tmp_path):
        configuration = self.read(
            tmp_path,
            "PerlSetVar lonHostID a1\nPerlSetVar londPort 1\n",
            "# Apache\nPerlSetVar londPort 2\n",
        )
        assert configuration.faults == []
        assert configuration.settings == Settings("a1", lond_port=2)
        assert {name: str(origin) for name, origin in configuration.origins.items()} == {
            "lonHostID": f"{tmp_path}/loncapa.conf:1",
            "londPort": f"{tmp_path}/loncapa_apache.conf:2",
        }

    def test_a_fault_names_its_file_and_leaves_the_earlier_value(self, tmp_path):
        configuration = self.read(
            tmp_path,
            "PerlSetVar lonHostID a1\nPerlSetVar londPort 1\n",
            "PerlSetVar londPort x\nPerlSetVar loncGroup daemon\n",
        )
        apache = f"{tmp_path}/loncapa_apache.conf"
        assert [str(fault) for fault in configuration.faults] == [
            f"{apache}:1: londPort: 'x' is not a whole number",
            f"{apache}:2: loncGroup is set, and loncUser is not",
        ]
        assert configuration.settings.lond_port == 1

    def test_the_second_is_not_read_twice_and_need_not_be_there(self, tmp_path):
        self.read(tmp_path, "PerlSetVar loncXy 1\n", "PerlSetVar lonHostID a1\n")
        alone = read_configuration(tmp_path / "loncapa_apache.conf")
        assert (alone.faults, len(alone.files)) == ([], 1)
        (tmp_path / "loncapa_apache.conf").unlink()
        assert len(read_configuration(tmp_path / "loncapa.conf").files) == 2

    def test_a_second_one_that_cannot_be_read_is_a_fault(self, tmp_path):
        (tmp_path / "loncapa.conf").write_text("PerlSetVar lonHostID a1\n")
        (tmp_path / "loncapa_apache.conf").mkdir()
        (fault,) = read_configuration(tmp_path / "loncapa.conf").faults
        assert str(fault) == f"{tmp_path}/loncapa_apache.conf: Is a directory"


class TestLaterLonCapa:
    """Where lonSockCreate is set."""

    HEAD = "PerlSetVar lonHostID a1\nPerlSetVar lonSockCreate /s/common_parent\n"
    CERTIFICATES = (
        "PerlSetVar lonCertificateDirectory /d\nPerlSetVar lonnetCertificate c\n"
        "PerlSetVar lonnetPrivateKey k\nPerlSetVar lonnetCertificateAuthority a\n"
    )

    @pytest.mark.parametrize(
        ("more", "name", "mode", "children"),
        [
            ("", "dns", "insecure", "ondemand"),
            (CERTIFICATES, "dns", "auto", "ondemand"),
            ("PerlSetVar loncSocketName id\n", "id", "insecure", "ondemand"),
            ("PerlSetVar loncKeyMode classic\n", "dns", "classic", "ondemand"),
            ("PerlSetVar loncChildren eager\n", "dns", "insecure", "eager"),
        ],
    )
    def test_settings_that_are_not_set_have_other_defaults(self, read, more, name, mode, children):
        settings, faults = read(self.HEAD + more)
        assert faults == []
        assert (settings.socket_name, settings.key_mode, settings.children) == (name, mode, children)
        assert settings.allow_plain_replies
        settings, _ = read(self.HEAD + more + "PerlSetVar loncAllowPlainReplies 0\n")
        assert not settings.allow_plain_replies

    def test_certificates_that_are_not_complete_are_a_fault_and_do_not_mean_insecure(self, read):
        settings, faults = read(self.HEAD + self.CERTIFICATES.replace("lonnetPrivateKey", "lonnetKey"))
        assert settings.key_mode == "auto"
        assert ["needs all of" in fault for fault in faults] == [True]

    def test_their_origin_says_why(self, tmp_path):
        file = tmp_path / "loncapa.conf"
        file.write_text(self.HEAD)
        origins = read_configuration(file).origins
        why = f"lonSockCreate is set ({file}:2)"
        assert (str(origins["loncSocketName"]), str(origins["loncChildren"])) == (why, why)
        why = f"lonSockCreate is set, no certificates are set ({file}:2)"
        assert str(origins["loncKeyMode"]) == why

    def test_insecure_may_be_forbidden(self, read):
        _, faults = read(self.HEAD + "PerlSetVar loncAllowInsecure 0\n")
        assert faults == [":3: loncAllowInsecure 0 forbids loncKeyMode insecure: set it to auto or ssl"]


@pytest.mark.parametrize("declaration", DECLARATIONS.values(), ids=lambda each: each.name)
def test_the_text_of_a_value_gives_the_value(declaration):
    assert declaration.to_text(None) == ""
    if text := declaration.default:
        assert declaration.to_text(declaration.read(text)) == text


def test_a_configuration_that_ends_without_a_newline_is_being_written(read):
    settings, faults = read("PerlSetVar lonHostID a1\n\n  # x\nPerlSetVar londPort 56")
    assert settings.lond_port == 56
    assert faults == [":4: the last line has no newline: the file may be being written"]


def test_a_carriage_return_inside_a_line_is_a_fault(read):
    _, faults = read("PerlSetVar lonHostID a1\r\n# a comment\rPerlSetVar londPort 1\n")
    assert faults == [":2: a carriage return inside the line"]
