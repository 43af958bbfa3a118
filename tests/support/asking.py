"""A transaction for tests."""

from lonc.child.transaction import Transaction


class Asked(Transaction):
    """Calls `on_reply` or `on_failure` once when it ends, unless it is `abandoned` by then."""

    def __init__(self, request, on_reply, on_failure):
        self.request = request
        self.since = 0.0
        self.abandoned = False
        self._on_reply = on_reply
        self._on_failure = on_failure
        self._ended = False

    def complete(self, reply):
        self._end(self._on_reply, reply)

    def fail(self, why):
        self._end(self._on_failure, why)

    def abandon(self):
        self.abandoned = True

    def _end(self, callback, result):
        assert not self._ended, "a transaction ends once"
        self._ended = True
        if not self.abandoned:
            callback(result)


class Order:
    """A line at one of the parent's sockets, and the replies to it."""

    def __init__(self, line):
        self.request = line
        self.replies = []

    def complete(self, reply):
        self.replies.append(reply)

    @property
    def reply(self):
        (reply,) = self.replies
        assert reply.endswith(b"\n")
        return reply[:-1]
