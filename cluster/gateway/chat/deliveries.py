"""Who has got the end of a turn, as far as this silo can tell."""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_MOST: Final = 10_000
_MOST_CUT: Final = 100  # readers of one turn that are remembered


class Delivery:
    """One response that tells a turn."""

    def __init__(self) -> None:
        self.complete = False
        """Set it when the end was sent."""


class Deliveries:
    """Remembers of the last 10,000 turns who was cut off before the end.

    A client that was cut off comes again to see the rest. If the turn has ended meanwhile it must not be told that
    there is nothing, or a part of the answer would stay all that it shows; one that has it all should be told just
    that. This is a hint: what is not known here, as after the death of a silo, is told once more. ``reader`` tells
    clients apart as well as that is possible.
    """

    def __init__(self) -> None:
        self._turns: OrderedDict[str, _Turn] = OrderedDict()

    @contextmanager
    def to(self, reader: str, message_id: str, *, again: bool) -> Iterator[Delivery]:
        """A response that tells a turn from its beginning. ``again``: to who may have been cut off before."""
        turn = self._turns.setdefault(message_id, _Turn())
        self._turns.move_to_end(message_id)
        if len(self._turns) > _MOST:
            self._turns.popitem(last=False)
        if again and turn.cut[reader]:
            turn.cut[reader] -= 1
        delivery = Delivery()
        try:
            yield delivery
        finally:
            if delivery.complete:
                turn.delivered = True
            elif reader in turn.cut or len(turn.cut) < _MOST_CUT:
                turn.cut[reader] += 1

    def complete(self, reader: str, message_id: str) -> bool:
        """Whether the end has reached somebody, and this reader was not cut off before it."""
        turn = self._turns.get(message_id)
        return turn is not None and turn.delivered and not turn.cut[reader]


class _Turn:
    __slots__ = ("cut", "delivered")

    def __init__(self) -> None:
        self.cut: Counter[str] = Counter()
        self.delivered = False
