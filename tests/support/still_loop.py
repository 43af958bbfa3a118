"""An event loop with a fake clock: the test advances it, and makes descriptors readable."""

import heapq
import itertools


class StillLoop:
    """The methods of EventLoop that set deadlines and watch descriptors for reading."""

    def __init__(self):
        self.now = 1000.0
        self._deadlines = []
        self._order = itertools.count()
        self._watches = []

    def at(self, when, callback):
        deadline = _Deadline(callback)
        heapq.heappush(self._deadlines, (when, next(self._order), deadline))
        return deadline

    def after(self, seconds, callback):
        return self.at(self.now + seconds, callback)

    def watch(self, file, on_readable):
        watch = _Watch(self._watches, file, on_readable)
        self._watches.append(watch)
        return watch

    def advance(self, seconds, but=None):
        """Advance by `seconds`, calling deadlines in order; those of the callback `but` stay pending."""
        until, put_off = self.now + seconds, []
        while self._deadlines and self._deadlines[0][0] <= until:
            entry = heapq.heappop(self._deadlines)
            when, _, deadline = entry
            if deadline.callback is None:
                continue
            if deadline.callback == but:
                put_off.append(entry)
                continue
            self.now = max(self.now, when)
            deadline.callback()
        self.now = until
        for entry in put_off:
            heapq.heappush(self._deadlines, entry)

    def due(self, callback):
        """The times for which `callback` is scheduled."""
        return [when for when, _, deadline in self._deadlines if deadline.callback == callback]

    def is_watched(self, file):
        return any(watch.file is file for watch in self._watches)

    def make_readable(self, file):
        for watch in [each for each in self._watches if each.file is file]:
            watch.on_readable()


class _Deadline:
    def __init__(self, callback):
        self.callback = callback

    def cancel(self):
        self.callback = None


class _Watch:
    def __init__(self, watches, file, on_readable):
        self.file = file
        self.on_readable = on_readable
        self._watches = watches

    def forget(self):
        self._watches.remove(self)
