"""The daemon's user: how the daemon becomes it, which permissions it needs, how it runs then."""

import ctypes
import grp
import os
import pwd
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest
from support import preparations
from support.import_record import record_imports
from support.machine import (
    AS_NOBODY,
    LONC,
    Machine,
    children_of,
    eventually,
    exists,
    in_child,
    program,
    read_line,
)

from lonc import lonnet
from lonc.configuration import Settings
from lonc.configuration_file import Configuration
from lonc.demo.certificate_authority import Authority
from lonc.errors import CannotStart
from lonc.hosts import Table
from lonc.lifecycle.instance import make_directories
from lonc.lifecycle.privileges import (
    answered_as,
    become,
    hand_over,
    identity,
    missing_permissions,
    require_closed,
)
from lonc.sources import Sources
from lonc.spool import spool

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")

NOBODY = pwd.getpwnam("nobody")
GROUP = grp.getgrgid(NOBODY.pw_gid).gr_name
UID, GID = NOBODY.pw_uid, NOBODY.pw_gid
STRANGER = 54321  # an unused number of a user and group

NO_NEW_PRIVS, MDWE = 38, 65  # of prctl
PR_MDWE_REFUSE_EXEC_GAIN = 1


def of(pid, what):
    """Lines of /proc/PID/status, by their names."""
    text = Path(f"/proc/{pid}/status").read_text()
    return re.search(rf"^{what}:(.*)$", text, re.M)[1].split()


def family(machine):
    return [machine.lonc.pid, *children_of(machine.lonc.pid)]


def owner_and_mode(path):
    found = path.lstat()
    return found.st_uid, found.st_gid, oct(stat.S_IMODE(found.st_mode))


def saying(uid, gid, function):
    """The result of `function` in a process with that user and group, and no other group."""

    def run():
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        return function()

    return in_child(run)


def assert_nothing_left_of_root(pid):
    assert of(pid, "Uid") == [str(UID)] * 4
    assert of(pid, "Gid") == [str(GID)] * 4
    assert of(pid, "Groups") == []
    assert of(pid, "CapEff") == of(pid, "CapPrm") == of(pid, "CapInh") == of(pid, "CapAmb") == ["0" * 16]
    assert of(pid, "Umask") == ["0027"]
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert re.search(r"^Max core file size +(\S+) +(\S+)", limits, re.M).groups() == ("0", "0")


@pytest.fixture
def theirs(public):
    """A machine of two hosts whose lonc becomes nobody."""
    public.hosts("l1", "l2")
    public.configure(loncUser="nobody")
    return public


