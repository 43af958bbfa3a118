"""Makes those parts of the documents that say again what the source declares.

    python3 doc/generate.py            rewrite the documents
    python3 doc/generate.py --check    print the names of documents that are out of date, and exit with 1

It runs from a checkout, with or without an installation. `etc/loncapa.conf` is made as a whole. In
Markdown and in manual pages it replaces what stands between two marks:

    <!-- generated: settings -->         .\\" generated: settings
    <!-- end -->                         .\\" end
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # this checkout's lonc, not an installed one

from lonc.commands.declarations import COMMANDS, GROUPS  # noqa: E402
from lonc.commands.usage import Argument, Command  # noqa: E402
from lonc.configuration import DECLARATIONS, Declaration  # noqa: E402
from lonc.errors import EXIT_STATUSES  # noqa: E402

CONFIGURATION = "etc/loncapa.conf"
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "doc/*.md", "etc/man/*")

MARKED = {
    ".md": re.compile(r"(<!-- generated: ([a-z ]+) -->\n).*?(<!-- end -->\n)", re.DOTALL),
    ".man": re.compile(r"(\.\\\" generated: ([a-z ]+)\n).*?(\.\\\" end\n)", re.DOTALL),
}

HEADER = """\
# The settings of lonc. To start, set lonHostID and copy this file to /etc/lonc/loncapa.conf. A line that
# begins with # shows a default, or an example where the default is none.
"""

TABLE_HEAD = "| setting | default | values | meaning |\n|---|---|---|---|\n"
SENTENCES = r"(?<=\.) (?=[A-Z`])"
RESTART = "A change takes effect at a restart."


def documents() -> dict[Path, str]:
    """Every document that has a generated part, with the text that it should have."""
    made = {ROOT / CONFIGURATION: configuration()}
    for pattern in DOCUMENTS:
        for file in sorted(ROOT.glob(pattern)):
            kind = ".md" if file.suffix == ".md" else ".man"
            text = file.read_text()
            replaced = MARKED[kind].sub(lambda match, kind=kind: _replace(match, kind), text)
            if MARKED[kind].search(text):
                made[file] = replaced
    return made


def _replace(match: re.Match[str], kind: str) -> str:
    part = PARTS.get((match[2], kind))
    if part is None:
        raise SystemExit(f"generate.py: there is no part {match[2]!r} for a {kind} document")
    return match[1] + part() + match[3]


def configuration() -> str:
    """`etc/loncapa.conf`: each setting at its default, commented out, below its meaning."""
    lines = [HEADER]
    for setting in DECLARATIONS.values():
        if setting.section:
            lines.append(f"\n# {setting.section}\n# {'-' * len(setting.section)}\n")
        meaning = " ".join([*sentences(setting), f"Values: {_values(setting)}."]).replace("`", "")
        lines += [f"\n{textwrap.fill(meaning, 105, initial_indent='# ', subsequent_indent='# ')}\n"]
        mark = "" if setting.default == "" else "#"
        lines.append(f"{mark}PerlSetVar {setting.name} {setting.default or setting.example}\n")
    return "".join(lines)


def settings_table() -> str:
    """For Markdown: a table for each section."""
    lines = []
    for setting in DECLARATIONS.values():
        if setting.section:
            lines.append(f"\n### {setting.section}\n\n{TABLE_HEAD}")
        meaning = " ".join(sentences(setting))
        lines.append(f"| `{setting.name}` | {_default(setting)} | {_values(setting)} | {meaning} |\n")
    return "".join(lines) + "\n"


def settings_list() -> str:
    """For mdoc: an item for each setting."""
    lines = []
    for setting in DECLARATIONS.values():
        if setting.section:
            lines += [".El\n"] if lines else []
            lines.append(f".Ss {setting.section}\n.Bl -tag -width Ds\n")
        default = f" Pq default Li {setting.default}" if setting.default else ""
        lines.append(f".It Cm {setting.name}{default}\n")
        lines += [mdoc(sentence) for sentence in (*sentences(setting), f"Values: {_values(setting)}.")]
    return "".join(lines) + ".El\n"


def sentences(setting: Declaration) -> list[str]:
    """The meaning of a setting."""
    found = re.split(SENTENCES, setting.help)
    return [*found, RESTART] if setting.restart else found


def mdoc(sentence: str) -> str:
    """A sentence with `literals`, as lines of mdoc."""
    lines: list[str] = []
    parts = re.split(r"(\(?)`([^`]*)`([).,:;]*)", sentence)
    for words, bracket, literal, punctuation in zip(*(iter([*parts, "", "", ""]),) * 4, strict=True):
        lines += textwrap.wrap(words.strip(), 78)
        if not literal:
            continue
        macro = ".Li"
        if bracket and punctuation.startswith(")"):
            macro, punctuation = ".Pq Li", punctuation[1:]
        escaped = re.sub(r"([.,:;])$", r"\\&\1", literal)  # not punctuation of the sentence
        lines.append(" ".join([macro, escaped, *punctuation]))
    return "".join(f"{line}\n" for line in lines)


def _default(setting: Declaration) -> str:
    if setting.default is None:
        return "none"
    return f"`{setting.default}`" if setting.default else "required"


def _values(setting: Declaration) -> str:
    return f"{setting.read.accepts} {setting.read.unit}".rstrip()


def command_tables() -> str:
    """For Markdown: a section for each group of commands, a heading for each command."""
    lines = []
    for group, title in GROUPS.items():
        lines.append(f"\n## {title[0].upper()}{title[1:]}\n")
        for command in _runnable(group):
            line = " ".join([f"lonc {command.name}", *map(usage, command.arguments)])
            lines.append(f"\n### lonc {command.name}\n\n    {line}\n\n")
            lines.append(textwrap.fill(command.description, 115) + "\n")
            if command.arguments:
                lines.append("\n| argument | meaning |\n|---|---|\n")
            for argument in command.arguments:
                lines.append(f"| `{_without_brackets(usage(argument))}` | {argument.help} |\n")
            lines.append(f"\nExample: `lonc {command.example}`\n")
    return "".join(lines) + "\n"


def command_list() -> str:
    """For mdoc: a list for each group of commands."""
    lines = []
    for group, title in GROUPS.items():
        lines.append(f".Ss {title[0].upper()}{title[1:]}\n.Bl -tag -width Ds\n")
        for command in _runnable(group):
            words = [f".It Cm {command.name}"]
            words += [_mdoc_usage(argument) for argument in command.arguments]
            lines.append(" ".join(words) + "\n")
            lines += [mdoc(sentence) for sentence in re.split(SENTENCES, command.description)]
            if command.arguments:
                lines.append(".Bl -tag -width Ds -compact\n")
                for argument in command.arguments:
                    lines.append(f".It {_mdoc_argument(argument)}\n{mdoc(_sentence(argument.help))}")
                lines.append(".El\n")
        lines.append(".El\n")
    return "".join(lines)


def _runnable(group: str) -> list[Command]:
    return [command for command in COMMANDS if command.group == group and command.run is not None]


def _sentence(phrase: str) -> str:
    return f"{phrase[0].upper()}{phrase[1:]}."


def usage(argument: Argument) -> str:
    """An argument as in the first line of `lonc help COMMAND`."""
    name, value = argument.names[0], argument.options.get("metavar", "")
    if name.startswith("-"):
        return f"[{name} {value}".rstrip() + "]"
    return {"?": f"[{value}]", "*": f"[{value} ...]"}.get(argument.options.get("nargs"), value)


def _without_brackets(text: str) -> str:
    return text[1:-1] if text.startswith("[") else text


def _mdoc_argument(argument: Argument) -> str:
    name, value = argument.names[0], argument.options.get("metavar", "").lower()
    flag = [f"Fl {name[1:]}"] if name.startswith("-") else []
    return " ".join([*flag, *([f"Ar {value}"] if value else [])])


def _mdoc_usage(argument: Argument) -> str:
    nargs = argument.options.get("nargs")
    inner = _mdoc_argument(argument) + (" ..." if nargs == "*" else "")
    optional = nargs in ("?", "*") or argument.names[0].startswith("-")
    return f"Oo {inner} Oc" if optional else inner


def exit_status_table() -> str:
    """For Markdown."""
    lines = ["\n| status | command | meaning |\n|---|---|---|\n"]
    for status, command, meaning in EXIT_STATUSES:
        lines.append(f"| {status} | {f'`{command}`' if command else 'any'} | {meaning} |\n")
    return "".join(lines) + "\n"


def exit_status_list() -> str:
    """For mdoc: a list of those of all commands, and one for each command with its own."""
    lines = []
    for command in dict.fromkeys(command for _, command, _ in EXIT_STATUSES):
        if command:
            lines.append(f".Pp\n.Cm {command} :\n")
        lines.append(".Bl -tag -width Ds -compact\n")
        for status, of, meaning in EXIT_STATUSES:
            if of == command:
                lines.append(f".It {status}\n{mdoc(meaning)}")
        lines.append(".El\n")
    return "".join(lines)


PARTS: dict[tuple[str, str], Callable[[], str]] = {
    ("settings", ".md"): settings_table,
    ("settings", ".man"): settings_list,
    ("commands", ".md"): command_tables,
    ("commands", ".man"): command_list,
    ("exit statuses", ".md"): exit_status_table,
    ("exit statuses", ".man"): exit_status_list,
}


def main() -> int:
    stale = {
        file: text for file, text in documents().items() if not file.exists() or file.read_text() != text
    }
    for file, text in stale.items():
        print(file.relative_to(ROOT))
        if "--check" not in sys.argv:
            file.write_text(text)
    return int(bool(stale) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
