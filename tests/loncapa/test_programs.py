"""What LON-CAPA's own programs do to lonc, with lonc and all of them as the user www."""

import os
import signal
import socket
import stat

import pytest
from support.machine import eventually, exists
from support.perl import AS_WWW, WWW, needs_cipher, needs_perl, needs_root

pytestmark = [needs_perl, needs_root]

QUICK = {"loncDelayedInterval": "0.2", "loncRetryDelay": "0.1", "loncRetryMaxDelay": "0.2"}
DNS = {"loncSocketName": "dns", "loncKeyMode": "insecure"}


def serve(site, **settings):
    """Start lond and lonc for the host l1."""
    start_lond(site)
    start(site, **settings)


def start(site, **settings):
    machine = site.machine
    machine.configure(**{**QUICK, **settings})
    site.hosts(l1=("one.example.org", machine.address(1)))
    machine.start(program=AS_WWW)


def start_lond(site, number=1):
    return site.start_lond(f"l{number}", address=site.machine.address(number), dialogue="classic")


def ping(site, **options):
    return site.client("reply", "l1", "ping", **options)


@pytest.fixture
def dead(www):
    """l1 is DEAD, and will not be tried again by itself for a long time."""
    start(www, loncConnectRetries=1, loncRetryDelay=3600, loncRetryMaxDelay=3600)
    eventually(lambda: www.machine.status()["state"] == "DEAD")
    return www


class TestSignals:
    """lond, when a host connects, and loncron read lonc.pid, ask with `kill 0`, and send a signal."""

    def test_usr1_makes_a_dead_host_be_tried(self, dead):
        start_lond(dead)
        assert dead.client("signal", "USR1") == str(dead.machine.lonc.pid)
        eventually(lambda: dead.machine.status()["state"] == "ready")
        report = dead.machine.pid_file.with_name("lonc_status.txt")
        assert "l1" in eventually(lambda: report.exists() and report.read_text())

    def test_usr1_by_lond_when_a_host_connects_makes_dead_hosts_be_tried(self, www):
        machine = www.machine
        machine.configure(loncConnectRetries=1, loncRetryDelay=3600, loncRetryMaxDelay=3600)
        www.hosts(l1=("one.example.org", machine.address(1)), a1=("a1.example.org", machine.address(2)))
        machine.start(program=AS_WWW)
        eventually(lambda: machine.status("l1")["state"] == machine.status("a1")["state"] == "DEAD")
        start_lond(www)
        # Our own lond, which lonc asks here; any host that connects to it has the same effect.
        www.start_lond("a1", address=machine.address(2), dialogue="classic", wakes=machine.directory)
        www.client("write", "a1", "reset_retries")
        eventually(lambda: machine.status("l1")["state"] == "ready")
        assert ping(www) == "l1"

    def test_hup_takes_both_files(self, www):
        serve(www)
        machine = www.machine
        child = machine.children()["l1"]
        kept = machine.connect()
        start_lond(www, 2)
        www.hosts(l1=("one.example.org", machine.address(1)), l2=("two.example.org", machine.address(2)))
        assert www.client("signal", "HUP") == str(machine.lonc.pid)
        eventually(
            lambda: machine.children().get("l1") not in (None, child) and "l2" in machine.children()
        )
        assert www.client("reply", "l2", "ping") == "l2"
        kept.sendall(b"ping\n")
        assert kept.recv(100) == b"l1\n"

    def test_usr2_takes_the_table_and_leaves_the_children_of_other_hosts(self, www):
        serve(www)
        machine = www.machine
        child = machine.children()["l1"]
        start_lond(www, 2)
        www.hosts(l1=("one.example.org", machine.address(1)), l2=("two.example.org", machine.address(2)))
        assert www.client("signal", "USR2") == str(machine.lonc.pid)
        eventually(lambda: "l2" in machine.children())
        assert www.client("reply", "l2", "ping") == "l2"
        assert machine.children()["l1"] == child

    def test_signals_in_any_order_and_number(self, www):
        serve(www)
        for name in ("USR1", "HUP", "USR1", "USR2", "HUP", "HUP", "USR2", "USR1"):
            assert www.client("signal", name) == str(www.machine.lonc.pid)
        assert ping(www) == "l1"

    def test_term_is_the_end_and_the_pid_file_goes_with_it(self, www):
        serve(www)
        pid = www.machine.lonc.pid
        assert www.client("signal", "TERM") == str(pid)
        eventually(lambda: not exists(pid))
        assert not www.machine.pid_file.exists()

    def test_no_pid_file_is_empty_while_lonc_is_restarted(self, www):
        serve(www)
        over = www.machine.directory / "over"
        watching = www.client("watch", over, wait=False)
        assert watching.stdout.readline() == "watches\n"
        www.machine.start("restart", program=AS_WWW)
        over.touch()
        www.output(watching)