class TestIdentity:
    def test_without_loncuser_the_user_stays_the_same(self):
        assert identity(Settings()) is None

    def test_the_group_is_that_of_the_user_unless_another_is_named(self):
        assert identity(Settings(user="nobody")).gid == GID
        daemon = grp.getgrnam("daemon").gr_gid
        who = identity(Settings(user="nobody", group="daemon"))
        assert (who.uid, who.gid, who.user, who.group) == (UID, daemon, "nobody", "daemon")

    def test_an_unknown_user_is_an_error(self):
        with pytest.raises(
            CannotStart, match=r"no such user or group \(loncUser, loncGroup\): .*not found"
        ):
            identity(Settings(user="nobodys"))

    @needs_root
    def test_there_is_no_way_back(self):
        def ids():
            os.setgroups([1, 2, 3])
            become(identity(Settings(user="nobody", group="daemon")))
            ways = [
                lambda: os.setuid(0),
                lambda: os.seteuid(0),
                lambda: os.setresuid(-1, 0, -1),
                lambda: os.setgid(0),
                lambda: os.setgroups([0]),
            ]
            for way in ways:
                with pytest.raises(PermissionError):
                    way()
            become(
                identity(Settings(user="nobody", group="daemon"))
            )  # nothing to do: it is that user already
            return f"{os.getresuid()} {os.getresgid()} {os.getgroups()}"

        daemon = grp.getgrnam("daemon").gr_gid
        assert in_child(ids) == f"{(UID,) * 3} {(daemon,) * 3} []"

    @needs_root
    def test_only_root_can_become_another_user(self):
        def become_nobody():
            try:
                become(identity(Settings(user="nobody")))
            except CannotStart as error:
                return str(error)

        why = f"only root can become nobody:{GROUP} (loncUser, loncGroup)"
        assert saying(STRANGER, GID, become_nobody) == why
        assert saying(UID, STRANGER, become_nobody) == why

    @needs_root
    def test_a_question_answered_as_another_user_leaves_this_process_unchanged(self):
        who = identity(Settings(user="nobody"))
        assert answered_as(who, lambda: [str(os.getuid()), str(os.getgid())]) == [str(UID), str(GID)]
        assert os.getuid() == 0
        assert answered_as(who, lambda: 1 // 0) == ["cannot tell what nobody (loncUser) may do"]
        assert answered_as(None, lambda: ["here"]) == ["here"]


class TestHandingOver:
    @needs_root
    def test_only_files_and_directories_of_root_are_handed_over(self, tmp_path):
        who = identity(Settings(user="nobody", group="daemon"))
        file, directory = tmp_path / "file", tmp_path / "directory"
        file.touch()
        directory.mkdir()
        hand_over(file, who)
        hand_over(directory, who, group=True)
        assert owner_and_mode(file)[:2] == (UID, 0)
        assert owner_and_mode(directory)[:2] == (UID, who.gid)

        victim, twice, another = tmp_path / "victim", tmp_path / "twice", tmp_path / "another's"
        for path in (victim, twice, another):
            path.touch()
        os.chown(another, STRANGER, STRANGER)
        linked, hard = tmp_path / "linked", tmp_path / "hard"
        linked.symlink_to(victim)
        hard.hardlink_to(twice)
        os.mkfifo(tmp_path / "fifo")
        for path in (linked, hard, another, tmp_path / "fifo"):
            before = owner_and_mode(path)
            hand_over(path, who)
            assert owner_and_mode(path) == before
        assert owner_and_mode(victim)[0] == owner_and_mode(twice)[0] == 0
        with pytest.raises(FileNotFoundError):
            hand_over(tmp_path / "none", who)

    @pytest.mark.parametrize(
        ("mode", "closed"), [(0o2775, True), (0o751, True), (0o2772, False), (0o777, False)]
    )
    def test_a_path_that_all_users_can_write_to_is_refused(self, tmp_path, mode, closed):
        tmp_path.chmod(mode)
        if closed:
            require_closed(tmp_path, "lonSockDir")
        else:
            with pytest.raises(CannotStart) as refusal:
                require_closed(tmp_path, "lonSockDir")
            sentence = f"everybody can write to {tmp_path} (lonSockDir): chmod o-w {tmp_path}"
            assert str(refusal.value) == sentence
        tmp_path.chmod(0o700)
        require_closed(tmp_path / "none", "lonSockDir")


def no_faults(settings):
    """Files without faults, as `missing_permissions` loads them."""
    return lambda: Sources(Configuration(settings), Table())


@needs_root
def test_a_directory_of_the_user_needs_all_three_permissions(public):
    who = identity(Settings(user="nobody"))
    sockets = public.directory / "directory"
    sockets.mkdir()
    os.chown(sockets, who.uid, 0)  # its group matters only with the set-group-ID bit
    settings = Settings(socket_directory=sockets, daemons=public.directory)
    load = no_faults(settings)
    for mode in (0o300, 0o500, 0o600, 0o700):
        sockets.chmod(mode)
        expected = [f"nobody (loncUser) cannot write {sockets}: chmod u+rwX {sockets}"]
        missing = answered_as(who, lambda: missing_permissions(who, settings, [], load))
        assert missing == (expected if mode != 0o700 else [])


@needs_root
def test_a_directory_above_must_let_the_user_enter_not_list(public):
    who = identity(Settings(user="nobody"))
    above = public.directory / "above"
    sockets = above / "sockets"
    sockets.mkdir(parents=True)
    os.chown(sockets, who.uid, who.gid)
    settings = Settings(socket_directory=sockets, daemons=public.directory)
    load = no_faults(settings)
    for mode, expected in (
        (0o711, []),
        (0o744, [f"nobody (loncUser) cannot enter {above}: chmod o+x {above}"]),
    ):
        above.chmod(mode)
        missing = answered_as(who, lambda: missing_permissions(who, settings, [], load))
        assert missing == expected


@needs_root
def test_a_link_in_place_of_a_new_directory_is_not_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.mkdir()
    victim.chmod(0o755)

    def make(name, mode, dir_fd):
        os.symlink(victim, name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", make)
    settings = Settings(socket_directory=tmp_path / "sockets", daemons=tmp_path, user="nobody")
    with pytest.raises(CannotStart, match=r"cannot make .*sockets"):
        make_directories(settings, identity(settings))
    assert owner_and_mode(victim) == (0, 0, "0o755")


def _careless():
    """Environment, umask, limits … inherited from the user who starts lonc."""
    os.setgroups([4, 5])
    os.umask(0)
    resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))


