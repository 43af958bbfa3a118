"""python -m tests.fuzz [SUBJECT …] [--minutes N] [--keep DIRECTORY]

Has libFuzzer, by way of atheris, look for bytes that break what must hold, each subject for so long and
on one core; a line for each says what came of it. An input that takes ten seconds is a find, and so is
one that takes a gigabyte. With --keep, finds stay there, and under `new` whatever went a new way.

Needs `pip install 'lonc[fuzz]'`.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from .subjects import SUBJECTS

LONGEST_INPUT = 4096
LIMITS = ["-timeout=10", "-rss_limit_mb=1024", f"-max_len={LONGEST_INPUT}"]


def fuzz(subject, minutes, kept):
    """A line with what came of it, and whether anything was found."""
    with tempfile.TemporaryDirectory() as place:
        words = Path(place) / "words"
        words.write_text("".join(_quoted(word) for word in subject.words))
        finds = kept or Path(place)
        new = finds / "new" / subject.name
        new.mkdir(parents=True, exist_ok=True)
        before = set(finds.iterdir())
        command = [
            *(sys.executable, "-m", "tests.fuzz.one", subject.name, new, subject.corpus),
            *(*LIMITS, f"-dict={words}", f"-artifact_prefix={finds}/{subject.name}-"),
            *(f"-max_total_time={minutes * 60:.0f}", "-print_final_stats=1"),
        ]
        with (Path(place) / "log").open("wb+") as log:
            status = subprocess.call(command, stdout=log, stderr=log)
            log.seek(0)
            said = log.read().decode(errors="replace")
        found = sorted(set(finds.glob(f"{subject.name}-*")) - before)
        executions = _last(r"number_of_executed_units: (\d+)", said)
        coverage = _last(r" cov: (\d+)", said)
        told = f"{subject.name}: {executions} executions, coverage {coverage}, {len(found)} findings"
        if status or found:
            told += "".join(f"\n{path.name}: {path.read_bytes()!r}" for path in found)
            told += f"\nexit status {status}\n{said[said.rfind('=== Uncaught') :][-5000:]}"
        return told, bool(status or found)


def _quoted(word):
    return '"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n'


def _last(pattern, text):
    found = re.findall(pattern, text)
    return found[-1] if found else "?"


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n\n")[1])
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=f"of {', '.join(SUBJECTS)}")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY")
    options = parser.parse_args()
    if unknown := set(options.subjects) - set(SUBJECTS):
        parser.error(f"there is no {', '.join(unknown)}")
    failed = False
    for name in options.subjects or SUBJECTS:
        told, found = fuzz(SUBJECTS[name], options.minutes, options.keep)
        print(told, flush=True)
        failed |= found
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
