"""The user of a request, and which files must be carried out before it."""

import os

import pytest

from lonc.spool import order
from lonc.spool.order import MOST_READ, must_wait, user_of


@pytest.mark.parametrize(
    ("content", "user"),
    [
        (b"put:msu:x:grades:a=1\n", b"msu:x"),
        (b"put:msu:x\n", b"msu:x"),
        (b"encrypt:put:msu:x:grades\n", b"msu:x"),
        (b"store:msu.edu:x.y-z@msu.edu:a", b"msu.edu:x.y-z@msu.edu"),
        (b"put:msu:x", None),  # perhaps only the beginning of the name
        (b"put:msu:\n", None),
        (b"put::x:\n", None),
        (b"put:msu\n", None),
        (b"ping\n", None),
        (b"\n", None),
        (b"", None),
        (b"idput:msu:x=1&y=2\n", None),
        (b"encrypt:encrypt:msu:x\n", None),
        (b"encrypt:msu:x\n", None),
        (b"sethost:l1:put:msu:x\n", None),
        (b"encrypt:sethost:l1:put:msu\n", None),
        (b"lonc:sealed:1:first:AAAA:\n", None),
        (b"put:msu:" + b"x" * order.HEAD + b":\n", None),
    ],
)
def test_the_user_of_a_request(content, user):
    assert user_of(content) == user


def test_no_beginning_of_a_request_has_another_user():
    content = b"encrypt:put:msu:student1:grades:a=1\n"
    for length in range(len(content)):
        assert user_of(content[:length]) in (None, b"msu:student1")


class TestMustWait:
    REQUEST = b"put:msu:x:b"

    def test_without_files_of_the_host_a_request_need_not_wait(self, tmp_path):
        assert not must_wait(tmp_path / "none", self.REQUEST, "l1")
        (tmp_path / "1.0.1.put.l2").write_bytes(b"put:msu:x:a\n")
        (tmp_path / ".1.0.1.put.l1").write_bytes(b"put:msu:x:a\n")
        (tmp_path / "impossible.l1").write_bytes(b"put:msu:x:a\n")
        assert not must_wait(tmp_path, self.REQUEST, "l1")

    @pytest.mark.parametrize(
        "make",
        [
            lambda path: path.write_bytes(b"put:msu:x:a\n"),
            lambda path: path.write_bytes(b""),
            lambda path: path.mkdir(),
            lambda path: os.mkfifo(path),
            lambda path: path.symlink_to("elsewhere"),
        ],
    )
    def test_a_request_waits_for_files_of_its_user_or_of_an_unknown_one(self, tmp_path, make):
        (tmp_path / "1.0.1.put.l1").write_bytes(b"put:msu:y:a\n")
        assert not must_wait(tmp_path, self.REQUEST, "l1")
        make(tmp_path / "2.0.1.put.l1")
        assert must_wait(tmp_path, self.REQUEST, "l1")

    @pytest.mark.parametrize("request_", [b"ping", b"encrypt:encrypt:put:msu:x:b", b"put:msu"])
    def test_a_request_of_an_unknown_user_waits_for_every_file(self, tmp_path, request_):
        assert not must_wait(tmp_path, request_, "l1")
        (tmp_path / "1.0.1.put.l1").write_bytes(b"put:msu:y:a\n")
        assert must_wait(tmp_path, request_, "l1")

    def test_the_user_may_be_the_end_of_the_request(self, tmp_path):
        (tmp_path / "1.0.1.put.l1").write_bytes(b"put:msu:x:a\n")
        assert must_wait(tmp_path, b"dump:msu:x", "l1")
        assert not must_wait(tmp_path, b"dump:msu:y", "l1")

    def test_beyond_the_most_files_to_read_a_request_waits_for_all(self, tmp_path):
        for number in range(MOST_READ):
            (tmp_path / f"1.{number}.1.put.l1").write_bytes(b"put:msu:y:a\n")
        assert not must_wait(tmp_path, self.REQUEST, "l1")
        (tmp_path / "2.0.1.put.l1").write_bytes(b"put:msu:y:a\n")
        assert must_wait(tmp_path, self.REQUEST, "l1")

    def test_a_request_does_not_wait_for_a_file_that_was_just_removed(self, tmp_path, monkeypatch):
        (tmp_path / "1.0.1.put.l1").write_bytes(b"put:msu:x:a\n")

        open_ = os.open

        def open_too_late(path, flags, **named):
            if path == "1.0.1.put.l1":
                os.unlink(path, **named)
            return open_(path, flags, **named)

        monkeypatch.setattr(os, "open", open_too_late)
        assert not must_wait(tmp_path, self.REQUEST, "l1")
