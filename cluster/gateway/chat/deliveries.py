"""Which readers have got the end of a turn, as far as this silo can tell."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_MOST: Final = 10_000


class Reader:
    """One response that tells a turn."""

    def __init__(self) -> None:
        self.delivered = False
        """Set it when the end was sent."""


class Deliveries:
    """Tells whether all who have read a turn here got its end.

    A client that was cut off comes again to see the rest. If that finds the turn ended, it must not be sent away, as
    its text would stay a part of the answer; one that has it all must be told that there is nothing. Kept in memory,
    of the last 10,000 turns: it is a hint, and what is not known here is told once more.
    """

    def __init__(self) -> None:
        self._turns: OrderedDict[str, _Count] = OrderedDict()

    @contextmanager
    def reading(self, message_id: str, *, again: bool) -> Iterator[Reader]:
        """A response that tells the turn, from its begin to its end. ``again``: to who may have been cut off."""
        count = self._turns.setdefault(message_id, _Count())
        self._turns.move_to_end(message_id)
        if len(self._turns) > _MOST:
            self._turns.popitem(last=False)
        if again and count.cut:
            count.cut -= 1
        reader = Reader()
        try:
            yield reader
        finally:
            if reader.delivered:
                count.delivered = True
            else:
                count.cut += 1

    def complete(self, message_id: str) -> bool:
        """Whether the end has reached somebody, and nobody is known who was cut off before it."""
        count = self._turns.get(message_id)
        return count is not None and count.delivered and not count.cut


class _Count:
    __slots__ = ("cut", "delivered")

    def __init__(self) -> None:
        self.cut = 0
        self.delivered = False
