"""Programs that ask lonc with lonnet, run by tests as processes of their own."""

import os
import subprocess
from pathlib import Path

from lonc import lonnet
from lonc.configuration import Settings


def print_reply(request, host):
    print(repr(lonnet.reply(request, host)))


def print_critical(request, host, timeout):
    print(repr(lonnet.critical(request, host, timeout=timeout)))


def save_on_a_small_disk(directory):
    """Print answers and numbers of files while the disk has room, none, room again, and is read-only."""
    place = Path(directory)
    settings = Settings("a1", table_directory=place, socket_directory=place / "sockets", daemons=place)
    filler = settings.socket_directory / "filler"

    def critical(request):
        answer = lonnet.critical(request, "l1", timeout=0.01, settings=settings)
        print(answer.decode(), len(os.listdir(settings.delayed_directory)))

    critical("fits")
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    critical("does not fit")
    filler.unlink()
    critical("x" * 1_000_000)
    critical("fits again")
    subprocess.run(["mount", "-o", "remount,ro", settings.socket_directory], check=True)
    critical("read-only")