class TestACloseConnectionExitWhoseAnswerNobodyReads:
    @pytest.mark.parametrize(
        ("settings", "lonnet", "name"), [({}, 1, "l1"), (DNS, 2, "one.example.org")]
    )
    def test_the_child_is_replaced_and_no_other_client_notices(self, www, settings, lonnet, name):
        machine = www.machine
        www.start_lond("l1", address=machine.address(1), dialogue="later" if settings else "classic")
        start(www, **settings)
        kept = machine.connect(name)
        for _ in range(3):
            child = machine.children()[name]
            www.client("write", name, "close_connection_exit")
            eventually(lambda child=child: machine.children().get(name) not in (None, child))
            assert ping(www, lonnet=lonnet) == "l1"
        kept.sendall(b"ping\n" if lonnet == 1 else b"sethost:l1:ping\n")
        assert kept.recv(100) == b"l1\n"
        assert "Traceback" not in machine.log()

    def test_a_reset_of_retries_whose_answer_nobody_reads(self, dead):
        start_lond(dead)
        dead.client("write", "l1", "reset_retries")
        eventually(lambda: dead.machine.status()["state"] == "ready")
        assert ping(dead) == "l1"


class TestALockFileThatClientsWaitFor:
    """In the original NAME.lock exists while a socket changes hands; clients wait until it is gone."""

    def test_lonc_serves_a_client_that_has_waited_for_it(self, www):
        serve(www)
        lock = www.machine.sockets / "l1.lock"
        lock.touch()
        os.chown(lock, WWW, WWW)
        asking = www.client("reply", "l1", "ping", wait=False)
        assert www.client("signal", "HUP") == str(www.machine.lonc.pid)
        lock.unlink()
        assert www.output(asking) == "l1"

    def test_one_that_an_ended_daemon_has_left_is_removed_at_the_start(self, www):
        lock = www.machine.sockets / "l1.lock"
        lock.touch()
        os.chown(lock, WWW, WWW)
        serve(www)
        assert not lock.exists()
        assert ping(www) == "l1"

    def test_lonc_leaves_none_when_a_child_ends(self, www):
        serve(www)
        machine = www.machine
        child = machine.children()["l1"]
        os.kill(child, signal.SIGKILL)
        assert ping(www) == "l1"
        eventually(lambda: machine.children().get("l1") not in (None, child))
        assert machine.socket_files() == ["l1"]


def dead_hosts(site):
    """Lines of the log that loncron counts as critical and that say that l1 is DEAD."""
    lines = site.client("log").splitlines()
    return [line for line in lines if "CRITICAL" in line and "DEAD" in line and "l1" in line]


