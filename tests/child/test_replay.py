"""A Replay over a real directory; the test plays the pool and lond."""

import errno
import fcntl
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support.delayed_files import locked, write_keys

from lonc.child import replay
from lonc.child.replay import FileState, Replay, _File
from lonc.configuration import Settings
from lonc.errors import LoncError
from lonc.runtime import slices
from lonc.runtime.event_loop import EventLoop
from lonc.spool import admin, spool
from lonc.spool.locks import SpoolLocks
from lonc.spool.sealing import longest_sealed, read_keys


@pytest.fixture(autouse=True)
def soon(restore_afterwards):
    """LOOK_AGAIN is shorter than a second here."""
    restore_afterwards(replay)
    replay.LOOK_AGAIN = 0.05


class Bench:
    """`sent` are the requests in their order; the last of them is in flight, its file known `since`."""

    def __init__(self, directory):
        self.settings = Settings(socket_directory=directory, daemons=directory, max_request=1000)
        self.directory = self.settings.delayed_directory
        self.directory.mkdir()
        self.settings.log_directory.mkdir()
        self.loop = EventLoop()
        self.sent = []
        self.errors = []
        self.rests = 0
        self.transaction = None
        self.dead = False
        self.tries = 0
        self.replay = self.make()

    def make(self):
        return Replay(
            self.loop,
            self.settings,
            ("l1",),
            lambda request: request.startswith(b"exit"),
            self.take,
            lambda transaction: None,
            self.errors.append,
            self.rest,
        )

    def rest(self):
        self.rests += 1

    def take(self, transaction, since):
        self.tries += 1
        if self.dead:
            transaction.fail("the host is DEAD")
            return
        assert self.transaction is None, "two in flight"
        self.transaction = transaction
        self.since = since
        self.sent.append(transaction.request)

    def file(self, name, content=b"put:a\n"):
        path = self.directory / name
        path.write_bytes(content)
        return path

    def look(self):
        """Two looks."""
        self.replay.look()
        self.turn_until(lambda: self.replay._next_look is None and not self.replay._continues)

    def turn_until(self, done):
        deadline = time.monotonic() + 10
        while not done():
            assert time.monotonic() < deadline
            self.loop.turn(0.1)

    def answer(self, reply=b"ok\n"):
        transaction, self.transaction = self.transaction, None
        transaction.complete(reply)

    def fail(self):
        transaction, self.transaction = self.transaction, None
        transaction.fail("lost")

    def states(self):
        return [file.state for file in self.replay._files.values()]

    def left(self):
        return sorted(os.listdir(self.directory))

    def records(self):
        return [line.split(":", 1)[1] for line in self.settings.perm_log.read_text().splitlines()]


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.replay.leave()
    if bench.transaction is not None:
        bench.fail()
    bench.loop.close()


def test_files_are_carried_out_oldest_first_as_numbers_and_one_at_a_time(bench):
    for name in ("10.0.1.put.l1", "9.10.1.put.l1", "9.9.1.put.l1", "9.9.1.put.l2", "8.0.1.put.l11"):
        bench.file(name, name.encode() + b"\n")
    bench.look()
    for number in range(1, 4):
        assert len(bench.sent) == number
        bench.answer()
    assert bench.sent == [b"9.9.1.put.l1\n", b"9.10.1.put.l1\n", b"10.0.1.put.l1\n"]
    assert bench.left() == ["8.0.1.put.l11", "9.9.1.put.l2"]
    assert [record.split(":")[:3] for record in bench.records()] == [
        ["S", "l1", "9.9.1.put.l1"],
        ["S", "l1", "9.10.1.put.l1"],
        ["S", "l1", "10.0.1.put.l1"],
    ]


def test_an_unfinished_file_and_those_behind_it_wait(bench):
    being_written = bench.file("1.0.1.put.l1", b"put:fir")
    bench.file("2.0.1.put.l1", b"put:second\n")
    bench.replay.look()
    with being_written.open("ab") as file:
        file.write(b"st\n")
    bench.turn_until(lambda: bench.sent)
    assert bench.sent == [b"put:first\n"]


def test_a_file_without_a_reply_is_kept_and_those_behind_it_wait(bench):
    bench.file("1.0.1.put.l1", b"first\n")
    bench.file("2.0.1.put.l1", b"second\n")
    bench.look()
    bench.fail()
    assert bench.sent == [b"first\n"]
    assert len(bench.left()) == 2
    bench.replay.look()
    assert bench.sent == [b"first\n", b"first\n"]
    bench.answer(b"error: no such user\n")  # any reply will do
    assert bench.sent[2] == b"second\n"


