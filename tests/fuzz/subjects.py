"""Each subject by its name: the function that checks a parser's invariants, and words for the fuzzer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import client_line, delayed_file, dialogue, enc_line, status_report, tables, tunnel

CORPUS = Path(__file__).with_name("corpus")


@dataclass(frozen=True)
class Subject:
    """`check(data)` raises AssertionError if the invariant of its docstring does not hold."""

    check: Callable[[bytes], None]
    words: Sequence[bytes]

    @property
    def name(self) -> str:
        return self.check.__name__

    @property
    def corpus(self) -> Path:
        return CORPUS / self.name


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject(status_report.status_report, status_report.WORDS),
        Subject(delayed_file.delayed_file, delayed_file.WORDS),
        Subject(tables.hosts, tables.HOSTS_WORDS),
        Subject(tables.configuration, tables.CONFIGURATION_WORDS),
        Subject(client_line.client_line, client_line.WORDS),
        Subject(enc_line.enc_line, enc_line.WORDS),
        Subject(dialogue.dialogue, dialogue.WORDS),
        Subject(tunnel.tunnel, tunnel.WORDS),
    )
}
