"""python -m tests.fuzz.one SUBJECT ARGUMENT…: libFuzzer on one subject, with its arguments."""

import logging
import sys

import atheris

with atheris.instrument_imports(include=["lonc"]):
    from .subjects import SUBJECTS

if __name__ == "__main__":
    logging.disable()
    subject = SUBJECTS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, subject.check)
    atheris.Fuzz()