def test_a_dead_host_costs_one_try(bench):
    bench.file("1.0.1.put.l1")
    bench.file("2.0.1.put.l1")
    bench.dead = True
    bench.look()
    assert bench.tries == 1
    assert len(bench.left()) == 2
    assert not bench.replay.in_flight
    assert bench.replay.waiting == 2


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b"put:a", "it is cut off: it has no newline"),
        (b"put:a\nput:b\n", "it is more than one line"),
        (b"x" * 1001 + b"\n", "it is longer than 1000 bytes"),
        (b"exit\n", "it is not for lond"),
        (Path.mkdir, "it is no file"),
        (
            lambda path: path.symlink_to("2.0.1.put.l1"),
            "cannot read it: Too many levels of symbolic links",
        ),
        (os.mkfifo, "it is no file"),
    ],
)
def test_a_file_that_can_never_be_carried_out_is_rejected_and_delays_no_other(
    bench, content, why, caplog
):
    path = bench.directory / "1.0.1.put.l1"
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)
    bench.file("2.0.1.put.l1", b"good\n")
    bench.look()
    assert bench.sent == [b"good\n"]
    assert os.listdir(bench.directory / "bad") == ["1.0.1.put.l1"]
    assert f"bad: {why}" in caplog.text


def test_an_unreadable_file_is_tried_once_more(bench, monkeypatch):
    bench.file("1.0.1.put.l1", b"first\n")
    bench.file("2.0.1.put.l1", b"second\n")
    with monkeypatch.context() as failing:
        failing.setattr(os, "read", _fails)
        bench.replay.look()
        bench.turn_until(lambda: FileState.UNREADABLE_ONCE in bench.states())
    bench.turn_until(lambda: bench.sent)
    assert bench.sent == [b"first\n"]


def test_a_file_unreadable_twice_is_rejected(bench, monkeypatch, caplog):
    bench.file("1.0.1.put.l1", b"first\n")
    bench.replay.look()
    with monkeypatch.context() as failing:
        failing.setattr(os, "read", _fails)
        bench.turn_until(lambda: bench.left() == ["bad"])
    assert "bad: cannot read it: it fails" in caplog.text
    assert bench.states() == []


def test_a_file_that_was_written_after_it_could_not_be_read_is_another(bench, monkeypatch):
    path = bench.file("1.0.1.put.l1", b"first\n")
    bench.replay.look()
    with monkeypatch.context() as failing:
        failing.setattr(os, "read", _fails)
        bench.turn_until(lambda: bench.states() == [FileState.UNREADABLE_ONCE])
        path.write_bytes(b"second\n")
        bench.turn_until(lambda: bench.states() == [FileState.SEEN])
    bench.turn_until(lambda: bench.sent)
    assert bench.sent == [b"second\n"]


class Several(Bench):
    """`flights` are the transactions in flight, by their request; at most two at a time."""

    def __init__(self, directory):
        super().__init__(directory)
        self.flights = {}
        self.settings = replace(self.settings, max_connections=3)
        self.replay = self.make()

    def take(self, transaction, since):
        self.sent.append(transaction.request)
        self.flights[transaction.request] = transaction

    def save(self, *requests):
        for request in requests:
            spool.save(self.settings, request, "l1")

    def reply_to(self, *requests):
        for request in requests:
            self.flights.pop(request + b"\n").complete(b"ok\n")

    def in_flight(self):
        return [request[:-1] for request in self.flights]


@pytest.fixture
def several(tmp_path):
    several = Several(tmp_path)
    yield several
    several.replay.leave()
    for transaction in several.flights.values():
        transaction.fail("the end")
    several.loop.close()


X1, X2, X3, Y1, Y2, Z1 = (b"put:msu:%b:file:%d" % (user, n) for user, n in [
    (b"x", 1), (b"x", 2), (b"x", 3), (b"y", 1), (b"y", 2), (b"z", 1)
])  # fmt: skip


class TestOurs:
    """Files of our own writer need no second look."""

    def test_an_own_file_is_carried_out_at_the_first_look(self, several):
        several.save(X1)
        several.replay.look()
        assert several.in_flight() == [X1]

    def test_a_resealed_file_keeps_its_mark(self, several, tmp_path):
        several.save(X1)
        keys = write_keys(tmp_path / "keys", "first")
        several.settings = replace(several.settings, delayed_key_file=keys)
        (entry,) = admin.waiting(several.settings)
        admin.reseal(several.settings, read_keys(keys), entry)
        several.replay = several.make()
        several.replay.look()
        assert several.in_flight() == [X1]

    @pytest.mark.parametrize("content", [b"", b"put:msu:x:fi"])
    def test_an_incomplete_file_with_the_mark_is_waited_for(self, several, content):
        path = several.file("5.0.1.put.l1", content)
        os.utime(path, (5, 5))  # as on a file system without fractions of a second
        several.replay.look()
        assert several.states() == [FileState.SEEN]
        path.write_bytes(X1 + b"\n")
        several.turn_until(lambda: several.in_flight() == [X1])
        assert several.left() == ["5.0.1.put.l1"]

    def test_an_impossible_time_in_a_name_is_no_error(self, several):
        several.file(f"{10**17}.0.1.put.l1", X1 + b"\n")
        several.save(X2)
        several.look()
        assert several.in_flight() == [X1]

    def test_own_files_saved_meanwhile_are_carried_out_at_once(self, several):
        several.save(X1)
        several.replay.look()
        for request, following in [(X1, X2), (X2, X3)]:
            several.save(following)
            several.reply_to(request)
            assert several.in_flight() == [following]

    def test_an_early_look_settles_no_file(self, several):
        several.save(X1, Y1)
        several.replay.look()
        several.file(f"{10**10}.0.1.put.l1", b"put:z:half a req")
        several.reply_to(X1, Y1)
        assert several.states() == [FileState.SEEN]
        assert not os.path.exists(several.directory / "bad")


