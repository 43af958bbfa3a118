import os
import ssl
from datetime import datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from support.certificates import Office

from lonc.demo import certificate_authority
from lonc.errors import CannotStart, ProtocolError
from lonc.wire.tls import KEY_LINE, MAX_RECORD, Tunnel, client_context, server_context

KEY = b"0123456789abcdef" * 2
CLOSE_NOTIFY_1_2 = b"\x15\x03\x03\x00\x02\x01\x00"


@pytest.fixture(scope="module")
def office(tmp_path_factory):
    return Office(tmp_path_factory.mktemp("certificates"))


class Talk:
    """Both sides; data reach the other side in pieces of `size` bytes."""

    def __init__(self, ours, theirs, size=10**6, name="lond.example"):
        self.lonc = Tunnel(ours, name)
        self.lond = Tunnel(theirs, None, KEY)
        self.size = size
        self.clear_to_lond = b""
        self.lonc.begin()

    def go(self, behind=b""):
        """Until both fall silent; `behind` is what lond says in clear, behind TLS. Returns what of that
        comes out."""
        clear = b""
        while to_lond := self.lonc.data_to_send():
            for piece in self.pieces(to_lond):
                self.clear_to_lond += self.lond.receive(piece)
            to_lonc = self.lond.data_to_send()
            if self.lond.key is not None:
                to_lonc, behind = to_lonc + behind, b""
            for piece in self.pieces(to_lonc):
                clear += piece if clear else self.lonc.receive(piece)
        return clear

    def pieces(self, data):
        return [data[start : start + self.size] for start in range(0, len(data), self.size)]


@pytest.fixture
def contexts(office):
    return client_context(office.issue("lonc.example")), server_context(office.issue("lond.example"))


@pytest.fixture(params=["TLSv1_2", "TLSv1_3"])
def version(request, contexts):
    for context in contexts:
        context.maximum_version = ssl.TLSVersion[request.param]
    return request.param


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10**6])
def test_the_key_and_the_clear_text_after_it(contexts, version, size):
    talk = Talk(*contexts, size=size)
    assert talk.go(behind=b"2.11.4\n") == b"2.11.4\n"
    assert talk.lonc.key == KEY
    assert len(talk.lonc) == 0
    # After the key we say nothing more in TLS, no close_notify above all: what follows is clear.
    assert talk.lonc.data_to_send() == b""
    assert talk.lond.receive(b"version\n") == b"version\n"


def test_a_missing_close_notify_delays_nothing(contexts, version, monkeypatch):
    monkeypatch.setattr(ssl.SSLObject, "unwrap", lambda _: None)
    talk = Talk(*contexts)
    assert talk.go() == b""
    assert talk.lonc.key == KEY
    assert talk.lonc.receive(b"2.11.4\n") == b"2.11.4\n"


@pytest.mark.parametrize("cut", range(8))
def test_a_late_close_notify_is_followed_by_clear_text(contexts, version, cut):
    talk = Talk(*contexts)
    said = []
    talk.lond.data_to_send, whole = lambda: said.pop() if said else b"", talk.lond.data_to_send
    while to_lond := talk.lonc.data_to_send():
        talk.lond.receive(to_lond)
        said.append(whole())
        flight = said.pop()
        if talk.lond.key is None:
            talk.lonc.receive(flight)
            continue
        *_, (start, end) = records(flight)  # the last one is the close_notify
        talk.lonc.receive(flight[:start])
        assert talk.lonc.key == KEY
        late = flight[start:end] + b"2.11.4\n"
        assert talk.lonc.receive(late[:cut]) == b""
        assert talk.lonc.receive(late[cut:]) == b"2.11.4\n"


def records(flight):
    """Where each record begins and ends."""
    start = 0
    while start < len(flight):
        end = start + 5 + int.from_bytes(flight[start + 3 : start + 5], "big")
        yield start, end
        start = end


