"""Whether another user could change a file, by the owners and modes of all that leads to it."""

import os
import pwd
import tempfile
from pathlib import Path

import pytest

from lonc.runtime.trust import changeable_by_others

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root makes files of other users")

NOBODY = pwd.getpwnam("nobody")
STRANGER = 54321


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "above" / "file"
    path.parent.mkdir(mode=0o755)
    path.touch(0o644)
    return path


def way(path, *trusted):
    return changeable_by_others(path, {0, *trusted})


def test_a_file_of_root_below_directories_of_root_is_trusted(file):
    assert way(file) is None
    assert way(file.with_name("missing")) is None


@pytest.mark.parametrize("which", ["file", "directory"])
def test_the_owner_and_all_who_may_write_can_change_it(file, which):
    path = file if which == "file" else file.parent
    os.chown(path, STRANGER, 0)
    assert way(file) == f"{STRANGER} owns {path}: chown -h root {path}"
    assert way(file, STRANGER) is None
    os.chown(path, 0, STRANGER)
    path.chmod(0o775)
    assert way(file) == f"the group {STRANGER} can write to {path}: chmod g-w {path}"
    path.chmod(0o757)
    assert way(file) == f"all users can write to {path}: chmod o-w {path}"


def test_the_group_of_root_is_trusted(file):
    file.chmod(0o664)
    assert way(file) is None


def test_below_a_sticky_directory_only_the_owner_counts(file):
    file.parent.chmod(0o1777)
    assert way(file) is None
    os.chown(file, STRANGER, STRANGER)
    assert way(file) == f"all users can write to {file.parent}: chmod o-w {file.parent}"
    assert way(file, STRANGER) is None
    assert way(file.with_name("missing")) is not None
    with tempfile.TemporaryDirectory() as place:
        assert way(Path(place)) is None


def test_a_link_counts_and_what_it_leads_to(file, tmp_path):
    link = tmp_path / "link"
    link.symlink_to("above/../above")
    assert way(link / "file") is None
    os.chown(file.parent, STRANGER, STRANGER)
    assert way(link / "file") == f"{STRANGER} owns {file.parent}: chown -h root {file.parent}"
    os.chown(file.parent, 0, 0)
    link.unlink()
    link.symlink_to(file.parent)
    tmp_path.chmod(0o1777)
    os.lchown(link, STRANGER, STRANGER)
    assert way(link / "file") == f"all users can write to {tmp_path}: chmod o-w {tmp_path}"


def test_a_circle_of_links_is_not_trusted(tmp_path):
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    assert way(tmp_path / "one") == f"{tmp_path / 'one'} is a circle of links"