class TestSideBySide:
    """Order is kept among the files of a user; one connection carries no delayed ones."""

    def test_files_of_two_users_and_of_no_third(self, several):
        several.save(X1, X2, Y1, Z1)
        several.replay.look()
        assert several.in_flight() == [X1, Y1]
        several.reply_to(Y1)
        assert several.in_flight() == [X1, Z1]
        several.reply_to(X1)
        assert several.in_flight() == [Z1, X2]

    @pytest.mark.parametrize(("connections", "most"), [(1, 1), (2, 1), (3, 2), (5, 4)])
    def test_on_all_connections_but_one(self, several, connections, most):
        several.settings = replace(several.settings, max_connections=connections)
        several.replay = several.make()
        several.save(X1, Y1, Z1, b"put:msu:u:file", b"put:msu:v:file")
        several.replay.look()
        assert len(several.flights) == most

    def test_those_of_one_user_one_at_a_time(self, several):
        several.save(X1, X2, X3, Y1, Y2)
        several.replay.look()
        several.reply_to(Y1)
        several.reply_to(Y2)
        assert several.in_flight() == [X1]
        several.reply_to(X1)
        assert several.in_flight() == [X2]
        several.reply_to(X2)
        several.reply_to(X3)
        assert several.sent == [each + b"\n" for each in (X1, Y1, Y2, X2, X3)]
        assert several.left() == []

    @pytest.mark.parametrize("unknown", [b"get", b"put:a", b"idput:msu:x=1", b"sethost:l1:put:msu:x:y"])
    def test_a_file_of_an_unknown_user_waits_for_all_and_all_for_it(self, several, unknown):
        several.save(X1, Y1, unknown, X2, Z1)
        several.replay.look()
        several.reply_to(X1)
        assert several.in_flight() == [Y1]
        several.reply_to(Y1)
        assert several.in_flight() == [unknown]
        several.reply_to(unknown)
        assert several.in_flight() == [X2, Z1]

    def test_after_a_rejected_file_the_next_of_its_user_follows_in_order(self, several):
        several.save(X1, X2, X3, Y1)
        several.replay.look()
        names = sorted(os.listdir(several.directory), key=lambda text: spool.Name.parse(text))
        (several.directory / names[1]).write_bytes(b"exit:msu:x:\n")  # changed
        several.reply_to(X1)
        several.turn_until(lambda: X3 in several.in_flight())
        assert several.sent == [each + b"\n" for each in (X1, Y1, X3)]
        assert os.listdir(several.directory / "bad") == [names[1]]

    def test_after_a_failure_no_other_starts_before_a_look(self, several):
        several.save(X1, X2, Y1, Y2, Z1)
        several.replay.look()
        several.flights.pop(X1 + b"\n").fail("lost")
        assert several.in_flight() == [Y1]
        several.reply_to(Y1)
        assert several.in_flight() == []
        several.turn_until(lambda: several.flights)
        assert several.in_flight() == [X1, Y2]

    def test_a_limited_number_is_read_in_advance(self, several, restore_afterwards):
        restore_afterwards(replay)
        replay.MOST_BEHIND = 2
        several.save(X1, X2, X3, b"put:msu:x:file:4", Y1)
        several.replay.look()
        assert several.in_flight() == [X1]
        several.reply_to(X1)
        assert several.in_flight() == [X2, Y1]

    def test_sealed_files_of_two_users_are_carried_out_side_by_side(self, several, tmp_path):
        keys = write_keys(tmp_path / "keys", "first")
        several.settings = replace(several.settings, delayed_key_file=keys)
        several.replay = several.make()
        several.save(X1, X2, Y1)
        several.replay.look()
        assert several.in_flight() == [X1, Y1]

    def test_leaving_drops_all_queued_transactions(self, several):
        several.save(X1, Y1)
        several.replay.look()
        taken_back = []
        several.replay._drop = taken_back.append
        several.replay.leave()
        assert taken_back == list(several.flights.values())
        several.reply_to(X1, Y1)
        assert several.left() == []


