"""How bytes of a fuzzer become a stream that comes in pieces."""

import itertools

MOST = 100  # pieces; what would come behind them comes with the last


def in_pieces(data):
    """The pieces, each with two flags of its own.

    The first byte says how many of the next say how long the pieces are, in turn, and their flags; the
    stream is what stands behind.
    """
    count = data[0] % 8 + 1 if data else 0
    hows, rest = data[1 : 1 + count], data[1 + count :]
    pieces = []
    for how in itertools.islice(itertools.cycle(hows), MOST):
        if not rest:
            break
        size = how % 64 + 1 if len(pieces) < MOST - 1 else len(rest)
        pieces.append((rest[:size], bool(how & 64), bool(how & 128)))
        rest = rest[size:]
    return pieces