@pytest.mark.parametrize("behind", [b"\x15\x03\x03\x00\x02\x01\x00", b"\x17\x03\x03\x00\x02ab"])
def test_a_record_after_the_key_must_be_of_this_tls_connection(contexts, version, behind, monkeypatch):
    monkeypatch.setattr(ssl.SSLObject, "unwrap", lambda _: None)
    talk = Talk(*contexts)
    with pytest.raises(ProtocolError, match="TLS"):
        talk.go(behind=behind)


@pytest.mark.parametrize("behind", [b"\x15\x03\x03\x00\x02\x01\x00", b"\x17\x03\x03\x00\x02ab"])
def test_a_record_after_the_end_of_tls_is_dropped(contexts, version, behind):
    talk = Talk(*contexts)
    assert talk.go(behind=behind * 3 + b"2.11.4\n") == b"2.11.4\n"


def test_data_that_is_not_tls_is_rejected_by_its_first_byte(contexts):
    talk = Talk(*contexts)
    with pytest.raises(ProtocolError, match="the data is not TLS"):
        talk.lonc.receive(b"1")


def test_a_record_longer_than_tls_allows_is_not_waited_for(contexts):
    talk = Talk(*contexts)
    assert talk.lonc.receive(b"\x16\x03\x03\xff") == b""
    with pytest.raises(ProtocolError, match="longer than TLS allows"):
        talk.lonc.receive(b"\xff")


def test_at_most_one_record_is_held(contexts):
    talk = Talk(*contexts)
    longest = MAX_RECORD - 5
    talk.lonc.receive(b"\x16\x03\x03" + longest.to_bytes(2, "big") + b"x" * (longest - 1))
    assert len(talk.lonc) == MAX_RECORD - 1


def lond_says(contexts, said):
    """lonc's tunnel after lond has sent these pieces in TLS instead of a key."""
    lonc = Tunnel(contexts[0], "lond.example")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    lond = contexts[1].wrap_bio(incoming, outgoing, server_side=True)
    lonc.begin()
    done = False
    while not done and (to_lond := lonc.data_to_send()):
        incoming.write(to_lond)
        try:
            lond.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            pass
        if done:
            if said is None:
                with pytest.raises(ssl.SSLWantReadError):
                    lond.unwrap()
            for each in said or ():
                lond.write(each)
        lonc.receive(outgoing.read())
    return lonc


@pytest.mark.parametrize(
    "said",
    [
        [KEY + b"\nmore"],
        [KEY[:-1] + b"\n"],
        [KEY + b"0"],
        [b"\n"],
        [b"x" * 16384],
        [KEY[:20], KEY[20:] + b"\nversion\n"],
    ],
)
def test_anything_but_one_line_of_32_digits_is_no_key(contexts, version, said):
    with pytest.raises(ProtocolError, match="the key in TLS is not"):
        lond_says(contexts, said)


def test_a_key_in_several_records_is_a_key(contexts, version):
    assert lond_says(contexts, [KEY[:1], KEY[1:30], KEY[30:], b"\n"]).key == KEY
    assert len(KEY) + 1 == KEY_LINE


def test_an_end_of_tls_without_a_key(contexts, version):
    with pytest.raises(ProtocolError, match="TLS ended before the key was sent"):
        lond_says(contexts, None)


def test_text_in_tls_after_the_key_is_dropped(contexts, version):
    lonc = lond_says(contexts, [KEY + b"\n", b"more"])
    assert lonc.key == KEY
    assert lonc.receive(b"clear\n") == b"clear\n"


@pytest.mark.parametrize("first", [b"\x14", b"\x16"])
def test_after_the_key_a_handshake_byte_begins_the_clear_text(contexts, version, first):
    lonc = lond_says(contexts, [KEY + b"\n"])
    assert lonc.receive(first + b"clear\n") == first + b"clear\n"