@needs_root
@pytest.mark.parametrize("command", [Machine.start, Machine.run])
class TestStartedAsRoot:
    def test_parent_and_children_run_as_the_user_without_other_groups(self, theirs, command):
        command(theirs, preexec_fn=_careless)
        assert len(family(theirs)) == 3
        for pid in family(theirs):
            assert_nothing_left_of_root(pid)
        before = theirs.children()
        os.kill(before["l1"], signal.SIGKILL)  # replaced after a death, after a reload
        eventually(lambda: theirs.children().get("l1") not in (None, before["l1"]))
        assert theirs.command("reload").returncode == 0
        eventually(lambda: not exists(before["l2"]))
        assert len(family(theirs)) == 3
        for pid in family(theirs):
            assert_nothing_left_of_root(pid)

    def test_created_files_belong_to_the_user_and_have_the_configured_modes(self, theirs, command):
        theirs.configure(loncUser="nobody", loncGroup="daemon", loncSocketMode="0640")
        command(theirs, preexec_fn=_careless)
        daemon = grp.getgrnam("daemon").gr_gid
        logs = theirs.pid_file.parent
        expected = {
            theirs.sockets: "0o750",
            theirs.sockets / "l1": "0o640",
            theirs.sockets / "delayed": "0o3770",
            logs: "0o750",
            logs / "lonc.pid": "0o644",
            logs / "lonc.ctl": "0o600",
        }
        if command == Machine.start:
            expected[logs / "lonc.log"] = "0o640"
        assert {path: owner_and_mode(path) for path in expected} == {
            path: (UID, daemon, mode) for path, mode in expected.items()
        }

    def test_the_working_directory_may_be_one_that_the_user_cannot_enter(
        self, theirs, command, monkeypatch
    ):
        closed = theirs.directory / "closed"
        closed.mkdir(mode=0o700)
        monkeypatch.chdir(closed)
        command(theirs)
        assert theirs.command("status").returncode == 0
        assert theirs.command("reload").returncode == 0
        assert theirs.command("stop").returncode == 0

    def test_children_end_with_a_parent_that_is_killed(self, theirs, command):
        command(theirs)
        before = children_of(theirs.lonc.pid)
        assert len(before) == 2
        for child in before:
            os.kill(child, signal.SIGSTOP)  # it cannot notice the parent's death itself
        theirs.lonc.kill()
        theirs.lonc.wait()
        eventually(lambda: not any(map(exists, before)), 1)

    def test_without_loncuser_created_files_belong_to_root(self, theirs, command):
        theirs.configure()
        command(theirs, preexec_fn=_careless)
        for pid in family(theirs):
            assert of(pid, "Uid") == ["0"] * 4
            assert of(pid, "Groups") == ["4", "5"]
            assert of(pid, "Umask") == ["0027"]


