"""A machine without a daemon, for tests that save delayed transactions, and the files they saved."""

import contextlib

from lonc.configuration import Settings
from lonc.spool.locks import SpoolLocks
from lonc.spool.spool import waiting


def machine_in(place):
    """The settings of a machine where no daemon runs, so that l1 cannot be reached."""
    (place / "sockets").mkdir()
    (place / "logs").mkdir()
    (place / "hosts.tab").write_text("l1:dom:library:l1:127.0.0.1\n")
    return Settings("a1", table_directory=place, socket_directory=place / "sockets", daemons=place)


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def saved(settings):
    """The content of each file in the spool, in the order in which they are sent."""
    names, impossible = waiting(settings.delayed_directory)
    assert impossible == []
    return [(settings.delayed_directory / str(name)).read_bytes() for name in names]


@contextlib.contextmanager
def locked(settings, path):
    """The file is locked, as by a child that has it in flight."""
    locks = SpoolLocks(settings)
    with path.open("rb") as file:
        assert locks.take(file.fileno())
        yield
        locks.release(file.fileno())


def write_keys(file, *ids):
    """A key file with these keys in this order; a key is always the same."""
    file.write_text("".join(f"{id_}:{id_.encode().hex():0>64}\n" for id_ in ids))
    file.chmod(0o640)
    return file
