"""Becomes the daemon: in the foreground, or in a process that is detached from its starter."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

from daemon import DaemonContext
from setproctitle import getproctitle

from lonc.configuration import Settings
from lonc.errors import Busy, CannotStart, LoncError, NoPermission
from lonc.lifecycle import instance, privileges
from lonc.lifecycle.control_client import ask, ask_phase
from lonc.lifecycle.instance import Instance, State
from lonc.lifecycle.other_lonc import other_lonc
from lonc.lifecycle.privileges import Identity
from lonc.log import in_one_line, logger, open_log
from lonc.monitoring.status import Phase
from lonc.parent.parent import Parent
from lonc.parent.preflight import require_usable, within_limits
from lonc.runtime.process import forbid_core_dumps, forbid_tracing, fork
from lonc.runtime.socket_file import CannotListen, require_no_other_file, require_writable_directory
from lonc.sources import Load, Sources
from lonc.wire.cipher import require_idea

UMASK = 0o027
SILENT_AT_MOST = 1.0  # seconds; if the owner of the lock reports no phase for longer, start fails

# What a daemon keeps of its environment: paths of programs and libraries, language and time zone.
ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LC_MESSAGES", "TZ")

# What the daemon reports to `start`, followed by a sentence.
SERVES, IS_BUSY, CANNOT = b"serves", b"is_busy", b"cannot"


def run(sources: Sources, load: Load, take_over: bool = False) -> None:
    """Serve in the foreground until a signal or `stop` ends it.

    `take_over`: also where another lonc serves, as the original. Raises CannotStart.
    """
    require_idea()
    os.umask(UMASK)
    forbid_core_dumps()
    who = _become_the_user(sources, load)
    with _sole_instance(sources, take_over) as daemon:
        if as_whom := _as_whom(who):
            logger.info("lonc runs%s", as_whom)
        Parent(sources, load, on_ready=daemon.announce).run()


def obstacles(sources: Sources, load: Load, take_over: bool = False) -> Iterator[str]:
    """Yields a sentence for each reason for which lonc cannot start, or start again. Changes nothing."""
    settings, hosts = sources.settings, sources.hosts
    for directory, name in instance.directories(settings):
        if not os.path.exists(directory) and not os.path.isdir(directory.parent):
            yield f"cannot make {directory} ({name}): there is no {directory.parent}"
        elif os.path.exists(directory) and not os.path.isdir(directory):
            yield f"{directory} ({name}) is no directory"
    if os.path.lexists(settings.delayed_directory) and not os.path.isdir(settings.delayed_directory):
        yield f"cannot make {settings.delayed_directory} (lonSockDir): File exists"
    requirements: list[Callable[[], object]] = [
        require_idea,
        partial(within_limits, settings, len(hosts)),
        partial(privileges.require_closed, settings.socket_directory, "lonSockDir"),
        *(partial(require_no_other_file, settings.socket_directory / host.name) for host in hosts),
    ]
    if not take_over and _no_lonc_of_ours(settings):
        requirements.append(partial(_require_no_other_lonc, sources))
    for requirement in requirements:
        try:
            requirement()
        except (CannotListen, CannotStart) as error:
            yield str(error)
    log = settings.log_file
    if os.path.isdir(log) or (os.path.exists(log) and not os.access(log, os.W_OK)):
        yield f"cannot write {log}"
    if os.geteuid() == 0:
        yield from _untrusted_files(sources)
    yield from instance.held_by_others(settings)
    yield from _missing_to_user(settings, load)


def start(sources: Sources, load: Load, take_over: bool = False) -> str:
    """Start a daemon, unless there is one; returns a sentence about that once every child serves.

    `take_over`: also where another lonc serves, as the original. Raises CannotStart; no process is left
    then.
    """
    settings = sources.settings
    require_idea()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if it is ignored, os.waitpid fails
    silent_since: float | None = None
    while True:
        word, sentence = _launch(sources, load, take_over)
        if word == SERVES:
            return sentence
        if word == CANNOT:
            raise CannotStart(sentence)
        # The lock is held: by the daemon that is wanted, in one of its phases, or by another.
        found, phase = instance.settled(settings), ask_phase(settings)
        if found.state is State.RUNNING and phase in (Phase.RUNNING, Phase.RELOADING):
            with contextlib.suppress(LoncError):
                ask(settings, "retry")  # a start is a request to connect, too
            return f"lonc is running already, pid {found.pid}"
        if phase is Phase.STOPPING:
            silent_since = None
            while instance.find(settings) == found:
                time.sleep(instance.PAUSE)
        elif silent_since is None:
            silent_since = time.monotonic()
        elif time.monotonic() - silent_since > SILENT_AT_MOST:
            if found.state is State.RUNNING:
                sentence = f"lonc is running already, pid {found.pid}, and does not answer"
            raise CannotStart(sentence)
        time.sleep(instance.PAUSE)


def _launch(sources: Sources, load: Load, take_over: bool) -> tuple[bytes, str]:
    """Fork a daemon and wait for its report; unless that is SERVES, also for its end."""
    ours, theirs = os.pipe()
    pid = fork(partial(_be_daemon, theirs, sources, load, take_over))
    os.close(theirs)
    with open(ours, "rb") as report:
        line = report.read()
    os.waitpid(pid, 0)
    word, _, sentence = line.partition(b" ")
    if not line:
        return CANNOT, f"the daemon ended without a report; see {sources.settings.log_file}"
    return word, sentence.decode()


def _be_daemon(report_fd: int, sources: Sources, load: Load, take_over: bool) -> int:
    """The new process: from here on only the daemon speaks."""
    settings = sources.settings
    report = _Report(report_fd)

    def ready() -> None:
        daemon.announce()
        report.send(SERVES, f"lonc is started, pid {os.getpid()}{_as_whom(who)}")
        report.close()

    try:
        who = _become_the_user(sources, load)
        _open_log(settings)
        with DaemonContext(
            detach_process=True,
            umask=UMASK,  # (and no core dumps, by default)
            signal_map={},
            files_preserve=[report_fd],
            stderr=sys.stderr,  # which is the log by now
        ):
            _forget_environment()
            with _sole_instance(sources, take_over) as daemon:
                Parent(sources, load, ready).run()
        report.send(CANNOT, "it was stopped before it served")  # does nothing if it has served
    except Busy as error:
        report.send(IS_BUSY, str(error))
    except CannotStart as error:
        report.send(CANNOT, str(error))
    except Exception as crash:  # a daemon has no terminal for a traceback
        logger.critical("%s", in_one_line(crash))
        report.send(CANNOT, str(crash) if isinstance(crash, OSError) else in_one_line(crash))
    else:
        return 0
    return 1


@contextlib.contextmanager
def _sole_instance(sources: Sources, take_over: bool) -> Iterator[Instance]:
    """Hold the locks of the daemon. Raises CannotStart, also if another lonc serves."""
    with instance.hold(sources.settings) as daemon:
        if not take_over:
            _require_no_other_lonc(sources)
        yield daemon


def _no_lonc_of_ours(settings: Settings) -> bool:
    try:
        return instance.find(settings).state in (State.NOT_RUNNING, State.DEAD)
    except NoPermission:
        return False  # cannot tell


def _require_no_other_lonc(sources: Sources) -> None:
    if (other := other_lonc(sources.settings, sources.hosts)) is not None:
        raise CannotStart(f"another lonc serves: {other}; stop it, or start with --take-over")


def _as_whom(who: Identity | None) -> str:
    """For a sentence: as which user the daemon runs, if no setting names it."""
    return "" if who is None or who.why == "loncUser" else f", as {who}"


def _become_the_user(sources: Sources, load: Load) -> Identity | None:
    """Make missing directories and become the daemon's user, whom nobody may trace; returns it.

    Raises CannotStart.
    """
    settings = sources.settings
    who = privileges.identity(settings)
    if os.geteuid() == 0:
        for sentence in privileges.untrusted_files(sources, who):
            raise CannotStart(sentence)
    instance.make_directories(settings, who if os.geteuid() == 0 else None)
    privileges.require_closed(settings.socket_directory, "lonSockDir")
    if who is None:
        forbid_tracing()
        return None
    files = privileges.own_files(settings)
    if os.geteuid() == 0:
        for path in files:
            with contextlib.suppress(OSError):  # what is missing then is reported below
                privileges.hand_over(path, who)
        # The user may have no permission to read Python's modules: import all that is needed now.
        import encodings.idna  # noqa: F401 (getaddrinfo needs it)

        _unusable_files(settings)
    privileges.become(who)
    for sentence in privileges.missing_permissions(who, settings, files, load):
        raise CannotStart(sentence)
    forbid_tracing()  # becoming another user has allowed it again
    return who


def _untrusted_files(sources: Sources) -> list[str]:
    try:
        return list(privileges.untrusted_files(sources, privileges.identity(sources.settings)))
    except CannotStart:  # reported elsewhere
        return []


def _missing_to_user(settings: Settings, load: Load) -> list[str]:
    """One sentence for each permission that the daemon's user lacks after a start has changed owners."""
    try:
        who = privileges.identity(settings)
    except CannotStart as error:
        return [str(error)]
    unusable = _unusable_files(settings)  # (also imports what the user may be unable to read)
    if who is None:
        return unusable
    files = [
        path for path in privileges.own_files(settings) if not privileges.would_hand_over(path, who)
    ]

    def ask() -> list[str]:
        return list(privileges.missing_permissions(who, settings, files, load)) or _unusable_files(
            settings
        )

    return list(dict.fromkeys(privileges.answered_as(who, ask)))


def _unusable_files(settings: Settings) -> list[str]:
    try:
        require_usable(settings)
        if (place := settings.create_socket) is not None:
            require_no_other_file(place)
            if place.parent != settings.socket_directory:  # that one may be made at the start
                require_writable_directory(place)
    except (CannotListen, CannotStart) as error:
        return [str(error)]
    return []


class _Report:
    """The pipe to `start`. After a failure it stays open, so that it ends with the daemon."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    def send(self, word: bytes, sentence: str) -> None:
        if self._fd is not None:
            with contextlib.suppress(OSError):  # `start` may have ended
                os.write(self._fd, word + b" " + sentence.encode(errors="replace"))

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _open_log(settings: Settings) -> None:
    try:
        open_log(settings.log_level, settings.log_file)
    except OSError as error:
        raise CannotStart(f"cannot write {settings.log_file}: {error.strerror}") from error


def _forget_environment() -> None:
    getproctitle()  # finds the memory of the title by the environment, so before that is deleted
    for name in set(os.environ) - set(ENVIRONMENT):
        del os.environ[name]
