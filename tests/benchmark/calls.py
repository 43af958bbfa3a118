"""System calls of a transaction, as `strace -c` counts them."""

import re
import shutil
import signal
import subprocess

from .cases import Side
from .subjects import Lonc, Relay

DATA_CALLS = {"recvfrom", "sendto", "read", "write", "recvmsg", "sendmsg"}
SECONDS = 2.0


def count(side):
    """(data calls, all others) of a transaction."""
    with side.running() as running:
        running.measure(SECONDS / 4)
        pids = [argument for pid in running.subject.pids for argument in ("-p", str(pid))]
        strace = subprocess.Popen(["strace", "-c", "-f", *pids], stderr=subprocess.PIPE, text=True)
        while "attached" not in (line := strace.stderr.readline()):
            assert line, "strace cannot attach"
        running.measure(SECONDS)
        strace.send_signal(signal.SIGINT)
        counted = strace.stderr.read()
        strace.wait()
        strace.stderr.close()
    calls = {
        match[2]: int(match[1])
        for match in re.finditer(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:\d+ +)?(\w+)$", counted, re.M)
        if match[2] != "total"
    }
    data = sum(calls.get(name, 0) for name in DATA_CALLS)
    return data / running.ends.done, (sum(calls.values()) - data) / running.ends.done


def run(rounds):
    if shutil.which("strace") is None:
        return
    for clients in (1, 50):
        mine, mine_else = count(Side(Lonc, clients=clients))
        _, relays_else = count(Side(Relay, clients=clients))
        most = round(relays_else + 0.1, 3) if clients == 50 else None
        yield {"case": f"data calls, {clients} clients", "figure": mine, "goal": 4.0}
        yield {"case": f"other calls, {clients} clients", "figure": mine_else, "goal": most}