SAME, CHANGED = (1, 6, 1000), [(2, 6, 1000), (1, 7, 1000), (1, 6, 1001)]
LOOKS = {
    FileState.SEEN: (FileState.SETTLED, FileState.SEEN),
    FileState.WHOLE: (FileState.SETTLED, FileState.SEEN),
    FileState.SETTLED: (FileState.SETTLED, FileState.SEEN),
    FileState.UNREADABLE_ONCE: (FileState.UNREADABLE_ONCE, FileState.SEEN),
    FileState.IN_FLIGHT: (FileState.IN_FLIGHT, FileState.IN_FLIGHT),
    FileState.DONE: (FileState.DONE, FileState.DONE),
}


@pytest.mark.parametrize("state", FileState)
def test_a_look_leads_from_each_state_to_one(state):
    unchanged, changed = LOOKS[state]
    assert _File(state, SAME).looked_at(SAME) is unchanged
    for fingerprint in CHANGED:
        assert _File(state, SAME).looked_at(fingerprint) is changed


def test_a_look_that_fails_while_one_is_in_flight_changes_nothing(bench, restore_afterwards):
    for number in (1, 2):
        bench.file(f"{number}.0.1.put.l1", b"%d\n" % number)
    bench.look()
    bench.file("3.0.1.put.l1", b"3\n")
    restore_afterwards(replay)
    oldest = replay.oldest
    replay.oldest = _fails
    bench.replay._look()
    replay.oldest = oldest
    assert bench.errors == [f"cannot read {bench.directory}: it fails"]
    assert bench.states() == [FileState.IN_FLIGHT, FileState.SETTLED]
    bench.answer()
    bench.answer()
    bench.turn_until(lambda: len(bench.sent) == 3)
    assert bench.sent == [b"1\n", b"2\n", b"3\n"]


def test_a_look_while_one_is_in_flight_finds_the_others(bench):
    bench.file("1.0.1.put.l1", b"1\n")
    bench.look()
    bench.file("2.0.1.put.l1", b"2\n")
    bench.replay._look()
    assert bench.states() == [FileState.IN_FLIGHT, FileState.SEEN]
    bench.replay.look()  # changes nothing: it goes on already
    assert bench.states() == [FileState.IN_FLIGHT, FileState.SEEN]
    bench.answer()
    bench.turn_until(lambda: len(bench.sent) == 2)


def test_without_a_reply_it_is_settled_and_is_sent_again_at_the_next_look(bench):
    bench.file("1.0.1.put.l1", b"1\n")
    bench.look()
    bench.fail()
    assert bench.states() == [FileState.SETTLED]
    assert not bench.replay.in_flight
    bench.replay.look()
    assert bench.sent == [b"1\n"] * 2


def test_a_file_replaced_by_a_similar_one_is_not_sent_yet(bench):
    """Of the same size and time, but another file: its writer may not have finished."""
    path = bench.file("1.0.1.put.l1", b"one\n")
    os.utime(path, (0, 0))
    bench.replay.look()
    other = bench.file(".other", b"two\n")
    os.utime(other, (0, 0))
    other.rename(path)
    bench.replay._look()
    assert (bench.states(), bench.sent) == ([FileState.SEEN], [])
    bench.replay._look()
    assert bench.sent == [b"two\n"]


def test_the_file_that_is_sent_is_the_one_of_the_last_look(bench, monkeypatch):
    """Not a file that had its name only while it was opened."""
    path = bench.file("1.0.1.put.l1", b"one\n")
    os.utime(path, (0, 0))
    bench.replay.look()
    original = os.open

    def open_another(name, *more, **named):
        if name != path.name:
            return original(name, *more, **named)
        monkeypatch.setattr(os, "open", original)
        other = bench.file(".other", b"two\n")
        os.utime(other, (0, 0))
        return original(other.name, *more, **named)

    monkeypatch.setattr(os, "open", open_another)
    bench.turn_until(lambda: os.open is original)
    assert bench.sent == []
    bench.turn_until(lambda: bench.sent)
    assert bench.sent == [b"one\n"]


def test_how_many_wait_and_since_when(bench):
    assert (bench.replay.waiting, bench.replay.oldest) == (0, None)
    for name in ("9.0.1.put.l1", "10.0.1.put.l1", "8.0.1.put.l2"):
        bench.file(name)
    bench.look()
    assert (bench.replay.waiting, bench.replay.oldest) == (2, 9)
    bench.answer()
    assert (bench.replay.waiting, bench.replay.oldest) == (1, 10)


