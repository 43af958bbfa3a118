"""Splits the bytes of a fuzzer into a stream that arrives in pieces."""

import itertools

MAX_PIECES = 100  # pieces; the last one takes all the rest


def in_pieces(data):
    """Return (bytes, flag, flag) for each piece.

    The first byte is the number of control bytes behind it, modulo 8, plus 1. Each control byte gives
    the length and the flags of a piece; they are used in turn. The rest is the stream.
    """
    count = data[0] % 8 + 1 if data else 0
    controls, rest = data[1 : 1 + count], data[1 + count :]
    pieces = []
    for control in itertools.islice(itertools.cycle(controls), MAX_PIECES):
        if not rest:
            break
        size = control % 64 + 1 if len(pieces) < MAX_PIECES - 1 else len(rest)
        pieces.append((rest[:size], bool(control & 64), bool(control & 128)))
        rest = rest[size:]
    return pieces