@pytest.mark.parametrize(
    ("certificate", "sentence"),
    [
        ({"ours": False}, "its certificate is of another authority"),
        ({"until": -timedelta(days=1)}, "its certificate has expired"),
        ({"host": "other.example"}, "its certificate is not for lond.example"),
    ],
)
def test_an_invalid_certificate_of_lond_is_a_failure_with_a_sentence(
    office, version, contexts, certificate, sentence
):
    theirs = server_context(office.issue(**{"host": "lond.example", **certificate}))
    theirs.maximum_version = contexts[1].maximum_version
    theirs.verify_mode = ssl.CERT_NONE
    with pytest.raises(ProtocolError) as error:
        Talk(contexts[0], theirs).go()
    assert str(error.value) == sentence


def test_a_certificate_that_names_its_host_in_the_subject_alone(office, tmp_path, version, contexts):
    """A certificate as LON-CAPA's own script makes it."""
    key, whole = ec.generate_private_key(ec.SECP256R1()), office.issue("lond.example")
    name = certificate_authority._x509_name("lond.example")
    made = certificate_authority._certificate_builder(name, key, office._ours._name, timedelta(days=1))
    issued = made.sign(office._ours._key, hashes.SHA256())
    (tmp_path / "c.pem").write_bytes(issued.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "k.pem").touch(0o600)
    (tmp_path / "k.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    files = whole._replace(certificate=tmp_path / "c.pem", private_key=tmp_path / "k.pem")
    talk = Talk(contexts[0], server_context(files))
    talk.go()
    assert talk.lonc.key == KEY
    with pytest.raises(ProtocolError, match=r"is not for other\.example"):
        Talk(contexts[0], server_context(files), name="other.example").go()


def test_a_lond_without_a_certificate(contexts, version):
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    lonc, lond = Tunnel(contexts[0], "lond.example"), Tunnel(theirs, None, KEY)
    lonc.begin()
    with pytest.raises(ProtocolError, match="no shared cipher"):
        lond.receive(lonc.data_to_send())
    with pytest.raises(ProtocolError, match="it has no certificate"):
        lonc.receive(lond.data_to_send())


def test_the_alert_of_a_lond_that_refuses_our_certificate_is_in_the_text(office, version, contexts):
    ours = client_context(office.issue("lonc.example", ours=False))
    ours.maximum_version = contexts[0].maximum_version
    talk = Talk(ours, contexts[1])
    with pytest.raises(ProtocolError, match="its certificate is of another authority"):
        talk.go()
    with pytest.raises(ProtocolError, match="it does not accept our certificate: unknown ca"):
        talk.lonc.receive(talk.lond.data_to_send())


def test_a_client_without_a_certificate_is_refused(office, contexts, version):
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.load_verify_locations(office.directory / "ca.pem")
    with pytest.raises(ProtocolError, match="did not return a certificate"):
        Talk(nobody, contexts[1]).go()


def test_tls_before_1_2_is_not_spoken(office, contexts):
    assert all(context.minimum_version is ssl.TLSVersion.TLSv1_2 for context in contexts)
    assert all(context.options & ssl.OP_NO_RENEGOTIATION for context in contexts)
    assert all(context.options & ssl.OP_NO_COMPRESSION for context in contexts)


class TestFiles:
    def refused(self, certificates):
        with pytest.raises(CannotStart) as error:
            client_context(certificates)
        return str(error.value)

    def test_a_private_key_that_others_can_read(self, office):
        certificates = office.issue("open.example")
        os.chmod(certificates.private_key, 0o644)
        key = certificates.private_key
        assert self.refused(certificates) == (
            f"{key} (lonnetPrivateKey) can be read by others, mode 0644: chmod o-rwx {key}"
        )
        os.chmod(certificates.private_key, 0o640)
        assert client_context(certificates)

    @pytest.mark.parametrize("which", range(3))
    def test_a_missing_or_invalid_file_is_an_error(self, office, tmp_path, which):
        certificates = list(office.issue("lonc.example"))
        setting = ("lonnetCertificate", "lonnetPrivateKey", "lonnetCertificateAuthority")[which]
        certificates[which] = file = tmp_path / "file.pem"
        whole = type(office.issue("lonc.example"))(*certificates)
        assert self.refused(whole) == f"cannot read {file} ({setting}): No such file or directory"
        file.write_text("nonsense")
        file.chmod(0o600)
        assert setting in self.refused(whole)
        file.unlink()
        file.mkdir()
        assert self.refused(whole) == f"{file} ({setting}) is no file"

    def test_a_key_of_another_certificate(self, office):
        mixed = office.issue("lonc.example")._replace(private_key=office.issue("b.example").private_key)
        assert "are no certificate and its key: key values mismatch" in self.refused(mixed)


def as_record(draw):
    kind, text = draw
    return bytes([kind]) + b"\x03\x03" + len(text).to_bytes(2, "big") + text


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.tuples(st.integers(0x14, 0x17), st.binary(max_size=40)).map(as_record),
        ),
        max_size=6,
    )
)
def test_any_data_instead_of_tls_fails_or_waits_for_more(office, pieces):
    """Invariant: nothing but ProtocolError comes out, no key and no clear text without a handshake, and
    no more than a record is held."""
    lonc = Tunnel(
        CLIENT.setdefault("context", client_context(office.issue("lonc.example"))), "x.example"
    )
    lonc.begin()
    for piece in pieces:
        try:
            assert lonc.receive(piece) == b""
        except ProtocolError:
            break
        assert lonc.key is None
        assert len(lonc) <= MAX_RECORD