class TestTheLog:
    def test_renamed_under_a_running_daemon_it_begins_anew(self, www):
        serve(www)
        machine = www.machine
        www.client("rotate")
        old = machine.log_file.with_name("lonc.log.1")
        before = old.read_bytes()
        assert www.client("signal", "HUP") == str(machine.lonc.pid)
        eventually(lambda: machine.log_file.exists() and "reload" in machine.log())
        assert old.read_bytes() == before
        www.client("rotate")
        child = machine.children()["l1"]
        os.kill(child, signal.SIGKILL)
        eventually(lambda: machine.log_file.exists() and "l1" in machine.log())
        assert ping(www) == "l1"
        assert machine.log_file.stat().st_uid == WWW

    def test_a_dead_host_is_one_line_that_loncron_counts_as_critical(self, www):
        www.table.write_text("")  # lond knows nobody and closes each connection without a word
        serve(www)
        eventually(lambda: len(www.recorded()) >= 12, 20)
        assert {each[2] for each in www.recorded()} == {"unknown"}
        assert len(dead_hosts(www)) == 1, www.machine.log()
        lines = www.machine.log().splitlines()
        after = lines[lines.index(*dead_hosts(www)) + 1 :]
        assert [line for line in after if "l1" in line and " INFO " not in line] == []

    def test_a_host_that_is_back_and_lost_again_is_critical_again(self, www):
        start(www, loncConnectRetries=1)
        for number in (1, 2):
            eventually(lambda number=number: len(dead_hosts(www)) == number, 5)
            lond = start_lond(www)
            eventually(lambda: ping(www) == "l1")
            www.end(lond)
            assert ping(www) == "con_lost"


class TestThePermanentLog:
    def test_the_records_are_those_that_loncron_counts(self, www):
        start(www)
        eventually(lambda: www.machine.status()["state"] == "DEAD")
        assert www.client("critical", "l1", "user", 3).splitlines() == ["con_delayed"] * 3
        assert www.counts("perm") == {"D": 3, "S": 0, "F": 0, "other": 0, "unsent": 3}
        start_lond(www)
        eventually(lambda: www.counts("perm")["unsent"] == 0)
        assert www.counts("perm") == {"D": 3, "S": 3, "F": 0, "other": 0, "unsent": 0}

    def test_what_could_not_be_saved_is_an_f_beside_those_of_lonc(self, www):
        start(www)
        eventually(lambda: www.machine.status()["state"] == "DEAD")
        (www.machine.sockets / "delayed").chmod(0o500)
        assert www.client("critical", "l1", "user", 1) == "con_failed"
        (www.machine.sockets / "delayed").chmod(0o2770)
        assert www.client("critical", "l1", "user", 1) == "con_delayed"
        start_lond(www)
        eventually(lambda: www.counts("perm")["unsent"] == 0)
        assert www.counts("perm") == {"D": 1, "S": 1, "F": 1, "other": 0, "unsent": 0}

    def test_a_transaction_that_was_dropped_is_one_that_failed(self, www):
        start(www)
        assert www.client("save", "l1", "put:dom:user:nohist:a=1") == "con_delayed"
        assert www.machine.command("delayed", "drop", "--host", "l1", program=AS_WWW).returncode == 0
        # loncron subtracts S from D alone, so to it this one has not been sent.
        assert www.counts("perm") == {"D": 1, "S": 0, "F": 1, "other": 0, "unsent": 1}


