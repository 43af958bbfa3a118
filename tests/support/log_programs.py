"""Programs that tests of the log run in processes of their own, for their standard error."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from support.clock import FakeClock

from lonc.log import RateLimitedLog, log_as, logger, open_log


class _Clock(FakeClock):
    """A clock that also has deadlines."""

    def __init__(self) -> None:
        super().__init__(0)
        self._set: list[tuple[float, Callable[[], None]]] = []

    def after(self, seconds: float, callback: Callable[[], None]) -> None:
        self._set.append((self.now + seconds, callback))

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        due = [callback for when, callback in self._set if when <= self.now]
        self._set = [each for each in self._set if each[0] > self.now]
        for callback in due:
            callback()


def opened(level, sentence, *arguments):
    open_log(level)
    logger.warning(sentence, *arguments)


def as_a_child():
    open_log("info")
    log_as("msul1")
    logger.info(os.getpid())


def at_each_level(level):
    open_log(level)
    logger.debug("debug")
    logger.info("info")
    logger.warning("warning")
    logger.error("error")


def three_times_and_go_on():
    open_log("info")
    for _ in range(3):
        logger.info("x")
    print("went on")


def with_a_root_logger():
    open_log("info")
    logging.basicConfig()
    logger.info("once")


# The rate limit


def _limited():
    open_log("info")
    clock = _Clock()
    return RateLimitedLog(clock, "l1: "), clock


def repeats():
    limited, clock = _limited()
    for _ in range(3):
        limited.warn("it is lost")
    clock.advance(59)
    logger.info("59 s")
    clock.advance(1)
    limited.warn("it is lost")
    clock.advance(60)
    clock.advance(60)  # a quiet minute: after it the message is new
    limited.warn("it is lost")


def logged_in_other_words():
    limited, clock = _limited()
    limited.mark_logged("it is lost")
    limited.warn("it is lost")
    limited.mark_logged("it is lost")  # changes nothing
    clock.advance(60)


def a_thousand_thrice():
    limited, clock = _limited()
    for _ in range(3):
        for number in range(1000):
            limited.warn(f"message {number}")
    clock.advance(60)
    logger.info("next minute")
    limited.warn("message 999")


def a_few_too_many_each_minute():
    limited, clock = _limited()
    for number in range(101):
        limited.warn(str(number))
    clock.advance(60)
    for number in range(200, 302):
        limited.warn(str(number))
    clock.advance(60)
    clock.advance(60)
    limited.warn("new")


def twenty_thousand():
    limited, clock = _limited()
    for number in range(20000):
        limited.warn(str(number))
    held = len(limited._unlogged)
    clock.advance(60)
    logger.info("%d %d", held, len(limited._unlogged))


def with_a_percent_sign():
    limited, clock = _limited()
    limited.warn("100 %s")
    limited.warn("100 %s")
    clock.advance(60)


# Files


def renamed_and_removed(log):
    file = Path(log)
    open_log("info", file)
    logger.info("one")
    file.rename(file.with_name("lonc.log.1"))
    logger.info("two")
    logger.info("three")
    file.unlink()
    logger.info("four")
    file.parent.rename(file.parent.with_name("old"))
    logger.info("five")
    file.parent.mkdir()
    os.write(2, b"a word of somebody else\n")
    logger.info("six")


def cut_by_a_full_disk():
    open_log("info")
    write = os.write
    os.write = lambda fd, data: write(fd, data[:30])
    logger.info("first")
    os.write = write
    logger.info("second")
    logger.info("third")


def replaced_by_a_fifo(log):
    file = Path(log)
    open_log("info", file)
    file.rename(file.with_name("moved"))
    os.mkfifo(file)
    logger.info("written on")


def count_opens(log):
    open_log("info", Path(log))
    opens, open_ = [], os.open
    os.open = lambda *arguments: opens.append(arguments) or open_(*arguments)
    logger.info("one")
    logger.info("two")
    os.open = open_
    logger.info("%d %s", len(opens), os.get_inheritable(2))
