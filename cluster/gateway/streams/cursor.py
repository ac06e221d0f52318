"""Cursors of live reads: they rise, so that a cache never answers the same live read for ever (protocol, 10.1)."""

import random
from datetime import UTC, datetime

_EPOCH = datetime(2024, 10, 9, tzinfo=UTC).timestamp()
_INTERVAL = 20
_MOST_JITTER = 3600


def next_cursor(now: float, asked_with: str | None) -> str:
    """The number of the current interval, or one above what the client had if that is as high."""
    current = int((now - _EPOCH) // _INTERVAL)
    if asked_with is not None and asked_with.isascii() and asked_with.isdecimal() and len(asked_with) <= 18:
        had = int(asked_with)
        if had >= current:
            return str(had + -(-random.randint(1, _MOST_JITTER) // _INTERVAL))
    return str(current)
