"""The daemon's user makes links in its own directories, before root starts lonc."""

import os
import pwd

import pytest

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs users of its own")

UID, GID = pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid
STRANGER = 54321


@pytest.fixture
def theirs(public):
    public.configure(loncUser="nobody")
    public.sockets.mkdir()
    public.sockets.chmod(0o750)
    os.chown(public.sockets, UID, GID)
    return public


def test_no_directory_behind_a_link_is_handed_over(theirs):
    """`delayed` is a link: the `bad` of root or of a third user that it leads to is not given away."""
    foreign = theirs.directory / "foreign"
    (foreign / "bad").mkdir(parents=True)
    (theirs.sockets / "delayed").symlink_to(foreign)
    os.lchown(theirs.sockets / "delayed", UID, GID)
    theirs.command("start")
    theirs.command("stop")
    assert (foreign / "bad").stat().st_uid == 0
    assert foreign.stat().st_uid == 0


def test_no_log_behind_a_link_is_handed_over(theirs):
    logs = theirs.directory / "foreign"
    logs.mkdir()
    (logs / "lonc.log").touch()
    (theirs.directory / "daemons" / "logs").symlink_to(logs)
    os.lchown(theirs.directory / "daemons" / "logs", UID, GID)
    theirs.command("start")
    theirs.command("stop")
    assert (logs / "lonc.log").stat().st_uid == 0


def test_nothing_is_given_away_in_a_directory_of_a_third_user(theirs):
    (theirs.sockets / "delayed" / "bad").mkdir(parents=True)
    os.chown(theirs.sockets / "delayed", STRANGER, GID)
    (theirs.sockets / "delayed").chmod(0o770)
    theirs.command("start")
    theirs.command("stop")
    assert (theirs.sockets / "delayed").stat().st_uid == STRANGER


def test_what_check_advises_does_not_follow_a_link(theirs):
    theirs.sockets.chmod(0o755)
    os.chown(theirs.sockets, 0, 0)
    said = theirs.command("check").stdout.decode()
    assert f"chown -h nobody {theirs.sockets}" in said
    assert "chown nobody" not in said