@needs_root
class TestLifeAsTheUser:
    def test_hosts_are_added_and_removed_and_missing_sockets_bound_again(self, theirs):
        theirs.start()
        theirs.hosts("l1", "l3")
        (theirs.sockets / "l1").unlink()
        assert theirs.command("update").stdout == b"updated, 2 hosts; new or changed: l3; gone: l2\n"
        assert theirs.socket_files() == ["l1", "l3"]
        theirs.hosts("l4")
        assert theirs.command("reload").returncode == 0
        assert theirs.socket_files() == ["l4"]
        assert owner_and_mode(theirs.sockets / "l4") == (UID, GID, "0o660")
        assert theirs.status("l4")["state"] in ("connecting", "DEAD")
        assert theirs.command("stop").stdout == b"lonc is stopped\n"
        assert theirs.socket_files() == []
        assert not theirs.pid_file.exists()

    def test_log_and_status_file_are_still_written(self, theirs):
        theirs.start()
        theirs.log_file.rename(theirs.log_file.with_name("lonc.log.1"))
        theirs.lonc.send_signal(signal.SIGUSR1)
        status = theirs.log_file.with_name("lonc_status.txt")
        eventually(lambda: status.exists() and theirs.log_file.exists())
        assert owner_and_mode(theirs.log_file) == (UID, GID, "0o640")
        assert owner_and_mode(status)[0] == UID

    def test_root_and_the_user_may_send_orders_and_others_may_not(self, theirs):
        theirs.start()
        for command in (LONC, AS_NOBODY):
            assert theirs.command("status", program=command).returncode == 0
            assert theirs.command("reload", program=command).returncode == 0
            assert theirs.command("start", program=command).stdout.startswith(b"lonc is running already")
        stranger = program(preparations.become, STRANGER)
        for command in ("status", "reload", "stop"):
            assert theirs.command(command, program=stranger).returncode == 4
        first = theirs.lonc.pid
        assert theirs.command("restart", program=AS_NOBODY).returncode == 0
        assert not exists(first)
        theirs.start()  # it runs already
        assert_nothing_left_of_root(theirs.lonc.pid)
        assert theirs.command("restart").returncode == 0
        theirs.start()
        assert_nothing_left_of_root(theirs.lonc.pid)
        assert theirs.command("stop", program=AS_NOBODY).stdout == b"lonc is stopped\n"

    def test_it_starts_as_the_user_without_root(self, theirs):
        theirs.sockets.mkdir(mode=0o750)
        theirs.pid_file.parent.mkdir(mode=0o750)
        for directory in (theirs.sockets, theirs.pid_file.parent):
            os.chown(directory, UID, GID)
        theirs.start(program=AS_NOBODY)
        for pid in family(theirs):
            assert_nothing_left_of_root(pid)

    def test_no_other_user_can_start_it(self, theirs):
        stranger = program(preparations.become, STRANGER)
        why = f"only root can become nobody:{GROUP} (loncUser, loncGroup)"
        for directory in (theirs.sockets, theirs.pid_file.parent):
            directory.mkdir(mode=0o750)
        for command in ("start", "run"):
            done = theirs.command(command, program=stranger)
            assert (done.returncode, done.stderr.decode()) == (1, f"lonc: {why}\n")
        done = theirs.command("check", program=stranger)
        warning = f"{theirs.configuration}: warning: it will not start: {why}"
        assert warning in done.stdout.decode().splitlines()
        assert done.returncode == 1

    def test_it_imports_no_module_after_its_start(self, theirs):
        """The user may have no access to Python's files: later imports must not be needed."""
        imported = theirs.directory / "imported"
        imported.touch()
        imported.chmod(0o666)
        theirs.start_lond("l1")
        theirs.table.write_text(theirs.table.read_text() + "l3:dom:library:localhost\n")
        theirs.configure(loncUser="nobody", loncDelayedInterval=0.1)
        theirs.start(program=program(record_imports, imported))
        assert theirs.ask(b"encrypt:put:a:b:c:d=1") == b"ok"
        assert theirs.ask(b"ping", "l3") == b"con_lost"
        assert "Connection refused" in theirs.status("l3")["last_error"][1]
        os.kill(theirs.children()["l1"], signal.SIGKILL)
        theirs.lonc.send_signal(signal.SIGUSR1)
        assert theirs.command("disable", "l4").returncode == 2
        theirs.configure(loncUsr="nobody")
        assert theirs.command("reload").returncode == 6
        theirs.configure(loncUser="nobody")
        assert theirs.command("reload").returncode == 0
        assert theirs.command("stop").returncode == 0
        assert imported.read_text() == ""

    @pytest.mark.parametrize("secret", ["key.pem", "keys"])
    def test_secrets_must_belong_to_the_user_and_be_closed_to_others(self, theirs, secret):
        authority = Authority("ours")
        authority.write(theirs.directory / "ca.pem")
        authority.issue("l1.example.org", theirs.directory / "cert.pem", theirs.directory / "key.pem")
        (theirs.directory / "keys").write_text(f"k1:{'0' * 64}\n")
        settings = {
            "loncUser": "nobody",
            "loncKeyMode": "ssl",
            "lonCertificateDirectory": theirs.directory,
            "lonnetCertificate": "cert.pem",
            "lonnetPrivateKey": "key.pem",
            "lonnetCertificateAuthority": "ca.pem",
            "loncDelayedKeyFile": theirs.directory / "keys",
        }
        for each in ("key.pem", "keys"):
            os.chown(theirs.directory / each, 0, GID)
            (theirs.directory / each).chmod(0o640)
        theirs.configure(**settings)
        file = theirs.directory / secret
        file.chmod(0o600)
        for command in ("check", "restart", "start", "run"):
            done = theirs.command(command)
            assert done.returncode == 1
            said = (done.stdout + done.stderr).decode()
            group = grp.getgrgid(GID).gr_name
            how = f"chgrp -h {group} {file} && chmod g+r {file}"
            assert f"nobody (loncUser) cannot read {file}: {how}" in said
        file.chmod(0o640)
        theirs.start_lond("l1")
        imported = theirs.directory / "imported"
        imported.touch()
        imported.chmod(0o666)
        theirs.start(program=program(record_imports, imported))
        assert theirs.ask(b"encrypt:echo:x") == b"x"
        assert theirs.status()["mode"] == "ssl"
        assert theirs.command("reload").returncode == 0
        assert theirs.ask(b"encrypt:echo:x") == b"x"
        assert imported.read_text() == ""

    def test_a_key_created_before_the_first_start_belongs_to_the_user(self, theirs):
        keys = theirs.directory / "keys"
        theirs.configure(loncUser="nobody", loncDelayedKeyFile=keys)
        assert theirs.command("delayed", "keygen").returncode == 0
        assert owner_and_mode(keys) == (UID, GID, "0o640")
        theirs.start()

    def test_user_and_group_cannot_change_while_it_runs(self, theirs):
        theirs.start()
        theirs.configure(loncUser="nobody", loncGroup="daemon")
        done = theirs.command("reload")
        why = "loncGroup cannot change while lonc runs: restart it"
        assert (done.returncode, done.stderr.decode()) == (1, f"lonc: {why}\n")

    @pytest.mark.parametrize("hands_on", [True, False])
    def test_the_web_server_sends_requests_and_saves_and_others_may_do_neither(self, theirs, hands_on):
        """The web server is another user of the daemon's group."""
        theirs.configure(loncUser="nobody", loncGroup="daemon", loncDelayedInterval=0.1)
        daemon = grp.getgrnam("daemon").gr_gid
        if hands_on:  # the directory exists already
            theirs.sockets.mkdir()
            os.chown(theirs.sockets, UID, daemon)
            theirs.sockets.chmod(0o2750)
        theirs.start()
        settings = theirs.settings()

        def ask():
            with socket.socket(socket.AF_UNIX) as client:
                try:
                    client.connect(str(theirs.sockets / "l1"))
                except PermissionError as error:
                    return error.strerror
                client.sendall(b"ping\n")
                return read_line(client).decode()

        def save():
            os.umask(0o077)
            return lonnet.critical("put:a:b:c:d=1", "l1", settings=settings).decode()

        def record():
            spool.record(settings, spool.DELAYED, "l1", b"put:x")
            return "recorded"

        assert saying(STRANGER, daemon, ask) == "con_lost"
        assert saying(STRANGER, STRANGER, ask) == "Permission denied"
        assert saying(STRANGER, STRANGER, save) == "con_failed"
        assert saying(STRANGER, daemon, save) == "con_delayed"
        (waiting,) = spool.waiting(settings.delayed_directory)[0]
        path = settings.delayed_directory / waiting.text
        assert owner_and_mode(path) == (STRANGER, daemon, "0o640")

        def spoil():
            (settings.delayed_directory / "impossible").touch()
            return "spoiled"

        assert saying(STRANGER, daemon, spoil) == "spoiled"
        theirs.start_lond("l1")
        eventually(lambda: not path.exists())
        bad = settings.delayed_directory / "bad"
        eventually(lambda: bad.exists() and os.listdir(bad) == ["impossible"])
        assert owner_and_mode(bad) == (UID, daemon, "0o700")
        assert owner_and_mode(settings.perm_log) == (UID, daemon, "0o660")
        assert saying(STRANGER, daemon, record) == "recorded"
        kinds = [line.split(":")[1] for line in settings.perm_log.read_text().splitlines()]
        assert kinds == ["D", "S", "D"]

    def test_it_starts_over_files_left_by_a_daemon_of_root(self, theirs):
        """The daemon is killed, so that its files remain, and loncUser is set only then."""
        theirs.configure()
        theirs.start()
        settings = theirs.settings()
        spool.record(settings, spool.SENT, "l1", b"put:x")
        theirs.lonc.kill()
        theirs.lonc.wait()
        logs = theirs.pid_file.parent
        os.mkdir(settings.delayed_directory / "bad")
        for directory in (theirs.sockets, logs):
            os.chown(directory, UID, GID)
        os.chown(settings.delayed_directory, 0, GID)
        theirs.configure(loncUser="nobody")
        assert b"warning" not in theirs.command("check").stdout
        theirs.start()
        for pid in family(theirs):
            assert_nothing_left_of_root(pid)
        names = ("lonc.pid", "lonc.ctl", "lonc.log", "lonnet.perm.log")
        ours = [logs / name for name in names]
        ours += [theirs.sockets / name for name in ("l1", "l2", "delayed", "delayed/bad")]
        assert {path: path.stat().st_uid for path in ours} == dict.fromkeys(ours, UID)
        assert theirs.log().count(" starts, ") == 2

    def test_root_removes_the_pid_file_of_a_dead_daemon(self, theirs):
        theirs.start()
        theirs.lonc.kill()
        theirs.lonc.wait()
        assert theirs.command("stop").stdout == b"lonc is not running\n"
        assert theirs.socket_files() == []
        assert not theirs.pid_file.exists()

    def test_root_does_not_touch_the_targets_of_links_of_the_user(self, theirs):
        """An attacker with a process of the daemon must gain nothing from the next start as root."""
        theirs.start()
        theirs.lonc.kill()
        theirs.lonc.wait()
        victim = theirs.directory / "victim"
        victim.write_text("precious")
        victim.chmod(0o600)
        for name in ("lonc.pid", "lonc.log", "lonnet.perm.log", "lonc.ctl", "lonc_status.txt"):
            path = theirs.pid_file.with_name(name)
            path.unlink(missing_ok=True)
            path.symlink_to(victim)
        (theirs.sockets / ".1").symlink_to(victim)
        assert theirs.command("stop").returncode == 0
        done = theirs.command("start")
        assert (done.returncode, done.stdout) == (1, b"")
        why = f"nobody (loncUser) cannot write {theirs.log_file}: it is a link to {victim}"
        assert done.stderr.decode() == f"lonc: {why}\n"
        assert theirs.command("run").returncode == 1
        assert owner_and_mode(victim) == (0, 0, "0o600")
        assert victim.read_text() == "precious"


@needs_root
def test_root_records_nothing_if_the_permanent_log_is_a_link_of_the_user(theirs):
    theirs.start()
    settings = theirs.settings()
    victim = theirs.directory / "victim"
    victim.write_text("precious\n")
    waiting = settings.delayed_directory / "1.0.1.put.l9"
    for owner, status, lines in ((UID, 1, 1), (0, 0, 2)):
        settings.perm_log.unlink(missing_ok=True)
        settings.perm_log.symlink_to(victim)
        os.lchown(settings.perm_log, owner, -1)
        waiting.write_text("put:/tmp/library\n")
        assert theirs.command("delayed", "drop", waiting.name).returncode == status
        assert victim.read_text().count("\n") == lines


@needs_root
class TestWithoutLoncuser:
    """The owner of lonSockDir, as www on a LON-CAPA machine."""

    @pytest.fixture
    def www(self, public):
        """A machine whose directories are a user's who keeps other files there."""
        for directory in (public.sockets, public.pid_file.parent):
            directory.mkdir(mode=0o755)
            directory.chmod(0o755)
            (directory / "another.log").touch()
            for path in (directory, directory / "another.log"):
                os.chown(path, STRANGER, STRANGER)
        return public

    @pytest.mark.parametrize("command", ["start", "run"])
    def test_root_becomes_the_owner_of_the_socket_directory(self, www, command):
        whose = f"as {STRANGER} (the owner of {www.sockets})"
        done = www.command("check")
        assert f"warning: loncUser is not set: lonc becomes {whose[3:]}\n" in done.stdout.decode()
        assert "all users can see the names of the hosts" in done.stdout.decode()
        assert "it will not start" not in done.stdout.decode()
        if command == "start":
            assert www.start().endswith(f", {whose}\n")
        else:
            www.run()
            assert f"lonc runs, {whose}\n" in www.log()
        for pid in family(www):
            assert of(pid, "Uid") == of(pid, "Gid") == [str(STRANGER)] * 4
        assert www.command("stop").returncode == 0

    def test_another_user_is_not_advised_to_take_the_directories(self, www):
        www.configure(loncUser="nobody")
        how = f"{STRANGER} keeps other files there, so run lonc as {STRANGER} (loncUser {STRANGER})"
        said = www.command("check").stdout.decode()
        for directory in (www.sockets, www.pid_file.parent):
            assert f"nobody (loncUser) cannot write {directory}: {how}\n" in said
        assert "chown" not in said

    def test_as_root_without_another_owner_nobody_else_can_send(self, public):
        public.sockets.mkdir(mode=0o750)
        warning = "loncUser is not set: lonc runs as root, and nobody else can send requests"
        assert warning in public.command("check").stdout.decode()
        os.chown(public.sockets, 0, GID)
        assert warning not in public.command("check").stdout.decode()


CONFIGURATION, TABLE, SOCKETS, LOGS = "loncapa.conf", "tabs/hosts.tab", "sockets", "daemons/logs"


@needs_root
class TestWhatItNeeds:
    """Mode and owner of a file of the machine, and the expected sentence about it."""

    @pytest.mark.parametrize(
        ("path", "owner", "mode", "sentence"),
        [
            (
                CONFIGURATION,
                0,
                0o600,
                "nobody (loncUser) cannot read {path}, as a reload has to:"
                " chgrp -h {group} {path} && chmod g+r {path}",
            ),
            (
                TABLE,
                0,
                0o640,
                "nobody (loncUser) cannot read {path}, as a reload has to:"
                " chgrp -h {group} {path} && chmod g+r {path}",
            ),
            ("tabs", 0, 0o750, "nobody (loncUser) cannot enter {path}: chmod o+x {path}"),
            ("daemons", 0, 0o700, "nobody (loncUser) cannot enter {path}: chmod o+x {path}"),
            (SOCKETS, 0, 0o750, "nobody (loncUser) cannot write {path}: chown -h nobody {path}"),
            (SOCKETS, UID, 0o570, "nobody (loncUser) cannot write {path}: chmod u+rwX {path}"),
            (
                SOCKETS,
                UID,
                0o2770,
                "{group} (loncGroup) cannot read what others save in {path}:"
                " set loncGroup root, or chgrp -hR {group} {path}",
            ),
            (
                SOCKETS,
                UID,
                0o753,
                "everybody can write to {path} (lonSockDir): chmod o-w {path}",
            ),
            (LOGS, 0, 0o755, "nobody (loncUser) cannot write {path}: chown -h nobody {path}"),
            (
                f"{LOGS}/lonc.log",
                STRANGER,
                0o644,
                "nobody (loncUser) cannot write {path}: chown -h nobody {path}",
            ),
            (f"{LOGS}/lonnet.perm.log", UID, 0o440, None),
        ],
    )
    def test_missing_permissions_are_reported_before_anything_is_stopped_or_bound(
        self, theirs, path, owner, mode, sentence
    ):
        sentence = sentence or "nobody (loncUser) cannot write {path}: chmod u+rwX {path}"
        place = theirs.directory / path
        for directory in (theirs.sockets, theirs.pid_file.parent):
            directory.mkdir(mode=0o750)
            os.chown(directory, UID, -1)
        if not place.exists():
            place.touch()
        os.chown(place, owner, -1)
        place.chmod(mode)
        sentence = sentence.format(path=place, group=GROUP)
        done = theirs.command("check")
        assert done.returncode == 1
        warning = f"{theirs.configuration}: warning: it will not start: {sentence}"
        assert done.stdout.decode().splitlines().count(warning) == 1
        done = theirs.command("restart")
        assert (done.returncode, done.stderr.decode()) == (1, f"lonc: {sentence}; nothing is stopped\n")
        for command in ("start", "run"):
            done = theirs.command(command)
            assert (done.returncode, done.stderr.decode()) == (1, f"lonc: {sentence}\n")
        assert set(theirs.socket_files()) == set()

    def test_the_commands_in_the_sentences_help(self, theirs):
        for directory in (theirs.sockets, theirs.pid_file.parent):
            directory.mkdir(mode=0o755)
            directory.chmod(0o2755)
        theirs.table.parent.chmod(0o700)
        theirs.configuration.chmod(0o600)
        helped = []
        while "warning" in (said := theirs.command("check").stdout.decode()):
            how = said.splitlines()[0].rpartition(": ")[2].rpartition(", or ")[2]
            assert how.startswith(("chmod", "chown", "chgrp"))
            assert how not in helped
            subprocess.run(["sh", "-ec", how], check=True)
            helped.append(how)
        assert len(helped) == 6
        theirs.start()
        assert theirs.command("reload").returncode == 0
        assert_nothing_left_of_root(theirs.lonc.pid)

    def test_a_reload_without_permission_to_read_fails_and_changes_nothing(self, theirs):
        theirs.start()
        theirs.configuration.chmod(0o600)
        done = theirs.command("reload")
        assert done.returncode == 6
        assert done.stderr.decode() == f"lonc: {theirs.configuration}: Permission denied\n"
        assert len(family(theirs)) == 3