CLIENT = {}


def test_a_certificate_that_is_not_valid_yet(office, tmp_path, version, contexts):
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(timezone.utc)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lond.example")])
    issued = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(office._ours._name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("lond.example")]), critical=False)
        .sign(office._ours._key, hashes.SHA256())
    )
    files = office.issue("lond.example")._replace(
        certificate=tmp_path / "c.pem", private_key=tmp_path / "k.pem"
    )
    files.certificate.write_bytes(issued.public_bytes(serialization.Encoding.PEM))
    files.private_key.touch(0o600)
    files.private_key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    with pytest.raises(ProtocolError, match="its certificate is not valid yet"):
        Talk(contexts[0], server_context(files)).go()


def test_records_after_the_end_of_tls_are_not_held(contexts, version):
    talk = Talk(*contexts)
    assert talk.go(behind=b"\x17\x03\x03\x00\x02ab" * 1000) == b""
    assert talk.lonc._incoming.pending == 0


def test_the_longest_record_is_that_of_tls_1_2(contexts):
    assert MAX_RECORD == 5 + 16384 + 2048
    for length, fits in ((MAX_RECORD, True), (MAX_RECORD + 1, False)):
        lonc = Tunnel(contexts[0], "lond.example")
        header = b"\x16\x03\x03" + (length - 5).to_bytes(2, "big")
        if fits:
            assert lonc.receive(header) == b""
        else:
            with pytest.raises(ProtocolError, match=f"a TLS record of {length} bytes"):
                lonc.receive(header)


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601])
def test_a_private_key_may_not_have_any_permission_for_all_users(office, mode):
    files = office.issue("open.example")
    os.chmod(files.private_key, mode)
    with pytest.raises(CannotStart, match=f"mode 0{mode:o}"):
        client_context(files)
    os.chmod(files.private_key, 0o600)


@pytest.mark.parametrize("which", [lambda files: files.certificate, lambda files: files.authority])
def test_no_certificate_may_be_written_by_all_users(office, which):
    files = office.issue("written.example")
    path = which(files)
    before = path.stat().st_mode
    path.chmod(0o646)
    try:
        with pytest.raises(CannotStart, match=f"all users can write to {path} .*chmod o-w {path}"):
            client_context(files)
    finally:
        path.chmod(before)
