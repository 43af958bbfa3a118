"""The cipher of the Perl programs gives the values that the protocol states."""

import subprocess

import pytest
from support.perl import PERL, PROGRAMS, needs_cipher, needs_perl

pytestmark = [needs_perl, needs_cipher]

KEY = "62451624a354559a79edea097ad9adb0"


def wire(code, *arguments):
    """What an expression of Wire.pm comes to; its arguments are in @ARGV."""
    command = [PERL, f"-I{PROGRAMS}", "-MWire=shared_key,encipher,decipher", "-e", f"print {code}", "--"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("server", "client", "build_key", "key"),
    [
        ("msul1", "msua3", "54559A79EDEA097AD9ADB087C71818", KEY),
        ("loop1", "loopa1", "12345ABCDEFABCDEF98765", "588915889a112345abcdefabcdef9876"),
        ("site-9_x", "my-host", "00011FACE99", "223ed9f768d182300011face99223ed9"),
    ],
)
def test_keys(server, client, build_key, key):
    assert wire("shared_key(@ARGV)", server, client, build_key) == key


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "enc:0:2c38521fdc9c5b90"),
        ("seven77", "enc:7:553b6892d7e22986"),
        ("eight888", "enc:8:ffde679b633ecab92c38521fdc9c5b90"),
    ],
)
def test_lines(text, line):
    assert wire("encipher(@ARGV)", KEY, text) == line
    assert wire("decipher(@ARGV)", KEY, line) == text
