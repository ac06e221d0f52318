"""What a turn changed in a large state, so that a small change does not rewrite it all.

Histories grow at their end, and elsewhere change in place: what is at the same offset is compared block by block. A
change that moves everything (an insertion in front) finds no small delta, and the state is written anew.
"""

from collections.abc import Iterable, Iterator

import msgspec

_PIECE = 64 * 1024  # what is equal is passed over in steps of this
_BLOCK = 1024


class Delta(msgspec.Struct, array_like=True):
    """Pieces to put into a state, by offset, and its size after that."""

    size: int
    pieces: list[tuple[int, bytes]]


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Delta)


def difference(old: bytes, new: bytes, *, limit: int) -> bytes | None:
    """The encoded delta that makes ``new`` of ``old``, None if its pieces have more than ``limit`` bytes."""
    pieces: list[tuple[int, bytes]] = []
    total = 0
    for offset in _unequal(old, new):
        block = new[offset : offset + _BLOCK]
        if block == old[offset : offset + _BLOCK]:
            continue
        total += len(block)
        if total > limit:
            return None
        if pieces and pieces[-1][0] + len(pieces[-1][1]) == offset:
            pieces[-1] = pieces[-1][0], pieces[-1][1] + block
        else:
            pieces.append((offset, block))
    return _encode(Delta(len(new), [_trimmed(offset, piece, old) for offset, piece in pieces]))


def _unequal(old: bytes, new: bytes) -> Iterator[int]:
    """Where the blocks begin that may differ."""
    for start in range(0, len(new), _PIECE):
        if new[start : start + _PIECE] != old[start : start + _PIECE]:
            yield from range(start, min(start + _PIECE, len(new)), _BLOCK)


def _trimmed(offset: int, piece: bytes, old: bytes) -> tuple[int, bytes]:
    """The piece without what is the same at its beginning and, where it does not change the size, at its end."""
    before = old[offset : offset + len(piece)]
    front = _equal(piece, before)
    if len(before) < len(piece):
        return offset + front, piece[front:]
    back = _equal(piece[front:][::-1], before[front:][::-1])
    return offset + front, piece[front : len(piece) - back]


def _equal(one: bytes, other: bytes) -> int:
    """How many bytes are equal from the start."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def apply(state: bytes, deltas: Iterable[bytes]) -> bytes:
    """The state after these deltas, one after the other."""
    buffer = bytearray(state)
    for encoded in deltas:
        delta = _decoder.decode(encoded)
        del buffer[delta.size :]
        for offset, piece in delta.pieces:
            buffer[offset : offset + len(piece)] = piece
    return bytes(buffer)
