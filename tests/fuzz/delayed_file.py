"""A file in the directory of delayed transactions, which any program of the group may write."""

import os
import re
import tempfile
from pathlib import Path

from lonc.child.own_requests import NOT_FOR_LOND
from lonc.child.replay import Replay
from lonc.configuration import Settings
from lonc.spool.sealing import is_sealed, longest_sealed
from lonc.spool.spool import Name

from .client_line import own_reply

MAX_REQUEST = 60

_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")  # all but the newline
_IN_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None

WORDS = [
    b"1.0.1.put.l1", b"1700000000.3.4711.encryptauth.l1", b"1.0.1.put.l2", b"l1", b".", b"0", b"9" * 18,
    b"\0", b"\n", b"put:a:b", b"encrypt:", b"encrypt:auth:topsecret", b"init", b"exit", b"ekey",
    b"sethost:", b"lonc:status", b"reset_retries", b"\r", b"\x1b[2J", b"\xc2\x85", b"\xff", b"/", b"bad",
    b"x" * MAX_REQUEST, b"lonc:sealed:1:", b"k1:", b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    b":sealed:lonc\n",
]  # fmt: skip


class _FakeLoop:
    """A fake EventLoop: the test calls the deadlines in `callbacks` itself."""

    def __init__(self):
        self.callbacks = []
        self.now = 0.0

    def after(self, seconds, callback):
        self.callbacks.append(callback)
        return callback


def name(text):
    """A name that can be parsed has the form of the protocol, and its text is the original text."""
    found = Name.parse(text)
    if found is not None:
        when, count, pid, command, host = text.split(".")
        assert str(found) == text
        assert [found.time, found.count, found.pid] == [int(when), int(count), int(pid)]
        assert all(number.isascii() and number.isdigit() for number in (when, count, pid))
        assert (found.command, found.host) == (command, host)
        assert len(command) <= 16
        assert re.fullmatch("[A-Za-z0-9_]*", command)
    return found


def delayed_file(data):
    """The name is the input up to the first zero byte; the content is the rest.

    - A file of exactly one line that is not too long, not for lonc itself and not sealed is sent as it
      is, removed after the reply, and logged in one line without control characters and passwords.
    - A sealed file waits if no key file is configured; with one it is rejected, as no key opens it.
    - Any other file is rejected and not sent.
    - A file of another host is not touched.
    - The file behind it is sent in any case, except while a file waits for a key file.
    """
    spelled, _, content = data.partition(b"\0")
    text = os.fsdecode(spelled)
    found = name(text)
    if not 0 < len(spelled) < 256 or "/" in text or text in (".", ".."):
        assert found is None
        return
    with tempfile.TemporaryDirectory(dir=_IN_MEMORY) as place:
        with_keys = bool(content) and content[0] & 32 != 0
        _replay(Path(place), text, content, found, with_keys)


def _replay(place, text, content, found, with_keys):
    keys = place / "keys"
    keys.write_text(f"k1:{'0' * 64}\n")
    keys.chmod(0o600)
    settings = Settings(
        "a1",
        socket_directory=place,
        daemons=place,
        max_request=MAX_REQUEST,
        delayed_key_file=keys if with_keys else None,
    )
    directory = settings.delayed_directory
    directory.mkdir()
    settings.log_directory.mkdir()
    (directory / text).write_bytes(content)
    following = f"{'9' * 18}.{'9' * 18}.1.put.l1"
    (directory / following).write_bytes(b"following\n")
    loop, sent, warnings = _FakeLoop(), [], []
    replay = Replay(
        loop,
        settings,
        ("l1",),
        NOT_FOR_LOND.match,
        lambda transaction, since: sent.append(transaction),
        sent.remove,
        warnings.append,
        lambda: None,
    )
    replay.look()
    requests = []
    for _ in range(10):
        while loop.callbacks:
            loop.callbacks.pop()()
            if not sent:
                break
        if not sent:
            break
        requests.append(bytes(sent[0].request))
        sent.pop(0).complete(b"ok\n")
    ours = found is not None and found.host == "l1" and text != following
    may_wait = is_sealed(content) and len(content) <= longest_sealed(MAX_REQUEST + 1)
    if ours and may_wait and not with_keys:
        assert "loncDelayedKeyFile is not set" in warnings[0]
        assert requests == []  # both files wait
        assert set(os.listdir(directory)) == {text, following}
        return
    assert warnings == []
    one_line = len(content) - 1 <= MAX_REQUEST and content.find(b"\n") == len(content) - 1 >= 0
    sound = one_line and own_reply(content) is None and not is_sealed(content)
    assert requests == ([content] if ours and sound else []) + [b"following\n"] * (text != following)
    left = set(os.listdir(directory))
    if ours:
        assert left == (set() if sound else {"bad"})
        assert sound or (directory / "bad" / text).read_bytes() == content
    elif text != following:
        assert left == {text}
        assert (directory / text).read_bytes() == content
    record = settings.perm_log.read_bytes() if requests else b""
    assert record.count(b"\n") == len(requests)
    assert not _CONTROL.search(record.decode(errors="replace"))
    assert b"topsecret" not in record or not content.startswith(b"encrypt:auth:")