def test_a_file_has_waited_since_its_first_look_also_after_a_failure(bench):
    first_look = bench.loop.now
    bench.file("1.0.1.put.l1")
    bench.look()
    assert bench.since == first_look
    bench.fail()
    bench.replay.look()
    assert len(bench.sent) == 2
    assert bench.since == first_look


def test_a_file_that_is_gone_when_its_turn_comes_is_forgotten(bench):
    bench.file("1.0.1.put.l1", b"1\n")
    second = bench.file("2.0.1.put.l1", b"2\n")
    bench.file("3.0.1.put.l1", b"3\n")
    bench.look()
    second.unlink()
    bench.answer()
    assert bench.sent == [b"1\n", b"3\n"]
    assert bench.replay.waiting == 1


@pytest.mark.parametrize(("by_dns", "sent"), [(True, b"sethost:l1:put:a\n"), (False, b"put:a\n")])
def test_where_a_child_serves_several_ids_the_request_names_its_own(bench, by_dns, sent):
    bench.replay._by_dns = by_dns
    bench.file("1.0.1.put.l1")
    bench.look()
    assert bench.sent == [sent]


def test_leaving_drops_a_queued_transaction(bench):
    taken_back = []
    bench.replay._drop = taken_back.append
    bench.replay.leave()
    assert taken_back == []
    bench.replay._leaving = False
    bench.file("1.0.1.put.l1")
    bench.look()
    bench.replay.leave()
    assert taken_back == [bench.transaction]


def test_a_file_that_grows_while_it_is_read_is_not_sent(bench, monkeypatch):
    file = bench.file("1.0.1.put.l1", b"put:a\n")
    read = os.read

    def grow(fd, size):
        with file.open("ab") as writer:
            writer.write(b"put:b\n")
        return read(fd, size)

    monkeypatch.setattr(os, "read", grow)
    bench.look()
    assert bench.sent == []
    assert bench.left() == ["bad"]


def test_a_file_in_flight_is_locked_for_every_other_process(bench):
    file = bench.file("1.0.1.put.l1")
    bench.look()
    locks = SpoolLocks(bench.settings)
    with file.open() as other:
        assert not locks.take(other.fileno())
        bench.answer()
        assert locks.take(other.fileno())
        locks.release(other.fileno())


def test_a_file_that_another_child_has_locked_is_waited_for(bench):
    path = bench.file("1.0.1.put.l1", b"first\n")
    bench.file("2.0.1.put.l1", b"second\n")
    with locked(bench.settings, path):
        bench.replay.look()
        begun = time.monotonic()
        while time.monotonic() - begun < 1.5:
            bench.loop.turn(0.1)
        assert bench.sent == []
        path.unlink()
    bench.turn_until(lambda: bench.sent)
    assert bench.sent == [b"second\n"]


def test_a_leaving_child_starts_no_file_and_completes_the_one_in_flight(bench):
    bench.file("1.0.1.put.l1")
    bench.file("2.0.1.put.l1")
    bench.look()
    bench.replay.leave()
    assert bench.replay.in_flight
    rests = bench.rests
    bench.answer()
    assert bench.rests > rests
    assert bench.left() == ["2.0.1.put.l1"]
    bench.replay.look()
    assert len(bench.sent) == 1


def test_a_file_that_cannot_be_removed_is_not_carried_out_twice(bench, monkeypatch):
    bench.file("1.0.1.put.l1", b"first\n")
    bench.file("2.0.1.put.l1", b"second\n")
    bench.look()
    with monkeypatch.context() as failing:
        failing.setattr(os, "unlink", _fails)
        bench.answer()
        bench.answer()
    assert bench.sent == [b"first\n", b"second\n"]
    assert "cannot be removed: it fails" in bench.errors[0]
    bench.turn_until(lambda: bench.left() == [])
    assert len(bench.sent) == 2


def test_the_next_child_does_not_carry_out_a_file_that_could_not_be_removed(bench, monkeypatch):
    bench.file("1.0.1.put.l1", b"first\n")
    bench.look()
    with monkeypatch.context() as failing:
        failing.setattr(os, "unlink", _fails)
        bench.answer()
        bench.replay.leave()
        bench.replay = bench.make()
        failing.setattr(os, "rename", _fails)
        bench.look()
        assert bench.sent == [b"first\n"]
    assert "is rejected (it is empty), and cannot be moved: it fails" in bench.errors[-1]


def test_a_file_that_cannot_be_removed_is_emptied_as_that_file_and_not_by_its_name(bench, monkeypatch):
    path = bench.file("1.0.1.put.l1", b"first\n")
    victim = bench.directory.parent / "keys"
    victim.write_text("precious\n")
    bench.look()
    path.rename(bench.directory / "elsewhere")
    path.symlink_to(victim)
    with monkeypatch.context() as failing:
        failing.setattr(os, "unlink", _fails)
        bench.answer()
    assert victim.read_text() == "precious\n"
    assert path.is_symlink()  # it is not the file that was carried out


