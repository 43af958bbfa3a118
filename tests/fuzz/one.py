"""One subject in the hands of libFuzzer: python -m tests.fuzz.one SUBJECT, and its own arguments."""

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
