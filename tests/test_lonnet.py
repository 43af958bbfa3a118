import contextlib
import json
import os
import re
import resource
import socket
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support import lonnet_programs
from support.delayed_files import write_keys
from support.machine import eventually, in_child, python_calling, read_line
from support.scripted_lond import ScriptedLond

import lonc
from lonc import lonnet
from lonc.configuration_file import read_settings
from lonc.errors import Misconfigured
from lonc.spool import order, spool

ROOT = Path(__file__).parent.parent


@pytest.fixture
def settings(machine):
    """Of a machine whose socket directory exists, with nobody in it."""
    machine.sockets.mkdir(mode=0o750)
    settings, faults = read_settings(machine.configuration)
    assert faults == []
    return replace(
        settings, connect_timeout=0.5, queue_timeout=0.5, request_timeout=2.0
    )  # a failed test ends soon


@pytest.fixture
def listening(machine, settings):
    """The test plays lonc at the socket of l1."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(machine.sockets / "l1"))
    listening.listen(1)
    listening.settimeout(10)
    yield listening
    listening.close()


@pytest.fixture
def in_background():
    """Runs functions in threads and gives their results, when asked."""
    threads = []

    def start(function):
        results = []
        thread = threading.Thread(target=lambda: results.append(function()))
        threads.append(thread)
        thread.start()

        def result():
            thread.join()
            return results[0]

        return result

    yield start
    for thread in threads:
        thread.join()


def test_a_request_and_its_reply(machine):
    machine.start_lond("l1")
    machine.run()
    settings = machine.settings()
    assert lonnet.reply("ping", "l1", settings=settings) == b"l1"
    assert lonnet.reply(b"echo:\xff", "l1", settings=settings) == b"\xff"
    assert lonnet.reply("echo:", "l1", settings=settings) == b""
    assert lonnet.reply("echo:ü", "l1", settings=settings) == "ü".encode()
    big = os.urandom(1 << 20).hex().encode()
    assert lonnet.reply(b"echo:" + big, "l1", settings=settings) == big


def test_the_usual_configuration_is_found_in_the_environment(machine):
    machine.start_lond("l1")
    machine.run()
    program = python_calling(lonnet_programs.print_reply, "ping", "l1")
    environment = {**os.environ, "LONC_CONF": str(machine.configuration)}
    done = subprocess.run(program, env=environment, capture_output=True)
    assert done.stdout == b"b'l1'\n"
    machine.configuration.write_text(machine.configuration.read_text() + "PerlSetVar loncTypo 1\n")
    done = subprocess.run(program, env=environment, capture_output=True)
    assert done.stdout == b"b'l1'\n"  # what does not disturb lonc does not disturb who asks it


def test_without_a_configuration_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("LONC_CONF", str(tmp_path / "none"))
    lonnet._usual_settings.cache_clear()
    with pytest.raises(Misconfigured, match="none: No such file or directory"):
        lonnet.reply("ping", "l1")


def test_a_request_is_one_line(settings):
    with pytest.raises(ValueError, match="newline"):
        lonnet.reply("one\ntwo", "l1", settings=settings)


def test_a_host_that_is_not_in_the_table(settings, restore_afterwards):
    restore_afterwards(lonnet)
    lonnet.RESTART = 600.0  # it does not wait for that long
    assert lonnet.reply("ping", "nobody", settings=settings) == b"no_such_host"


def test_a_table_that_has_faults_or_is_gone_is_no_proof_that_there_is_no_such_host(machine, settings):
    machine.table.write_text("l1:broken\n")
    assert lonnet.reply("ping", "l1", settings=settings, timeout=0.1) == b"con_lost"
    machine.table.unlink()
    assert lonnet.reply("ping", "l1", settings=settings, timeout=0.1) == b"con_lost"


def test_a_socket_is_found_under_the_name_that_an_earlier_table_had(machine, settings):
    settings = replace(settings, socket_name="dns")
    table = lonnet._HostsTable(settings)
    machine.table.write_text("l1:d:r:old.example:127.0.0.1\n")
    assert table.socket_path("l1").name == "old.example"
    machine.table.write_text("l1:broken\n")
    assert table.socket_path("l1").name == "old.example"
    before = machine.table.stat()
    machine.table.write_text("l1:d:r:n\n ")  # of the same inode and size: the time tells
    os.truncate(machine.table, before.st_size)
    os.utime(machine.table, (before.st_atime + 10, before.st_mtime + 10))
    assert machine.table.stat().st_size == before.st_size
    assert table.socket_path("l1").name == "n"


def test_an_empty_table_is_just_being_written(machine, settings):
    machine.table.write_text("")
    assert lonnet.reply("ping", "l1", settings=settings, timeout=0.1) == b"con_lost"
    assert lonnet.critical("put:x", "l1", settings=settings, timeout=0.1) == b"con_delayed"


def test_a_timeout_may_be_as_long_as_one_likes(machine):
    machine.start_lond("l1")
    machine.run()
    settings = machine.settings()
    assert lonnet.reply("ping", "l1", settings=settings, timeout=float("inf")) == b"l1"


@pytest.mark.parametrize("host", ["", "../sockets/l1", "l1\0", "l" * 200])
def test_what_can_be_no_host_is_not_looked_for(settings, host):
    assert lonnet.reply("ping", host, settings=settings) in (b"no_such_host", b"con_lost")


def test_a_lonc_that_always_closes_is_not_asked_without_pause(settings, listening, in_background):
    result = in_background(lambda: lonnet.reply(b"x" * 500_000, "l1", timeout=1, settings=settings))
    tries = 0
    listening.settimeout(0.2)
    with contextlib.suppress(TimeoutError):
        while listening.accept()[0].close() is None:
            tries += 1
    assert result() == b"con_lost"
    assert 10 < tries <= 1 / lonnet.PAUSE + 1


def test_a_missing_socket_is_waited_for_as_long_as_a_restart_takes(settings, restore_afterwards):
    restore_afterwards(lonnet)
    lonnet.RESTART = 0.3
    begun = time.monotonic()
    assert lonnet.reply("ping", "l1", settings=settings) == b"con_lost"
    assert 0.29 < time.monotonic() - begun < 60


def test_a_lonc_that_comes_back_in_time_is_asked(machine, settings, in_background, restore_afterwards):
    restore_afterwards(lonnet)
    lonnet.RESTART = 60.0  # a loaded machine may start lonc slowly
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(machine.sockets / "l1"))
    dead.close()  # a socket that refuses, as a killed lonc leaves it
    result = in_background(lambda: lonnet.reply("ping", "l1", settings=settings))
    machine.start_lond("l1")
    machine.run()
    assert result() == b"l1"


def test_a_full_backlog_is_tried_again_until_its_own_deadline(
    machine, settings, listening, in_background
):
    waiting = [socket.socket(socket.AF_UNIX)]
    waiting[0].setblocking(False)
    while waiting[-1].connect_ex(str(machine.sockets / "l1")) == 0:
        waiting.append(socket.socket(socket.AF_UNIX))
        waiting[-1].setblocking(False)
    begun = time.monotonic()
    assert lonnet.reply("ping", "l1", timeout=0.5, settings=settings) == b"con_lost"
    assert 0.49 < time.monotonic() - begun < 60
    result = in_background(lambda: lonnet.reply("ping", "l1", timeout=20, settings=settings))
    for _ in range(len(waiting) - 1):
        listening.accept()[0].close()
    connection, _ = listening.accept()
    with connection:
        assert connection.recv(100) == b"ping\n"
        connection.sendall(b"l1\n")
    assert result() == b"l1"
    for client in waiting:
        client.close()


def test_a_request_that_could_not_be_sent_whole_is_asked_again(settings, listening, in_background):
    big = b"x" * 5_000_000
    result = in_background(lambda: lonnet.reply(big, "l1", settings=settings))
    connection, _ = listening.accept()
    connection.recv(1000)
    connection.close()
    connection, _ = listening.accept()
    with connection:
        received = 0
        while received <= len(big):
            received += len(connection.recv(1 << 20))
        connection.sendall(b"second\n")
    assert result() == b"second"


def test_a_request_that_was_sent_is_not_sent_again(settings, listening, in_background):
    result = in_background(lambda: lonnet.reply("ping", "l1", settings=settings))
    connection, _ = listening.accept()
    assert connection.recv(100) == b"ping\n"
    connection.close()
    assert result() == b"con_lost"
    listening.settimeout(0.2)
    with pytest.raises(TimeoutError):
        listening.accept()


def test_half_a_reply_is_none(settings, listening, in_background):
    result = in_background(lambda: lonnet.reply("ping", "l1", settings=settings))
    connection, _ = listening.accept()
    connection.recv(100)
    connection.sendall(b"half")
    connection.close()
    assert result() == b"con_lost"


def test_a_request_that_is_too_long_is_told_even_while_it_is_being_sent(machine):
    machine.configure(loncMaxRequest=1000)
    machine.start_lond("l1")
    machine.run()
    settings = machine.settings()
    for size in (1001, 10_000_000):
        reply = lonnet.reply(b"x" * size, "l1", settings=settings, timeout=30)
        assert reply == b"error: request too long"


def test_a_reply_that_does_not_come_in_time_is_none(machine, in_background):
    with ScriptedLond(
        machine.address(1), machine.port, lambda peer: (peer.greet(), peer.hear(), peer.hear())
    ):
        machine.run()
        settings = machine.settings()
        begun = time.monotonic()
        assert lonnet.reply("ping", "l1", timeout=0.5, settings=settings) == b"con_lost"
        assert time.monotonic() - begun < 60  # lonc's own timeout is longer
        eventually(lambda: machine.status()["clients"] == 1)
        machine.stop()


def test_the_default_timeout_is_longer_than_those_of_lonc(machine, restore_afterwards):
    settings = machine.settings()
    given = []
    restore_afterwards(lonnet.Lonc)
    lonnet.Lonc._try = lambda self, line, host, deadline: given.append(deadline) or b""
    begun = time.monotonic()
    lonnet.reply("ping", "l1", settings=settings)
    lonnet.critical("ping", "l1", settings=settings)
    quick = replace(settings, connect_timeout=1.0, queue_timeout=2.0, request_timeout=3.0)
    lonnet.reply("ping", "l1", settings=quick)
    assert [round(deadline - begun) for deadline in given] == [370, 370, 11]


def test_the_public_api_is_exactly_what_the_documents_describe():
    assert sorted(re.findall(r"`(\w+)`", lonnet.__doc__)) == sorted(lonnet.__all__)
    programs = (ROOT / "doc" / "programs.md").read_text()
    used = set(re.findall(r"\blonnet\.(\w+)\(", programs + lonnet.__doc__))
    assert {"reply", "critical", "Lonc"} <= used <= set(lonnet.__all__)
    assert set(lonnet.__all__) <= set(vars(lonnet))


def test_the_installed_package_says_that_it_has_types():
    assert (Path(lonc.__file__).parent / "py.typed").is_file()


@pytest.fixture
def kept(settings):
    with lonnet.Lonc(settings) as kept:
        yield kept


@pytest.fixture
def serve(listening):
    """The next client of l1, and what it has asked, which is answered."""
    clients = []

    def serve(answer, client=None):
        if client is None:
            client, _ = listening.accept()
            client.settimeout(10)
            clients.append(client)
        request = read_line(client)
        client.sendall(answer)
        return client, request

    yield serve
    for client in clients:
        client.close()


class TestAKeptConnection:
    def test_every_host_has_one_and_all_requests_go_over_it(self, machine):
        machine.hosts("l1", "l2")
        machine.start_lond("l1")
        machine.start_lond("l2")
        machine.run()
        with lonnet.Lonc(machine.settings()) as kept:
            for _ in range(3):
                for host in ("l1", "l2"):
                    assert kept.reply("ping", host) == host.encode()
                    status = kept.reply("lonc:status", host)
                    assert b'"clients":1,' in status
                    assert kept.critical("echo:x", host) == b"x"
        eventually(lambda: machine.status()["clients"] == 1)  # who asks

    def test_one_that_lonc_has_closed_is_noticed_before_anything_is_sent(
        self, kept, serve, in_background
    ):
        result = in_background(lambda: kept.reply("one", "l1"))
        client, _ = serve(b"1\n")
        assert result() == b"1"
        client.close()
        result = in_background(lambda: kept.reply("two", "l1"))
        assert serve(b"2\n")[1] == b"two"
        assert result() == b"2"

    def test_one_that_breaks_while_the_request_is_being_sent_is_made_anew(
        self, kept, serve, in_background
    ):
        result = in_background(lambda: kept.reply("one", "l1"))
        client, _ = serve(b"1\n")
        assert result() == b"1"
        client.shutdown(socket.SHUT_RD)  # as a lonc that drains: from here it looks sound
        result = in_background(lambda: kept.reply("two", "l1"))
        client.close()
        assert serve(b"2\n")[1] == b"two"
        assert result() == b"2"

    def test_one_that_closed_after_the_request_was_sent_gets_no_second(
        self, kept, serve, in_background, listening
    ):
        result = in_background(lambda: kept.reply("one", "l1"))
        client, _ = serve(b"1\n")
        assert result() == b"1"
        result = in_background(lambda: kept.reply("two", "l1"))
        assert read_line(client) == b"two"
        client.close()
        assert result() == b"con_lost"
        listening.settimeout(0.1)
        with pytest.raises(TimeoutError):
            listening.accept()

    @pytest.mark.parametrize("when", ["with the reply", "after it"])
    def test_what_nobody_asked_for_is_no_reply(self, kept, serve, in_background, when):
        result = in_background(lambda: kept.reply("one", "l1"))
        client, _ = serve(b"1\nstray\n" if when == "with the reply" else b"1\n")
        assert result() == b"1"
        if when == "after it":
            client.sendall(b"stray\n")
        result = in_background(lambda: kept.reply("two", "l1"))
        assert serve(b"2\n")[1] == b"two"
        assert result() == b"2"
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""  # it is closed

    def test_a_reply_that_comes_too_late_is_not_the_next_ones(self, kept, serve, in_background):
        result = in_background(lambda: kept.reply("one", "l1"))
        client, _ = serve(b"1\n")
        assert result() == b"1"
        result = in_background(lambda: kept.reply("slow", "l1", timeout=0.05))
        assert read_line(client) == b"slow"
        assert result() == b"con_lost"
        with contextlib.suppress(BrokenPipeError):
            client.sendall(b"late\n")
        result = in_background(lambda: kept.reply("two", "l1"))
        assert serve(b"2\n")[1] == b"two"
        assert result() == b"2"

    def test_who_is_interrupted_keeps_no_connection(
        self, kept, serve, in_background, restore_afterwards
    ):
        result = in_background(lambda: kept.reply("one", "l1"))
        client, _ = serve(b"1\n")
        assert result() == b"1"

        def interrupt(*_):
            raise KeyboardInterrupt

        restore_afterwards(lonnet)
        lonnet._remaining = interrupt
        with pytest.raises(KeyboardInterrupt):
            kept.reply("two", "l1")
        assert client.recv(1) == b""

    def test_one_that_was_told_while_it_was_sending_is_not_kept(self, machine):
        machine.configure(loncMaxRequest=1000)
        machine.start_lond("l1")
        machine.run()
        with lonnet.Lonc(machine.settings()) as kept:
            for _ in range(3):
                assert kept.reply("ping", "l1") == b"l1"
                assert kept.reply(b"x" * 10_000_000, "l1") == b"error: request too long"

    def test_a_process_that_was_forked_opens_its_own(self, kept, serve, in_background):
        result = in_background(lambda: kept.reply("one", "l1"))
        client, _ = serve(b"1\n")
        assert result() == b"1"

        def forked():
            answer = kept.reply("forked", "l1")
            kept.close()
            return answer.decode()

        result = in_background(lambda: in_child(forked))
        other, request = serve(b"f\n")
        assert (request, result()) == (b"forked", "f")
        assert other.recv(1) == b""
        result = in_background(lambda: kept.reply("two", "l1"))
        assert serve(b"2\n", client)[1] == b"two"  # over the old one
        assert result() == b"2"

    def test_a_replaced_child_is_not_noticed(self, machine):
        machine.start_lond("l1")
        machine.run()
        with lonnet.Lonc(machine.settings()) as kept:

            def child():
                return json.loads(kept.reply("lonc:status", "l1"))["pid"]

            for _ in range(3):
                assert kept.reply("ping", "l1") == b"l1"
                before = child()
                assert kept.reply("close_connection_exit", "l1") == b"ok"
                eventually(lambda before=before: child() != before)

    def test_after_a_restart_there_is_a_new_one(self, machine):
        machine.start_lond("l1")
        machine.run()
        with lonnet.Lonc(machine.settings()) as kept:
            assert kept.reply("ping", "l1") == b"l1"
            machine.stop()
            machine.run()
            assert kept.reply("ping", "l1") == b"l1"

    def test_a_host_that_has_left_is_no_such_host(self, machine, kept, serve, in_background, listening):
        result = in_background(lambda: kept.reply("one", "l1"))
        client, _ = serve(b"1\n")
        assert result() == b"1"
        client.close()
        (machine.sockets / "l1").unlink()
        machine.hosts("l2")
        assert kept.reply("two", "l1") == b"no_such_host"

    def test_after_close_the_next_request_opens_one(self, kept, serve, in_background):
        for number in (b"1", b"2"):
            result = in_background(lambda: kept.reply("x", "l1"))
            client, _ = serve(number + b"\n")
            assert result() == number
            kept.close()
            assert client.recv(1) == b""

    def test_without_a_descriptor_there_is_no_connection(self, kept):
        def without():
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
            return kept.reply("x", "l1").decode()

        assert in_child(without) == "con_lost"


@pytest.fixture
def perm_log(settings):
    """The records so far, without their times."""
    settings.log_directory.mkdir()

    def read():
        if not settings.perm_log.exists():
            return []
        return [
            line.split(b":", 1)[1].rsplit(b":", 3)[0]
            for line in settings.perm_log.read_bytes().splitlines()
        ]

    return read


def waiting(settings):
    names, _ = spool.waiting(settings.delayed_directory)
    return [(settings.delayed_directory / str(name)).read_bytes() for name in names]


class TestCritical:
    def test_what_lond_answers_is_the_answer_and_nothing_is_saved(self, machine):
        machine.start_lond("l1")
        machine.run()
        settings = machine.settings()
        assert lonnet.critical("echo:con_delayed?", "l1", settings=settings) == b"con_delayed?"
        assert lonnet.critical("nonsense", "l1", settings=settings) == b"unknown_cmd"
        assert waiting(settings) == []
        assert settings.perm_log.read_bytes() == b""

    def test_it_is_tried_twice_and_the_second_answer_counts(self, kept, serve, in_background, perm_log):
        result = in_background(lambda: kept.critical("put:x", "l1"))
        client, request = serve(b"con_lost\n")
        assert request == b"put:x"
        assert serve(b"ok\n", client)[1] == b"put:x"
        assert result() == b"ok"
        assert perm_log() == []

    def test_what_is_lost_twice_is_saved_and_recorded(
        self, settings, kept, serve, in_background, perm_log, listening
    ):
        result = in_background(lambda: kept.critical("put:ü", "l1"))
        client, _ = serve(b"con_lost\n")
        serve(b"con_lost\n", client)
        assert result() == b"con_delayed"
        assert waiting(settings) == ["put:ü\n".encode()]
        assert perm_log() == ["D:l1:put:ü".encode()]

    def test_where_others_wait_it_is_saved_behind_them_and_not_sent(
        self, settings, kept, listening, perm_log
    ):
        spool.save(settings, b"first", "l1")
        assert kept.critical("second", "l1") == b"con_delayed"
        assert kept.critical("encrypt:third:secret", "l1") == b"con_delayed"
        assert waiting(settings) == [b"first\n", b"second\n", b"encrypt:third:secret\n"]
        assert perm_log() == [b"D:l1:second", b"D:l1:encrypt:third"]
        listening.settimeout(0)
        with pytest.raises(BlockingIOError):
            listening.accept()

    @pytest.mark.parametrize(
        ("older", "request_"),
        [
            (b"put:msu:x:a", b"put:msu:x:b"),
            (b"encrypt:put:msu:x:a", b"del:msu:x:b"),
            (b"put:msu:x:a", b"encrypt:auth:msu:x"),
            (b"ping", b"put:msu:x:b"),
            (b"put:msu:x:a", b"put:msu"),
            (b"put:msu:" + b"x" * 1000, b"put:msu:x:b"),
        ],
    )
    def test_behind_one_of_the_same_user_or_of_none_it_is_saved(
        self, settings, kept, listening, older, request_
    ):
        spool.save(settings, older, "l1")
        assert kept.critical(request_, "l1") == b"con_delayed"
        assert waiting(settings) == [older + b"\n", request_ + b"\n"]
        listening.settimeout(0)
        with pytest.raises(BlockingIOError):
            listening.accept()

    @pytest.mark.parametrize("request_", [b"put:msu:x:b", b"encrypt:put:msu:x:b", b"del:other:y"])
    def test_past_those_of_other_users_it_is_sent(self, settings, kept, serve, in_background, request_):
        spool.save(settings, b"put:msu:y:" + b"a" * 1000, "l1")
        (settings.delayed_directory / "1.0.1.put.l1").write_bytes(b"encrypt:put:msu:z:being writ")
        result = in_background(lambda: kept.critical(request_, "l1"))
        serve(b"ok\n")
        assert result() == b"ok"

    def test_past_a_sealed_one_nothing_is_sent(self, machine, settings, listening):
        write_keys(machine.directory / "keys", "first")
        settings = replace(settings, delayed_key_file=machine.directory / "keys")
        spool.save(settings, b"put:msu:y:a", "l1")
        assert lonnet.critical(b"put:msu:x:a", "l1", settings=settings) == b"con_delayed"
        listening.settimeout(0)
        with pytest.raises(BlockingIOError):
            listening.accept()

    def test_past_more_than_some_hundreds_nothing_is_sent(
        self, settings, kept, listening, restore_afterwards
    ):
        restore_afterwards(order)
        order.MOST_READ = 2
        for _ in range(3):
            spool.save(settings, b"put:msu:y:a", "l1")
        assert kept.critical(b"put:msu:x:a", "l1") == b"con_delayed"
        listening.settimeout(0)
        with pytest.raises(BlockingIOError):
            listening.accept()

    def test_what_waits_for_others_is_in_nobodys_way(self, settings, kept, serve, in_background):
        spool.save(settings, b"first", "l2")
        result = in_background(lambda: kept.critical("second", "l1"))
        serve(b"ok\n")
        assert result() == b"ok"

    def test_the_timeout_is_for_each_try(self, settings, kept, listening, in_background):
        begun = time.monotonic()
        assert kept.critical("x", "l1", timeout=0.2) == b"con_delayed"
        assert 0.4 <= time.monotonic() - begun < 60
        for _ in range(2):  # each over a connection of its own
            client, _ = listening.accept()
            assert client.recv(10) == b"x\n"
            client.close()

    def test_what_cannot_be_saved_has_failed_and_is_recorded(self, settings, kept, perm_log):
        settings.delayed_directory.touch()
        assert kept.critical("x", "l1", timeout=0.01) == b"con_failed"
        assert perm_log() == [b"F:l1:x"]

    def test_more_files_than_a_host_may_have_are_not_saved(self, settings, perm_log):
        settings = replace(settings, max_delayed=2)
        answers = [lonnet.critical("x", "l1", timeout=0.01, settings=settings) for _ in range(3)]
        assert answers == [b"con_delayed", b"con_delayed", b"con_failed"]
        assert lonnet.critical("x", "l2", timeout=0.01, settings=settings) == b"no_such_host"
        assert len(waiting(settings)) == 2
        assert perm_log() == [b"D:l1:x", b"D:l1:x", b"F:l1:x"]

    def test_more_bytes_than_a_host_may_have_are_not_saved(self, machine, settings, perm_log):
        machine.hosts("l1", "l2")
        settings = replace(settings, max_delayed_bytes=20)
        answers = [
            lonnet.critical(request, "l1", timeout=0.01, settings=settings)
            for request in ("123456789", "123456789 too long", "123456789", "")
        ]
        assert answers == [b"con_delayed", b"con_failed", b"con_delayed", b"con_failed"]
        assert lonnet.critical("123", "l2", timeout=0.01, settings=settings) == b"con_delayed"
        assert sorted(len(each) for each in waiting(settings)) == [4, 10, 10]

    def test_what_cannot_be_sealed_has_failed_and_is_nowhere_in_clear(self, machine, settings, perm_log):
        keys = machine.directory / "keys"
        settings = replace(settings, delayed_key_file=keys)
        assert lonnet.critical("put:secret", "l1", timeout=0.01, settings=settings) == b"con_failed"
        write_keys(keys, "first")
        assert lonnet.critical("put:secret", "l1", timeout=0.01, settings=settings) == b"con_delayed"
        (content,) = waiting(settings)
        assert content.startswith(b"lonc:sealed:1:first:")
        assert perm_log() == [b"F:l1:put", b"D:l1:put"]

    @pytest.mark.parametrize(
        "words",
        [
            "loncDelayedKeyFile keys",
            "loncDelayedKeyFile /keys # ours",
            'loncDelayedKeyFile "/keys',
            "loncDelayedKeyfile /keys",
        ],
    )
    def test_a_key_file_that_is_not_named_properly_is_one_that_cannot_be_used(self, machine, words):
        machine.sockets.mkdir(0o750)
        machine.configuration.write_text(f"{machine.configuration.read_text()}PerlSetVar {words}\n")
        program = python_calling(lonnet_programs.print_critical, "put:secret", "l1", 0.01)
        environment = {**os.environ, "LONC_CONF": str(machine.configuration)}
        done = subprocess.run(program, env=environment, capture_output=True)
        assert done.stdout == b"b'con_failed'\n"
        assert os.listdir(machine.sockets) == []

    def test_a_directory_that_cannot_be_read_keeps_nobody_from_asking(
        self, settings, kept, serve, in_background
    ):
        settings.delayed_directory.touch()
        result = in_background(lambda: kept.critical("x", "l1"))
        serve(b"ok\n")
        assert result() == b"ok"

    @pytest.mark.parametrize("host", ["nobody", "", "../l1", "delayed", "l" * 200])
    def test_for_a_host_that_is_not_in_the_table_nothing_is_saved(self, settings, kept, perm_log, host):
        spool.make_directory(settings.delayed_directory)
        assert kept.critical("x", host, timeout=0.01) == b"no_such_host"
        assert os.listdir(settings.delayed_directory) == []
        assert perm_log() == []

    def test_for_a_host_that_has_left_the_table_nothing_more_is_saved(self, settings, kept):
        spool.save(settings, b"first", "gone")
        assert kept.critical("second", "gone", timeout=0.01) == b"no_such_host"
        assert waiting(settings) == [b"first\n"]

    def test_where_the_table_has_faults_the_host_may_be_in_it(self, machine, settings, kept):
        machine.table.write_text("broken\n")
        assert kept.critical("x", "l1", timeout=0.01) == b"con_delayed"

    def test_what_lonc_would_never_take_is_not_saved(self, settings):
        settings = replace(settings, max_request=10)
        answer = lonnet.critical("x" * 11, "l1", timeout=0.01, settings=settings)
        assert answer == b"error: request too long"
        assert lonnet.critical("x" * 10, "l1", timeout=0.01, settings=settings) == b"con_delayed"

    def test_a_request_is_one_line(self, kept):
        with pytest.raises(ValueError, match="newline"):
            kept.critical("one\ntwo", "l1")

    def test_without_a_lonc_it_waits_for_a_restart_and_then_saves(self, machine):
        machine.run()
        machine.stop()
        settings = machine.settings()
        assert lonnet.critical("x", "l1", settings=settings) == b"con_delayed"
        assert waiting(settings) == [b"x\n"]