def test_a_file_with_a_second_name_is_rejected(bench):
    """The other name may be any file of this file system, which would be sent and emptied."""
    precious = bench.directory.parent / "keys"
    precious.write_text("one line\n")
    (bench.directory / "1.0.1.put.l1").hardlink_to(precious)
    bench.look()
    assert (bench.sent, bench.left()) == ([], ["bad"])
    assert precious.read_text() == "one line\n"


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes files of other users")
def test_where_files_of_others_cannot_be_removed_they_wait(bench, monkeypatch):
    """In a sticky directory of a third user they would be carried out again and again."""
    path = bench.file("1.0.1.put.l1")
    os.chown(path, 1, 1)
    os.chown(bench.directory, 2, 2)
    bench.directory.chmod(0o3777)
    monkeypatch.setattr(os, "geteuid", lambda: 3)
    bench.look()
    assert bench.sent == []
    why = f"cannot remove files of other users in {bench.directory}"
    assert bench.errors == [f"delayed transactions wait: {why}"]


def test_in_a_directory_without_write_permission_no_file_is_carried_out(bench, monkeypatch):
    bench.file("1.0.1.put.l1", b"first\n")
    with monkeypatch.context() as failing:
        failing.setattr(os, "access", lambda *_: False)
        bench.look()
        assert bench.sent == []
        assert bench.errors == [f"delayed transactions wait: cannot write {bench.directory}"]
    bench.replay.look()
    assert bench.sent == [b"first\n"]


def test_a_permanent_log_that_cannot_be_written_delays_no_file(bench):
    bench.settings.log_directory.rmdir()
    bench.file("1.0.1.put.l1")
    bench.look()
    bench.answer()
    assert bench.left() == []
    assert "cannot write" in bench.errors[0]


def replace_open(monkeypatch, function):
    """Replace os.open, and return what it was."""
    original = os.open
    monkeypatch.setattr(os, "open", function)
    return original


def replace_lock(monkeypatch, function):
    original = fcntl.fcntl
    monkeypatch.setattr(fcntl, "fcntl", function)
    return original


@pytest.mark.parametrize("replace", [replace_open, replace_lock])
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOLCK])
def test_a_shortage_of_this_machine_makes_files_wait_and_rejects_none(
    bench, monkeypatch, number, replace
):
    open_ = os.open

    def fail(subject, *more, **named):
        if replace is replace_lock or subject == "1.0.1.put.l1":
            raise OSError(number, os.strerror(number))
        return open_(subject, *more, **named)

    bench.file("1.0.1.put.l1")
    bench.replay.look()
    with monkeypatch.context() as failing:
        replace(failing, fail)
        for _ in range(3):
            bench.turn_until(lambda: bench.replay._next_look is None)
            bench.replay.look()
        assert bench.replay._next_look is None
    assert bench.errors[-1] == f"delayed transactions wait: {os.strerror(number)}"
    assert bench.left() == ["1.0.1.put.l1"]
    bench.replay.look()
    assert bench.sent


def test_files_saved_meanwhile_are_carried_out_too(bench):
    bench.file("1.0.1.put.l1")
    bench.look()
    bench.file("2.0.1.put.l1", b"late\n")
    bench.answer()
    bench.turn_until(lambda: len(bench.sent) == 2)
    bench.answer()
    bench.turn_until(lambda: bench.replay._next_look is None)
    assert bench.left() == []


NAME = "1.0.1.put.l1"


@pytest.fixture
def sealed(bench, tmp_path):
    """The bench, with a key file; `sealed.seal(name, line)` is a file, sealed with its first key."""
    bench.settings = replace(
        bench.settings, delayed_key_file=write_keys(tmp_path / "keys", "first", "old")
    )
    bench.replay = bench.make()

    def seal(name, line=b"put:a\n"):
        keys = read_keys(bench.settings.delayed_key_file)
        return bench.file(name, keys.seal(line, "l1", name))

    bench.seal = seal
    return bench


def test_sealed_and_plain_files_are_carried_out_in_one_order(sealed):
    sealed.seal("1.0.1.put.l1", b"one\n")
    sealed.file("2.0.1.put.l1", b"two\n")
    sealed.seal("3.0.1.put.l1", b"put:three:secret\n")
    sealed.look()
    for _ in range(3):
        sealed.answer()
    assert sealed.sent == [b"one\n", b"two\n", b"put:three:secret\n"]
    assert sealed.left() == []
    assert [record.split(":")[:4] for record in sealed.records()][2][2] == "put"
    assert "secret" not in sealed.settings.perm_log.read_text()


