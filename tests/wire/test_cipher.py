import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from hypothesis import given
from hypothesis import strategies as st

from lonc.errors import CannotStart, ProtocolError
from lonc.wire import cipher
from lonc.wire.cipher import LineCipher, require_idea, shared_key

KEY = bytes.fromhex("62451624a354559a79edea097ad9adb0")

KEYS = [
    ("msul1", "msua3", b"54559A79EDEA097AD9ADB087C71818", "62451624a354559a79edea097ad9adb0"),
    ("loop1", "loopa1", b"12345ABCDEFABCDEF98765", "588915889a112345abcdefabcdef9876"),
    ("l1", "a1", b"9A9B9C9D9E", "51a19a9b9c9d9e51a19a9b9c9d9e51a1"),
    ("site-9_x", "my-host", b"00011FACE99", "223ed9f768d182300011face99223ed9"),
]

LINES = [
    (b"", b"enc:0:2c38521fdc9c5b90"),
    (b"a", b"enc:1:d748ad0476ddf4c5"),
    (b"seven77", b"enc:7:553b6892d7e22986"),
    (b"eight888", b"enc:8:ffde679b633ecab92c38521fdc9c5b90"),
    (
        b"auth:msu:student1:secret",
        b"enc:24:5cac5f20240380a5aac5ba3dd233a8658676b02594ebb5da2c38521fdc9c5b90",
    ),
    (
        b"put:msu:user1:nohist:caf%E9=1&x=2",
        b"enc:33:a6c6188020fea07beda218ee3454e379b7e9acb3d1ec0c3cd0db1113960c4f677d31846d999ce06f",
    ),
]


@pytest.mark.parametrize(("server", "client", "build_key", "digits"), KEYS)
def test_the_key_of_each_vector(server, client, build_key, digits):
    assert shared_key(server, client, build_key + b"\n").hex() == digits


@pytest.mark.parametrize(("text", "line"), LINES)
def test_the_line_of_each_vector_both_ways(text, line):
    assert LineCipher(KEY).encipher(text) == line + b"\n"
    assert LineCipher(KEY).decipher(line + b"\n") == text
    assert LineCipher(KEY).decipher(line.upper().replace(b"ENC", b"enc") + b"\n") == text


def test_every_length_from_0_to_4096_deciphers_to_itself():
    pair = LineCipher(KEY)
    for length in range(4097):
        text = bytes(byte % 251 for byte in range(length))
        assert pair.decipher(pair.encipher(text)) == text


@given(st.lists(st.binary(max_size=4096)), st.binary(min_size=16, max_size=16))
def test_enciphered_lines_decipher_to_themselves(texts, key):
    ours, theirs = LineCipher(key), LineCipher(key)
    for text in texts:
        line = ours.encipher(text)
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        assert theirs.decipher(line) == text


@pytest.mark.parametrize(
    "line",
    [
        b"enc:",
        b"enc:8",
        b"enc::2c38521fdc9c5b90",
        b"enc:x:2c38521fdc9c5b90",
        b"enc:-1:2c38521fdc9c5b90",
        b"enc:1 :2c38521fdc9c5b90",
        b"enc:1:2c38521fdc9c5b9",  # an odd digit
        b"enc:1:2c38521fdc9c5b9000",  # no whole block
        b"enc:1:2c38521fdc9c5b9g",
        b"enc:1:2c38521f dc9c5b9",
        b"enc:9:2c38521fdc9c5b90",  # more than there is
        b"enc:1:",
        b"enc:99999999999999999999:2c38521fdc9c5b90",
        b"enc:1:2c38521fdc9c5b90:",
        "enc:１:2c38521fdc9c5b90".encode(),
    ],
)
def test_a_malformed_line_is_a_protocol_error(line):
    with pytest.raises(ProtocolError):
        LineCipher(KEY).decipher(line + b"\n")


@pytest.mark.parametrize("build_key", [b"\n", b"12G4\n", b" 1234\n", b"1234", b"12\r\n", b"12\n34\n"])
def test_a_build_key_has_hex_digits_only(build_key):
    with pytest.raises(ProtocolError, match="other characters than hex digits"):
        shared_key("l1", "a1", build_key)


def test_a_build_key_must_fill_32_digits_with_the_ids():
    assert len(shared_key("l1", "a1", b"1234567\n")) == 16
    with pytest.raises(ProtocolError, match="too short"):
        shared_key("l1", "a1", b"123456\n")


def test_a_cryptography_without_idea_is_named_with_what_to_install(restore_afterwards):
    require_idea()

    def without(key):
        raise UnsupportedAlgorithm("IDEA")

    restore_afterwards(cipher)
    cipher.LineCipher = without
    with pytest.raises(CannotStart, match="pip install"):
        require_idea()


@pytest.mark.parametrize("length", [65527, 65528, 65535, 65536, 131071, 131072, 200_003])
def test_a_long_line_is_that_of_the_cipher_block_by_block(length):
    text = bytes(byte % 251 for byte in range(length))
    pair = LineCipher(KEY)
    line = pair.encipher(text)
    blocks = text.ljust(8 * (length // 8 + 1))
    digits = b"".join(
        pair.encipher(blocks[start : start + 4096])[len(b"enc:4096:") : -1][: 2 * 4096]
        for start in range(0, len(blocks) // 4096 * 4096, 4096)
    )
    assert line.startswith(b"enc:%d:%b" % (length, digits))
    assert len(line) == len(b"enc:%d:" % length) + 2 * len(blocks) + 1
    assert pair.decipher(line) == text


def test_a_text_that_fills_its_blocks_without_padding_is_accepted():
    whole = LineCipher(KEY).encipher(b"eight888")
    assert LineCipher(KEY).decipher(b"enc:8:" + whole[len(b"enc:8:") :][:16] + b"\n") == b"eight888"
