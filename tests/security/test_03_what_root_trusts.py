"""Others who may write what root believes: files, and directories above them."""

import os
import pwd

import pytest

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs users of its own")

UID, GID = pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid
STRANGER = 54321


def refused(machine, sentence):
    """Root's start refuses, and restart and check report it; nothing is made."""
    for command in ("start", "restart"):
        done = machine.command(command)
        assert done.returncode != 0
        assert sentence in done.stderr.decode()
    assert sentence in machine.command("check").stdout.decode()
    assert not machine.sockets.exists()


@pytest.mark.parametrize("which", ["configuration", "table", "directory", "table of the network"])
def test_a_file_that_others_can_write_is_refused(public, which):
    if which == "table of the network":  # it does not exist, and can be made
        path, file = public.table.parent, public.table.with_name("dns_hosts.tab")
        os.chown(path, 0, STRANGER)
        path.chmod(0o1775)
    elif which == "directory":
        path, file = public.table.parent, public.table.with_name("dns_hosts.tab")
        path.chmod(0o777)
    else:
        path = {
            "configuration": public.configuration,
            "table": public.table,
        }[which]
        file = public.configuration if which == "configuration" else public.table
        path.chmod(0o666)
    refused(public, f"{file} can be changed by others: ")
    path.chmod(0o755 if path.is_dir() else 0o644)
    public.start()


def test_the_daemons_user_may_write_tables_but_not_the_configuration(public):
    public.configure(loncUser="nobody")
    os.chown(public.table, UID, GID)
    os.chown(public.configuration, UID, GID)
    file = public.configuration
    refused(public, f"{file} can be changed by others: nobody owns {file}: chown -h root {file}")
    os.chown(public.configuration, 0, 0)
    public.start()
    assert public.command("check").stdout.count(b"can be changed") == 0


def test_a_key_file_of_another_user_is_refused(public):
    keys = public.directory / "keys"
    assert public.command("delayed", "keygen", keys).returncode == 0
    os.chown(keys, STRANGER, 0)
    public.configure(loncDelayedKeyFile=keys)
    refused(public, f"{keys} can be changed by others: {STRANGER} owns {keys}")