def test_changed_keys_are_used_at_once(sealed):
    sealed.seal("1.0.1.put.l1", b"one\n")
    sealed.look()
    write_keys(sealed.settings.delayed_key_file, "new", "first")
    sealed.seal("2.0.1.put.l1", b"two\n")
    sealed.answer()
    sealed.turn_until(lambda: len(sealed.sent) == 2)
    assert sealed.sent == [b"one\n", b"two\n"]


def test_a_sealed_file_with_any_byte_altered_is_rejected(sealed):
    length = len(sealed.seal(NAME).read_bytes())
    for place in range(length):
        path = sealed.seal(f"2.{place}.1.put.l1")
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(content)
    sealed.look()
    sealed.answer()
    assert sealed.sent == [b"put:a\n"]
    sealed.turn_until(lambda: not sealed.replay._continues)
    assert len(os.listdir(sealed.directory / "bad")) == length


def test_a_sealed_file_cut_anywhere_is_rejected(sealed):
    length = len(sealed.seal(NAME).read_bytes())
    for place in range(length):
        os.truncate(sealed.seal(f"2.{place}.1.put.l1"), place)
    sealed.look()
    sealed.answer()
    assert sealed.sent == [b"put:a\n"]
    sealed.turn_until(lambda: not sealed.replay._continues)
    assert len(os.listdir(sealed.directory / "bad")) == length


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (
            lambda bench: bench.seal("2.0.1.put.l1").rename(bench.directory / NAME),
            "or renamed",
        ),
        (
            lambda bench: (bench.seal(NAME), write_keys(bench.settings.delayed_key_file, "old")),
            "it is sealed with the key first, which is not in ",
        ),
        (lambda bench: bench.seal(NAME, b""), "it is empty"),
        (lambda bench: bench.seal(NAME, b"put:a"), "it is cut off: it has no newline"),
        (lambda bench: bench.seal(NAME, b"put:a\nput:b\n"), "it is more than one line"),
        (lambda bench: bench.seal(NAME, b"exit\n"), "it is not for lond"),
        (lambda bench: bench.seal(NAME, b"x" * 1001 + b"\n"), "it is longer than 1000 bytes"),
        (
            lambda bench: bench.file(NAME, b"x" * longest_sealed(1001) + b"\n"),
            "it is longer than 1000 bytes",
        ),
    ],
)
def test_a_sealed_file_that_does_not_open_or_may_not_be_sent_is_rejected(sealed, make, why, caplog):
    make(sealed)
    sealed.file("3.0.1.put.l1", b"good\n")
    sealed.look()
    assert sealed.sent == [b"good\n"]
    assert os.listdir(sealed.directory / "bad") == [NAME]
    assert why in caplog.text


def test_the_longest_request_may_be_sealed(sealed):
    sealed.seal(NAME, b"x" * 1000 + b"\n")
    sealed.look()
    assert sealed.sent == [b"x" * 1000 + b"\n"]


@pytest.mark.parametrize("trouble", ["gone", "mode", "nonsense"])
def test_without_keys_all_files_wait_and_none_is_rejected(sealed, trouble):
    keys = sealed.settings.delayed_key_file
    sealed.seal("1.0.1.put.l1", b"one\n")
    sealed.file("2.0.1.put.l1", b"two\n")
    if trouble == "gone":
        keys.rename(keys.with_name("elsewhere"))
    elif trouble == "mode":
        keys.chmod(0o644)
    else:
        keys.write_text("nonsense\n")
    sealed.look()
    assert sealed.sent == []
    assert len(sealed.left()) == 2
    (errors,) = sealed.errors
    assert errors.startswith(f"delayed transactions wait: {keys}:")
    keys.unlink(missing_ok=True)
    write_keys(keys, "first")
    sealed.replay.look()
    sealed.answer()
    assert sealed.sent == [b"one\n", b"two\n"]


JUST_THEN = pytest.mark.parametrize(
    "replace", [replace_open, replace_lock], ids=["before it opens", "before it locks"]
)


def just_before(monkeypatch, replace, path, act):
    """Once, just before that file is opened or any file is locked, call `act`."""
    acted = []

    def late(subject, *more, **named):
        if replace is replace_lock or subject == path.name:
            replace(monkeypatch, original)
            acted.append(subject)
            act()
        return original(subject, *more, **named)

    original = replace(monkeypatch, late)
    return lambda: acted


@JUST_THEN
def test_a_file_resealed_while_its_turn_comes_is_carried_out_once(sealed, monkeypatch, replace):
    path = sealed.seal(NAME, b"one\n")
    os.utime(path, (0, 0))
    keys = sealed.settings.delayed_key_file
    entry = admin.find(sealed.settings, NAME, False)

    def reseal(*ids):
        admin.reseal(sealed.settings, read_keys(write_keys(keys, *ids)), entry)

    sealed.replay.look()
    acted = just_before(monkeypatch, replace, path, lambda: reseal("second", "first"))
    sealed.turn_until(acted)
    assert sealed.sent == []
    sealed.turn_until(lambda: sealed.sent)
    assert admin.sealed_with(entry) == "second"
    with pytest.raises(LoncError, match="it is in flight"):
        reseal("third", "second")
    sealed.answer()
    sealed.turn_until(lambda: sealed.replay._next_look is None)
    assert (sealed.sent, sealed.left()) == ([b"one\n"], [])


