"""A clock that a test moves: timeouts of any length pass at once."""


class FakeClock:
    """A clock for `EventLoop(clock)`; after `advance`, `loop.turn(0)` calls all due deadlines."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds
