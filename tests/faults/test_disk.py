"""A disk that is full, read-only or failing: con_delayed means saved, and no saved request is lost."""

import contextlib
import errno
import itertools
import os
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
from faults import sabotage, scenarios
from faults.sabotage import give, spoil
from support.delayed_files import contents, machine_in, saved
from support.lonnet_programs import save_on_a_small_disk
from support.machine import as_nobody, eventually, in_child, program, python_calling
from support.scripted_lond import ScriptedLond

from lonc import lonnet
from lonc.spool import spool
from lonc.spool.spool import Name, waiting


@pytest.fixture
def settings(tmp_path):
    return machine_in(tmp_path)


STEPS = [
    "open",
    "fchmod",
    "write",
    "fsync",
    "pread",
    "close",
    "rename",
    "unlink",
    "mkdir",
    "chmod",
    "listdir",
]


def critical_with(settings, spoilt, request):
    """The reply of `critical` with an existing directory, while each of `spoilt` fails."""
    spool.make_directory(settings.delayed_directory)

    def run():
        for each in spoilt:
            spoil(*each)
        return lonnet.critical(request, "l1", timeout=0.01, settings=settings).decode()

    return in_child(run)


class TestSaving:
    """A failure at any call gives the whole file and con_delayed, or no file and con_failed."""

    @pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO], ids=errno.errorcode.get)
    @pytest.mark.parametrize("step", STEPS)
    @pytest.mark.parametrize("made", [True, False], ids=["", "without the directory"])
    def test_what_is_told_is_true(self, settings, step, error, made):
        replies = set()
        for nth in itertools.count(1):
            if made:
                spool.make_directory(settings.delayed_directory)

            def run(nth=nth):
                failed = spoil(step, nth, error)
                answer = lonnet.critical("put:a:b", "l1", timeout=0.01, settings=settings)
                return f"{answer.decode()} {len(failed)}"

            answer, failed = in_child(run).split()
            replies.add(answer)
            there = contents(settings.delayed_directory) if settings.delayed_directory.exists() else {}
            if answer == "con_delayed":
                assert list(there.values()) == [b"put:a:b\n"]
                assert Name.parse(*there)
            else:
                assert answer == "con_failed"
                assert there == {}
            for text in there:
                (settings.delayed_directory / text).unlink()
            with contextlib.suppress(FileNotFoundError):
                settings.delayed_directory.rmdir()
            if failed == "0":
                break
        assert "con_delayed" in replies  # in the last round, without a failure
        if step not in ("unlink", "mkdir", "chmod"):
            assert "con_failed" in replies

    def test_what_cannot_be_removed_is_not_told_to_be_saved(self, settings):
        """The file may stay and be sent; but con_delayed would be a promise."""
        spoilt = [("fsync", 2, errno.EIO), ("unlink", 1, errno.EIO)]
        assert critical_with(settings, spoilt, "x") == "con_failed"
        assert saved(settings) == [b"x\n"]

    def test_a_name_of_our_own_that_cannot_be_removed_is_in_nobodys_way(self, settings):
        spoilt = [("write", 1, errno.ENOSPC), ("unlink", 1, errno.EROFS)]
        assert critical_with(settings, spoilt, "put:x") == "con_failed"
        assert len(os.listdir(settings.delayed_directory)) == 1
        assert waiting(settings.delayed_directory) == ([], [])

    def test_a_disk_that_is_really_full_or_read_only(self, settings):
        """In a mount namespace, over the socket directory."""
        if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0:
            pytest.skip("no rights to make a namespace of mounts")
        script = 'mount -t tmpfs -o size=64k none "$0"/sockets && exec "$@"'
        place = settings.socket_directory.parent
        command = python_calling(save_on_a_small_disk, str(place))
        inside = ["unshare", "--mount", "sh", "-ec", script, place, *command]
        done = subprocess.run(inside, capture_output=True, text=True)
        expected = ["con_delayed 1", "con_failed 1", "con_failed 1", "con_delayed 2", "con_failed 2"]
        assert done.stdout.splitlines() == expected, done.stderr
        kinds = [line.split(":")[1] for line in settings.perm_log.read_text().splitlines()]
        assert kinds == ["D", "F", "F", "D", "F"]

    def test_a_directory_where_one_may_not_write(self):
        with tempfile.TemporaryDirectory() as place:
            os.chmod(place, 0o755)
            settings = machine_in(Path(place))
            directory = settings.delayed_directory
            directory.mkdir(0o755)

            def critical():
                return lonnet.critical("x", "l1", timeout=0.01, settings=settings).decode()

            if os.getuid() == 0:  # any other user can write in directories of their own
                assert as_nobody(critical) == "con_failed"
            assert os.listdir(directory) == []
            directory.chmod(0o2777)
            assert as_nobody(critical) == "con_delayed"
            (file,) = directory.iterdir()
            assert stat.S_IMODE(file.stat().st_mode) == 0o640
            assert saved(settings) == [b"x\n"]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
def test_carrying_out(machine, error):
    """A failure at any call: the transaction is executed once, and the child continues."""
    machine.configure(loncDelayedInterval=0.1)
    order = machine.directory / "order"
    ledger = scenarios.Ledger()
    directory = machine.sockets / "delayed"
    steps = ["open", "fstat", "lstat", "read", "write", "unlink", "listdir"]
    with ScriptedLond(machine.address(1), machine.port, ledger.script):
        machine.run(program=program(sabotage.at_replay, order))
        child = machine.children()
        for number, (step, nth) in enumerate(itertools.product(steps, (1, 2, 3))):
            give(order, "spoil", step, nth, error)
            (directory / f"{number}.0.1.put.l1").write_bytes(b"put:%d\n" % number)
            eventually(lambda: scenarios.pending_in(directory) == [])
        assert machine.children() == child
        machine.stop()
    assert ledger.seen == [b"put:%d" % each for each in range(number + 1)]
