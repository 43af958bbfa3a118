"""The files of `etc/`: completion, log rotation, the systemd unit."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.machine import BIN_LONC, eventually

from lonc.commands.cli import COMMANDS

ETC = Path(__file__).parents[2] / "etc"


def completed(machine, *words, configuration=None):
    """The words that bash offers for the last of `words`."""
    script = (
        f'source {ETC}/bash_completion.d/lonc; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1));'
        ' _lonc; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    environment = {
        "PATH": f"{BIN_LONC.parent}:{os.environ['PATH']}",
        "LONC_CONF": configuration or str(machine.configuration),
    }
    command = ["bash", "-c", script, "bash", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["lonc", "sta"], ["start", "status"]),
        (["lonc", "check"], ["check", "check-health"]),
        (["lonc", "send", "ms"], ["msul1", "msul2"]),
        (["lonc", "status", "--j"], ["--json"]),
        (["lonc", "start", "ms"], []),
        (["lonc", "help", "sta"], ["start", "status"]),
        (["lonc", "help", "delayed", "re"], ["requeue", "reseal"]),
        (["lonc", "help", "status", ""], []),
        (["lonc", "check-health", "--d"], ["--dead", "--delayed"]),
        (["lonc", "check-health", "-h"], ["-h"]),
        (["lonc", "delayed", "re"], ["requeue", "reseal"]),
        (["lonc", "delayed", "drop", "--ho"], ["--host"]),
        (["lonc", "delayed", "drop", "--host", "ms"], ["msul1", "msul2"]),
        (["lonc", "delayed", "show", ""], ["1.0.1.put.msul1"]),
        (["lonc", "delayed", "drop", "--bad", ""], ["2.0.1.put.msul1"]),
        (["lonc", "delayed", "requeue", "2"], ["2.0.1.put.msul1"]),
    ],
)
def test_completion(machine, words, offered):
    machine.hosts("msul1", "msul2", "other")
    (machine.sockets / "delayed" / "bad").mkdir(parents=True)
    (machine.sockets / "delayed" / "1.0.1.put.msul1").touch()
    (machine.sockets / "delayed" / "bad" / "2.0.1.put.msul1").touch()
    assert completed(machine, *words) == offered


def test_completion_knows_every_command(machine):
    names = [command.name for command in COMMANDS]
    assert sorted(completed(machine, "lonc", "")) == sorted(name for name in names if " " not in name)
    below = [name.removeprefix("delayed ") for name in names if name.startswith("delayed ")]
    assert sorted(completed(machine, "lonc", "delayed", "")) == sorted(below)


def test_completion_uses_the_configuration_that_is_named_behind_the_command(machine):
    machine.hosts("msul1", "other")
    words = ["lonc", "status", "-c", str(machine.configuration), "ms"]
    assert completed(machine, *words, configuration="/nowhere") == ["msul1"]


def test_shellcheck_accepts_the_completion():
    shellcheck = Path(BIN_LONC).with_name("shellcheck")
    subprocess.run([shellcheck, "-s", "bash", ETC / "bash_completion.d" / "lonc"], check=True)


@pytest.mark.skipif(shutil.which("logrotate") is None, reason="logrotate is not installed")
def test_the_log_is_rotated_and_goes_on(machine):
    machine.start()
    rules = machine.directory / "logrotate.conf"
    text = (ETC / "logrotate.d" / "lonc").read_text()
    rules.write_text(text.replace("/home/httpd/perl/logs/lonc.log", str(machine.log_file)))
    before = machine.log()
    state = machine.directory / "logrotate.state"
    subprocess.run(["logrotate", "-f", "-s", state, rules], check=True)
    assert machine.log_file.with_name("lonc.log.1").read_text() == before
    machine.command("reload")
    eventually(lambda: machine.log_file.exists() and "reloaded, 1 host" in machine.log())
    assert machine.log_file.with_name("lonc.log.1").read_text() == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.skipif(shutil.which("logrotate") is None, reason="logrotate is not installed")
def test_the_log_of_a_user_is_rotated_by_that_user(public):
    public.configure(loncUser="nobody")
    public.start()
    rules = public.directory / "logrotate.conf"
    text = (ETC / "logrotate.d" / "lonc").read_text()
    text = text.replace("/home/httpd/perl/logs/lonc.log", str(public.log_file))
    group = public.log_file.group()
    rules.write_text(text.replace("#su www-data www-data", f"su nobody {group}"))
    subprocess.run(["logrotate", "-f", "-s", public.directory / "logrotate.state", rules], check=True)
    public.command("reload")
    eventually(lambda: public.log_file.exists() and "reloaded, 1 host" in public.log())
    rotated = public.log_file.with_name("lonc.log.1")
    assert [path.owner() for path in (public.log_file, rotated)] == ["nobody"] * 2


def test_the_unit_of_systemd_runs_the_program_where_it_was_installed():
    unit = (ETC / "systemd" / "lonc.service").read_text()
    assert "ExecStart=/opt/lonc/bin/python -I -m lonc run\n" in unit
    assert "ExecReload=/opt/lonc/bin/python -I -m lonc reload\n" in unit


def test_the_unit_of_systemd_confines_lonc_to_what_it_needs():
    """test_privileges runs lonc with these restrictions, as far as possible without systemd."""
    lines = (ETC / "systemd" / "lonc.service").read_text().splitlines()
    assert lines.count("NoNewPrivileges=yes") == 1
    for line in (
        "UMask=0027",
        "LimitCORE=0",
        "ProtectSystem=strict",
        "ReadWritePaths=-/home/httpd/sockets -/home/httpd/perl/logs -/srv/lonc",
        "PrivateTmp=yes",
        "PrivateDevices=yes",
        "ProtectControlGroups=yes",
        "ProtectKernelLogs=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelTunables=yes",
        "LockPersonality=yes",
        "MemoryDenyWriteExecute=yes",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
        "RestrictNamespaces=yes",
        "SystemCallFilter=@system-service",
    ):
        assert line in lines
    # LON-CAPA is in /home, a reload reads /proc to find the holder of the lock, and delayed/ is setgid.
    names = {line.partition("=")[0] for line in lines}
    assert not names & {"User", "ProtectHome", "ProtectProc", "RestrictSUIDSGID"}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_unit(tmp_path):
    unit = tmp_path / "lonc.service"
    text = (ETC / "systemd" / "lonc.service").read_text()
    unit.write_text(text.replace("/opt/lonc/bin/python", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
