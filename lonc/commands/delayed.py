"""The commands that manage delayed transactions and the keys that seal them."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from lonc.commands.loading import load_settings
from lonc.commands.output import print_error, say
from lonc.configuration import Settings
from lonc.errors import DONE, FAILED, LoncError, UsageError
from lonc.escape import escaped
from lonc.lifecycle.privileges import hand_over, identity
from lonc.monitoring.health import short_time
from lonc.spool import admin
from lonc.spool.admin import Entry
from lonc.spool.sealing import add_key, read_keys


def keygen(options: argparse.Namespace) -> int:
    settings = load_settings(options)
    file: Path | None = options.file or settings.delayed_key_file
    if file is None:
        raise UsageError("loncDelayedKeyFile is not set: name a file")
    file = file.absolute()
    is_new = not os.path.lexists(file)
    try:
        key_id = add_key(file, like=settings.socket_directory)
        if is_new and not settings.socket_directory.exists():
            _hand_over(file, settings)
    except FileExistsError as error:
        raise LoncError(
            f"{error.filename} is in the way: another keygen's, or left by one that died; then remove it"
        ) from error
    except OSError as error:
        raise LoncError(f"cannot write {file}: {error.strerror}") from error
    say(f"{file}: the key {key_id} seals from now on")
    if is_new:
        say("Its owner and group may read it: lonc must be one of them, and programs that save.")
        say("Keep a copy elsewhere: without it nobody can read what was sealed.")
    if file != settings.delayed_key_file:
        say(f"Write `PerlSetVar loncDelayedKeyFile {file}` into the configuration, and `lonc reload`.")
    say("`lonc delayed reseal` seals with it what waits already.")
    if not is_new:
        say("When `lonc delayed list`, also with --bad, shows an older key no more, it may go.")
    return DONE


def _hand_over(file: Path, settings: Settings) -> None:
    """Give the key file to loncUser: before the first start, no directory shows its owner."""
    user = identity(settings)
    if user is not None and os.geteuid() == 0:
        hand_over(file, user, group=True)


def list_(options: argparse.Namespace) -> int:
    settings = load_settings(options)
    entries = admin.bad(settings) if options.bad else admin.waiting(settings)
    rows = [row for entry in entries if (row := _row(entry)) is not None]
    if not rows:
        say("no bad transactions" if options.bad else "no delayed transactions")
        return DONE
    rows.insert(0, ("NAME", "HOST", "AGE", "SIZE", "SEALED"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, host, age, size, sealed in rows:
        words = name.ljust(widths[0]), host.ljust(widths[1])
        say("  ".join([*words, age.rjust(widths[2]), size.rjust(widths[3]), sealed]))
    return DONE


def _row(entry: Entry) -> tuple[str, str, str, str, str] | None:
    """The columns of `delayed list`; None if the file no longer exists."""
    try:
        found = admin.stat_of(entry)
    except OSError:
        return None
    if found is None:
        return None
    since = found.st_mtime if entry.name is None else entry.name.time
    age = short_time(max(0.0, time.time() - since)).replace(" ", "")
    try:
        sealed = admin.sealed_with(entry) or "plain"
    except OSError:
        sealed = "unreadable"
    except LoncError:
        sealed = "no file"
    return _shown(entry.path.name), entry.host, age, str(found.st_size), sealed


def show(options: argparse.Namespace) -> int:
    settings = load_settings(options)

    found: list[bytes] = []

    def show_one(text: str) -> None:
        found.append(admin.request(settings, admin.find(settings, text, options.bad)))

    status = _each([options.name], show_one)
    for request in found:
        if sys.stdout.isatty():
            say(escaped(request))
        else:
            sys.stdout.buffer.write(request + b"\n")
    return status


def reseal(options: argparse.Namespace) -> int:
    settings = load_settings(options)
    if settings.delayed_key_file is None:
        raise UsageError("loncDelayedKeyFile is not set")
    keys = read_keys(settings.delayed_key_file)
    entries = {entry.path.name: entry for entry in admin.waiting(settings)}
    return _each(list(entries), lambda text: admin.reseal(settings, keys, entries[text], options.plain))


def requeue(options: argparse.Namespace) -> int:
    settings = load_settings(options)
    if bool(options.names) == options.all:
        raise UsageError("requeue needs names, or --all")
    names = options.names or [entry.path.name for entry in admin.bad(settings)]
    return _each(names, lambda text: admin.requeue(settings, admin.find(settings, text, True)))


def drop(options: argparse.Namespace) -> int:
    settings = load_settings(options)
    if bool(options.names) == (options.host is not None):
        raise UsageError("drop needs names, or --host ID")
    names = options.names
    if not names:
        entries = admin.bad(settings) if options.bad else admin.waiting(settings)
        names = [entry.path.name for entry in entries if entry.host == options.host]
        if not names:
            host = options.host
            raise UsageError(
                f"no bad transactions for {host}"
                if options.bad
                else f"no delayed transactions for {host}"
            )
    find = partial(admin.find, settings, only_bad=options.bad)
    return _each(names, lambda text: admin.drop(settings, find(text)))


def _each(names: Sequence[str], act: Callable[[str], str | None]) -> int:
    """Call `act` with each name and print its result or error. Returns the exit status."""
    for text in names:
        if "/" in text:
            raise UsageError(f"{text!r} is not a name: it has a slash")
    statuses = {DONE}
    for text in names:
        shown = _shown(text)
        try:
            result = act(text)
        except (LoncError, OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            print_error(f"{shown}: {why}")
            statuses.add(error.exit_status if isinstance(error, LoncError) else FAILED)
        else:
            if result is not None:
                say(f"{shown}: {result}")
    return FAILED if FAILED in statuses else max(statuses)


def _shown(name: str) -> str:
    return escaped(os.fsencode(name))