class TestFilesInDelayed:
    """lonnet writes them in place, with the mode that its umask leaves."""

    def test_one_of_mode_0644_is_carried_out(self, www):
        start(www)
        request = "put:dom:user:nohist:a=%26&b=:x"
        assert www.client("save", "l1", request) == "con_delayed"
        (file,) = (www.machine.sockets / "delayed").glob("[!.]*.l1")
        assert stat.S_IMODE(file.stat().st_mode) == 0o644
        start_lond(www)
        eventually(lambda: ("l1", "a1", request) in www.recorded())
        eventually(lambda: not file.exists())
        assert [each for each in www.recorded() if each[0] == "l1"] == [("l1", "a1", request)]

    def test_one_that_exists_when_lonc_starts_is_carried_out(self, www):
        (www.machine.sockets / "delayed").mkdir()
        os.chown(www.machine.sockets / "delayed", WWW, WWW)
        (www.machine.sockets / "delayed").chmod(0o755)  # as Perl's lonc has made it
        www.machine.configure(**QUICK)
        www.hosts(l1=("one.example.org", www.machine.address(1)))
        assert www.client("save", "l1", "put:dom:user:nohist:a=1") == "con_delayed"
        serve(www)
        eventually(lambda: ("l1", "a1", "put:dom:user:nohist:a=1") in www.recorded())
        eventually(lambda: www.counts("perm")["unsent"] == 0)

    @needs_cipher
    def test_one_that_is_to_be_enciphered(self, www):
        start(www)
        assert www.client("save", "l1", "encrypt:put:dom:user:passwd:a=secret") == "con_delayed"
        start_lond(www)
        eventually(lambda: ("l1", "a1", "encrypt:put:dom:user:passwd:a=secret") in www.recorded())
        eventually(lambda: www.counts("perm")["unsent"] == 0)
        permanent = (www.machine.pid_file.parent / "lonnet.perm.log").read_text().splitlines()
        # D is lonnet's, which records the request as it is.
        assert [":S:" in line and "secret" in line for line in permanent] == [False, False]


class TestTheSocketDirectory:
    def test_sockets_of_other_daemons_stay(self, www):
        other = www.machine.sockets / "maximasock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(other))
            os.chown(other, WWW, WWW)
            serve(www)
            for name in ("HUP", "USR2"):
                www.client("signal", name)
            assert ping(www) == "l1"
            www.machine.stop()
            assert www.machine.socket_files() == ["maximasock"]

    def test_a_client_that_finds_no_socket_asks_lonsockcreate_for_it(self, www):
        machine = www.machine
        www.start_lond("l1", address=machine.address(1))
        start(www, lonSockCreate=machine.sockets / "create", loncChildren="ondemand", **DNS)
        (machine.sockets / "one.example.org").unlink()
        assert www.client("reply", "l1", "ping", lonnet=2) == "l1"


class TestNamesInAnotherCase:
    def start(self, site, **names):
        machine = site.machine
        machine.configure(lonSockCreate=machine.sockets / "create", **QUICK, **DNS)
        site.hosts(**{id_: (name, machine.address(1)) for id_, name in names.items()})
        site.start_lond(*names, address=machine.address(1), dialogue="later")
        machine.start(program=AS_WWW)

    def test_the_socket_has_the_name_in_the_case_of_the_table(self, www):
        self.start(www, l1="One.Example.ORG")
        assert www.client("reply", "l1", "ping", lonnet=2) == "l1"

    @pytest.mark.parametrize(
        ("table", "asked"),
        [("one.example.org", "One.Example.ORG"), ("One.Example.ORG", "one.example.org")],
    )
    def test_a_client_asks_lonsockcreate_for_the_name_in_another_case(self, www, table, asked):
        self.start(www, l1=table)
        assert www.client("reply", "l1", "ping", lonnet=2, spelled=asked) == "l1"

    def test_two_ids_whose_names_differ_in_case_are_both_served(self, www):
        self.start(www, l1="one.example.org", l3="One.Example.ORG")
        assert [www.client("reply", id_, "ping", lonnet=2) for id_ in ("l1", "l3")] == ["l1", "l3"]

    def test_ids_are_names_with_their_case(self, www):
        machine = www.machine
        machine.configure(**QUICK)
        www.hosts(l1=("one.example.org", machine.address(1)), L1=("two.example.org", machine.address(2)))
        for number, id_ in ((1, "l1"), (2, "L1")):
            www.start_lond(id_, address=machine.address(number), dialogue="classic")
        machine.start(program=AS_WWW)
        assert [www.client("reply", id_, "ping") for id_ in ("l1", "L1")] == ["l1", "L1"]
