"""`init.d/lonc` through its whole life, with a real daemon, in dash."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.machine import BIN_LONC, Daemon, exists, holders

SCRIPT = Path(__file__).parents[2] / "init.d" / "lonc"
VENV = BIN_LONC.parent.parent
DEFAULTS = [Path("/etc/default/lonc"), Path("/etc/sysconfig/lonc")]

pytestmark = pytest.mark.skipif(
    any(file.exists() for file in DEFAULTS), reason="a lonc of this machine's own would be meant"
)


@pytest.fixture
def script(machine):
    """Calls the script as init would, with next to nothing in the environment."""
    machine.hosts("l1", "l2")

    def call(*arguments, **environment):
        environment = {"LONC_VENV": str(VENV), "LONC_CONF": str(machine.configuration)} | environment
        done = subprocess.run(
            [shutil.which("dash") or "sh", SCRIPT, *arguments],
            env={name: value for name, value in environment.items() if value is not None},
            capture_output=True,
            text=True,
            timeout=60,
        )
        pid = int(machine.pid_file.read_text() or 0) if machine.pid_file.exists() else 0
        if pid and (machine.lonc is None or machine.lonc.pid != pid):
            machine.lonc = Daemon(pid)
            machine._processes.append(machine.lonc)
        return done

    return call


def test_the_whole_cycle(script, machine):
    assert script("status").returncode == 3
    for word in ("reload", "force-reload"):
        done = script(word)
        assert (done.returncode, done.stderr) == (7, "lonc: it is not running\n")
    assert script("try-restart").returncode == 0
    assert script("stop").returncode == 0
    assert holders(machine.lock_file) == []

    done = script("start")
    assert (done.returncode, done.stderr) == (0, "")
    first = machine.lonc.pid
    assert done.stdout == f"lonc is started, pid {first}\n"
    assert script("start").stdout == f"lonc is running already, pid {first}\n"
    done = script("status")
    assert done.returncode == 0
    assert done.stdout.startswith(f"lonc 0.1.0 is running, pid {first}, since ")
    for word in ("reload", "force-reload"):
        done = script(word)
        assert (done.returncode, done.stdout) == (0, "reloaded, 2 hosts\n")

    for word in ("restart", "try-restart"):
        before = machine.lonc.pid
        assert script(word).returncode == 0
        assert machine.lonc.pid != before
        assert not exists(before)

    machine.table.write_text("nonsense\n")
    for word in ("reload", "force-reload", "restart", "try-restart"):
        done = script(word)
        assert done.returncode == 6
        assert done.stderr.startswith(f"lonc: {machine.table}:1: a host is ")
    machine.hosts("l1", "l2")

    done = script("stop")
    assert (done.returncode, done.stdout) == (0, "lonc is stopped\n")
    assert not exists(machine.lonc.pid)
    assert script("restart").returncode == 0
    machine.lonc.kill()
    machine.lonc.wait()
    assert script("status").returncode == 1
    assert script("try-restart").returncode == 0
    assert script("status").returncode == 1  # it did not run, so nothing was done


@pytest.mark.parametrize("word", [None, "", "help", "START", "status all"])
def test_any_other_word_is_told_what_there_is(script, word):
    done = script(*([] if word is None else [word]))
    assert (done.returncode, done.stdout) == (2, "")
    words = "start|stop|restart|try-restart|reload|force-reload|status"
    assert done.stderr == f"usage: {SCRIPT} {{{words}}}\n"


WORDS = ["start", "stop", "restart", "try-restart", "reload", "force-reload", "status"]


@pytest.mark.parametrize("word", WORDS)
def test_without_a_configuration_it_is_6_and_nothing_is_done(script, machine, word):
    missing = machine.directory / "missing.conf"
    done = script(word, LONC_CONF=str(missing))
    assert done.returncode == 6
    assert done.stderr == f"lonc: {missing}: No such file or directory\n"
    assert sorted(os.listdir(machine.directory)) == ["daemons", "loncapa.conf", "tabs"]


@pytest.mark.parametrize("word", WORDS)
def test_without_the_program_it_is_5(script, word):
    done = script(word, LONC_VENV="/nowhere")
    assert done.returncode == 5
    assert done.stderr.startswith("lonc: there is no program /nowhere/bin/lonc: set LONC_VENV in ")
    for nothing in ("/nowhere/lonc", "/usr/bin", "/etc/passwd"):
        done = script(word, LONC_VENV=None, LONC=nothing)
        assert (done.returncode, done.stdout) == (5, "")


@pytest.mark.parametrize("place", ["default", "sysconfig"])
def test_the_file_of_defaults_is_read(machine, tmp_path, place):
    """In a namespace of mounts that has an /etc/default, or an /etc/sysconfig, of its own."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0:
        pytest.skip("no rights to make a namespace of mounts")
    there = tmp_path / "etc"
    there.mkdir()
    (there / "lonc").write_text(f"LONC_VENV={VENV}\nLONC_CONF={machine.configuration}\n")
    if place == "default":
        mount = f"mount --bind {there} /etc/default"
    else:
        work = tmp_path / "work"
        work.mkdir()
        mount = f"mount -t tmpfs none {work} && mkdir {work}/upper {work}/work {work}/upper/sysconfig"
        mount += f" && cp {there}/lonc {work}/upper/sysconfig && mount -t overlay overlay"
        mount += f" -o lowerdir=/etc,upperdir={work}/upper,workdir={work}/work /etc"
    command = ["unshare", "--mount", "sh", "-ec", f"{mount} && exec env -i sh {SCRIPT} status"]
    done = subprocess.run(command, capture_output=True, text=True)
    if "unknown filesystem type 'overlay'" in done.stderr:
        pytest.skip("no overlays here")
    assert (done.returncode, done.stdout, done.stderr) == (3, "lonc is not running\n", "")


def test_shellcheck_finds_nothing():
    here = Path(sys.executable).with_name("shellcheck")
    program = str(here) if here.exists() else shutil.which("shellcheck")
    done = subprocess.run([program, "--shell=dash", SCRIPT], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_its_header_is_what_init_wants():
    lines = SCRIPT.read_text().splitlines()
    begin, end = lines.index("### BEGIN INIT INFO"), lines.index("### END INIT INFO")
    names = [line.split(":")[0].removeprefix("# ") for line in lines[begin + 1 : end]]
    for name in ("Provides", "Required-Start", "Required-Stop", "Default-Start", "Default-Stop"):
        assert names.count(name) == 1
    assert "# Provides:          lonc" in lines
    assert lines[0] == "#!/bin/sh"
    assert os.access(SCRIPT, os.X_OK)