@JUST_THEN
def test_a_file_dropped_while_its_turn_comes_is_not_carried_out(sealed, monkeypatch, replace):
    path = sealed.seal(NAME, b"one\n")
    entry = admin.find(sealed.settings, NAME, False)
    sealed.replay.look()
    acted = just_before(monkeypatch, replace, path, lambda: admin.drop(sealed.settings, entry))
    sealed.turn_until(acted)
    sealed.turn_until(lambda: sealed.replay._next_look is None)
    assert (sealed.sent, sealed.left()) == ([], [])
    assert [record.split(":")[:3] for record in sealed.records()] == [["F", "l1", "one"]]


def test_without_a_key_file_sealed_files_wait(sealed):
    sealed.seal(NAME)
    sealed.settings = replace(sealed.settings, delayed_key_file=None)
    sealed.replay = sealed.make()
    sealed.look()
    assert (sealed.sent, sealed.left()) == ([], [NAME])
    path = sealed.directory / NAME
    assert sealed.errors == [
        f"delayed transactions wait: {path}: it is sealed, and loncDelayedKeyFile is not set"
    ]


def _fails(*_, **__):
    raise OSError(5, "it fails")


class TestManyFiles:
    """Only the oldest are looked at, and the directory is read in slices."""

    def test_all_are_carried_out_oldest_first_and_counted(self, bench, restore_afterwards):
        restore_afterwards(replay)
        replay.MOST_KNOWN = 3
        names = [f"{number}.0.1.put.l1" for number in range(1, 11)]
        for name in reversed(names):
            bench.file(name, name.encode() + b"\n")
        bench.look()
        for number, name in enumerate(names):
            bench.turn_until(lambda number=number: len(bench.sent) == number + 1)
            assert bench.sent[-1] == name.encode() + b"\n"
            assert len(bench.replay._files) <= 3
            if number == 0:
                assert (bench.replay.waiting, bench.replay.oldest) == (10, 1)
            bench.answer()
        assert bench.left() == []
        bench.turn_until(lambda: bench.replay.waiting == 0)

    def test_a_file_in_flight_stays_known_though_older_ones_appear(self, bench, restore_afterwards):
        restore_afterwards(replay)
        replay.MOST_KNOWN = 2
        bench.file("9.0.1.put.l1", b"9\n")
        bench.look()
        for number in (1, 2, 3):
            bench.file(f"{number}.0.1.put.l1", b"%d\n" % number)
        bench.replay._look()
        assert FileState.IN_FLIGHT in bench.states()
        bench.fail()
        for number in range(2, 6):
            bench.replay._look()
            bench.turn_until(lambda number=number: len(bench.sent) == number)
            bench.answer()
        assert bench.sent == [b"9\n", b"1\n", b"2\n", b"3\n", b"9\n"]

    def test_few_files_are_taken_in_a_turn_of_the_loop(self, bench):
        count = 3 * replay.MOST_TAKEN
        for number in range(count):
            path = bench.file(f"{number}.0.1.put.l1", b"no newline")
            os.utime(path, (0, 0))
        bench.replay.look()
        bench.turn_until(lambda: not bench.replay._next_look)
        left = []
        while len(bench.left()) > 1:  # `bad` stays
            left.append(len(bench.left()))
            bench.loop.turn(0)
            assert len(left) < 20
        assert len(left) >= 2

    def test_an_unchanged_directory_is_not_read_again(self, bench, restore_afterwards):
        for number in (1, 2):
            bench.file(f"{number}.0.1.put.l1", b"%d\n" % number)
        os.utime(bench.directory, (0, 0))
        bench.dead = True
        bench.look()
        restore_afterwards(replay)
        replay.oldest = _fails
        for _ in range(2):
            bench.look()
        assert bench.errors == []
        bench.dead = False
        bench.look()
        assert bench.sent == [b"1\n"]
        bench.file("3.0.1.put.l1")
        bench.replay._look()
        assert bench.errors == [f"cannot read {bench.directory}: it fails"]

    def test_a_child_that_leaves_reads_no_further(self, bench, restore_afterwards):
        restore_afterwards(slices)
        slices.SLICE = 1
        bench.file("1.0.1.put.l1")
        bench.replay.look()
        assert bench.replay._slices.under_way
        bench.replay.leave()
        bench.loop.turn(0)
        assert not bench.replay._slices.under_way
        assert bench.sent == []
