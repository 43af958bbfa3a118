"""python -m tests.fuzz [SUBJECT …] [--minutes N] [--keep DIRECTORY]

Runs libFuzzer (through atheris) on each subject for N minutes on one core; prints a line per subject. An
input is a finding if it breaks an invariant, takes ten seconds, or takes a gigabyte of memory. With
--keep, findings stay in DIRECTORY, and inputs that reached new code in DIRECTORY/new.

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
    """Fuzz one subject. Returns its report, and whether there is a finding."""
    with tempfile.TemporaryDirectory() as place:
        words = Path(place) / "words"
        words.write_text("".join(_quoted(word) for word in subject.words))
        findings = kept or Path(place)
        new = findings / "new" / subject.name
        new.mkdir(parents=True, exist_ok=True)
        before = set(findings.iterdir())
        command = [
            *(sys.executable, "-m", "tests.fuzz.one", subject.name, new, subject.corpus),
            *(*LIMITS, f"-dict={words}", f"-artifact_prefix={findings}/{subject.name}-"),
            *(f"-max_total_time={minutes * 60:.0f}", "-print_final_stats=1"),
        ]
        with (Path(place) / "log").open("wb+") as log:
            status = subprocess.call(command, stdout=log, stderr=log)
            log.seek(0)
            output = log.read().decode(errors="replace")
        found = sorted(set(findings.glob(f"{subject.name}-*")) - before)
        executions = _last(r"number_of_executed_units: (\d+)", output)
        coverage = _last(r" cov: (\d+)", output)
        report = f"{subject.name}: {executions} executions, coverage {coverage}, {len(found)} findings"
        if status or found:
            report += "".join(f"\n{path.name}: {path.read_bytes()!r}" for path in found)
            report += f"\nexit status {status}\n{output[output.rfind('=== Uncaught') :][-5000:]}"
        return report, bool(status or found)


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
        report, found = fuzz(SUBJECTS[name], options.minutes, options.keep)
        print(report, flush=True)
        failed |= found
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