@needs_root
class TestFailingClosed:
    @pytest.mark.parametrize("command", ["start", "run"])
    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            (["--bounding-set=-setgid"], "cannot become nobody (loncUser): Operation not permitted"),
            (["--bounding-set=-setuid"], "cannot become nobody (loncUser): Operation not permitted"),
            (["--securebits=+no_setuid_fixup"], "nobody (loncUser) can become root again"),
        ],
    )
    @pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
    def test_a_daemon_that_cannot_become_the_user_does_not_start(
        self, theirs, command, options, sentence
    ):
        done = theirs.command(command, program=["setpriv", *options, *LONC])
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.decode() == f"lonc: {sentence}\n"
        assert theirs.socket_files() == []
        assert theirs.command("status").returncode == 3

    @pytest.mark.parametrize("call", ["setgroups", "setresgid", "setresuid"])
    def test_a_system_call_that_succeeds_without_effect_is_noticed(self, theirs, call):
        lying = program(preparations.pretend_to_become_another_user, call)
        done = theirs.command("run", program=lying, timeout=20)
        assert done.returncode == 1
        assert b"become" in done.stderr
        assert theirs.socket_files() == []


def _sandboxed():
    """The restrictions of the unit file, as far as they work without systemd."""
    prctl = ctypes.CDLL(None).prctl
    assert prctl(NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    prctl(MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)  # since Linux 6.3


@needs_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_it_runs_under_the_restrictions_of_the_systemd_unit(theirs):
    unit = (Path(__file__).parents[2] / "etc" / "systemd" / "lonc.service").read_text()
    kept = re.search(r"^CapabilityBoundingSet=(.*)$", unit, re.M)[1].replace("CAP_", "+").lower()
    bounding = f"--bounding-set=-all,{','.join(kept.split())}"
    theirs.configure(loncUser="nobody", loncDelayedInterval=0.1)
    theirs.start_lond("l1")
    theirs.run(program=["setpriv", bounding, *LONC], preexec_fn=_sandboxed)
    for pid in family(theirs):
        assert_nothing_left_of_root(pid)
        assert of(pid, "NoNewPrivs") == ["1"]
    assert theirs.ask(b"ping") == b"l1"
    assert theirs.ask(b"encrypt:put:a:b:c:d=1") == b"ok"
    (theirs.sockets / "delayed" / "impossible").touch()
    eventually(lambda: (theirs.sockets / "delayed" / "bad" / "impossible").exists())
    theirs.hosts("l1", "l3")
    reload_ = theirs.command("reload", program=["setpriv", bounding, *LONC], preexec_fn=_sandboxed)
    assert reload_.returncode == 0
    theirs.lonc.terminate()
    assert theirs.lonc.wait(20) == 0
