"""A program that asks for what must not get lost, one after the other, and notes what it was told.

python writer.py CONFIGURATION NOTES FIRST    requests are put:FIRST and so on, to l1
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
            told = lonc.critical(f"put:{number}", "l1")
            print(number, told.decode(), file=notes, flush=True)
