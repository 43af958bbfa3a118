"""A client that sends critical requests one after the other, and writes the replies to a file.

python writer.py CONFIGURATION NOTES FIRST    requests put:FIRST, put:FIRST+1 … to l1
"""

import itertools
import sys
from pathlib import Path

from lonc.configuration_file import read_settings
from lonc.lonnet import Lonc

if __name__ == "__main__":
    settings, _ = read_settings(Path(sys.argv[1]))
    with Lonc(settings) as lonc, open(sys.argv[2], "a") as notes:
        for number in itertools.count(int(sys.argv[3])):
            reply = lonc.critical(f"put:{number}", "l1")
            print(number, reply.decode(), file=notes, flush=True)
