"""The files beside the sockets: names in another case, and locks of the original."""

import logging
import os
import socket

import pytest

from lonc.errors import CannotStart
from lonc.parent.socket_names import (
    MAX_SPELLINGS,
    Spellings,
    remove_left_links,
    remove_left_lock,
    same_but_for_case,
)

NAME = "one.example.org"


@pytest.fixture
def spellings(tmp_path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / NAME))
        listening.listen()
        yield Spellings(tmp_path, NAME)


def names(directory):
    return sorted(os.listdir(directory))


def test_a_client_connects_by_the_name_in_another_case(spellings, tmp_path):
    for _ in range(2):  # the second time it is there
        spellings.add("One.Example.ORG")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "One.Example.ORG"))
    spellings.remove()
    assert names(tmp_path) == [NAME]


def test_a_link_that_somebody_has_removed_is_made_again(spellings, tmp_path):
    spellings.add("ONE.example.org")
    (tmp_path / "ONE.example.org").unlink()
    spellings.add("ONE.example.org")
    assert os.readlink(tmp_path / "ONE.example.org") == NAME


def test_nothing_else_is_replaced_by_a_link_nor_removed_as_one(spellings, tmp_path):
    (tmp_path / "ONE.example.org").touch()
    with pytest.raises(CannotStart, match=r"cannot link .*/ONE\.example\.org to one\.example\.org: "):
        spellings.add("ONE.example.org")
    spellings.add("One.example.org")
    (tmp_path / "One.example.org").unlink()
    (tmp_path / "One.example.org").touch()  # it has become something of its own
    spellings.remove()
    assert names(tmp_path) == ["ONE.example.org", "One.example.org", NAME]


def test_there_is_a_limit_of_spellings(spellings, tmp_path):
    made = [f"{number:04b}".translate({48: "a", 49: "A"}) for number in range(MAX_SPELLINGS)]
    for name in made:
        spellings.add(name)
    with pytest.raises(CannotStart, match=f"{MAX_SPELLINGS} spellings already"):
        spellings.add("aaaaA")
    spellings.add(made[0])
    assert len(names(tmp_path)) == MAX_SPELLINGS + 1


def test_links_of_a_daemon_that_was_killed_are_removed_and_others_are_not(spellings, tmp_path):
    spellings.add("One.Example.ORG")
    (tmp_path / "TWO.example.org").symlink_to("two.example.org")  # that socket has gone
    (tmp_path / "alias").symlink_to(NAME)
    (tmp_path / "elsewhere").symlink_to("/tmp/elsewhere")
    remove_left_links(tmp_path)
    assert names(tmp_path) == ["alias", "elsewhere", NAME]
    remove_left_links(tmp_path / "none")


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("one.Example.org", True),
        (NAME, True),
        ("on.example.org", False),
        ("one.example.org\u212a", False),
    ],
)
def test_names_that_are_the_same_but_for_case(other, same):
    assert same_but_for_case(NAME, other) is same
    assert not same_but_for_case("k", "\u212a")  # the sign of Kelvin becomes a k by str.lower


class TestALock:
    def test_is_removed_with_those_of_other_spellings(self, spellings, tmp_path):
        for name in (NAME, "ONE.example.org"):
            (tmp_path / f"{name}.lock").touch()
        remove_left_lock(tmp_path / NAME)
        assert names(tmp_path) == ["ONE.example.org.lock", NAME]
        spellings.add("ONE.example.org")
        assert names(tmp_path) == ["ONE.example.org", NAME]

    def test_is_no_socket_of_another_host(self, tmp_path):
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(tmp_path / "l1.lock"))
            remove_left_lock(tmp_path / "l1")
        assert names(tmp_path) == ["l1.lock"]

    def test_that_cannot_be_removed_is_logged(self, tmp_path, caplog):
        caplog.set_level(logging.INFO, "lonc")
        remove_left_lock(tmp_path / "l1")
        assert caplog.messages == []
        remove_left_lock(tmp_path / ("l" * 255))
        (line,) = caplog.messages
        assert line.startswith("cannot remove ")
        assert "for which clients wait: File name too long" in line
