"""The turns that wait for the running one."""

from collections import deque
from collections.abc import Iterator

from actors.errors import MailboxFull
from actors.handler import Lane
from actors.turn import Turn


class Mailbox:
    """A bounded queue in order of arrival: at most ``limit`` messages, and at most ``limit_bytes`` of payload."""

    __slots__ = ("_bytes", "_limit", "_limit_bytes", "_turns")

    def __init__(self, limit: int, limit_bytes: int) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._turns: deque[Turn] | None = None  # most activations are idle most of the time

    @property
    def is_full(self) -> bool:
        """Whether there is room for no further message."""
        return len(self) >= self._limit

    def first(self) -> Turn:
        """The oldest turn. Raises ``IndexError`` when empty."""
        if self._turns is None:
            raise IndexError
        return self._turns[0]

    def put(self, turn: Turn, *, beyond_limit: bool = False) -> None:
        """Add a turn. Raises ``MailboxFull``, except for what was accepted before (``beyond_limit``)."""
        if self._turns is None:
            self._turns = deque()
        size = len(turn.request.payload)
        full = len(self._turns) >= self._limit or (self._turns and self._bytes + size > self._limit_bytes)
        if full and not beyond_limit:
            raise MailboxFull(
                f"{turn.request.address}: {len(self._turns)} messages ({self._bytes} bytes) wait already, the limit is "
                f"{self._limit} ({self._limit_bytes} bytes); send less or later, or raise max_queue"
            )
        self._turns.append(turn)
        self._bytes += size

    def take(self) -> Turn:
        """Remove the oldest turn. Raises ``IndexError`` when empty."""
        if self._turns is None:
            raise IndexError
        turn = self._turns.popleft()
        self._bytes -= len(turn.request.payload)
        if not self._turns:
            self._turns = None
        return turn

    def discard(self, turn: Turn) -> None:
        """Remove a turn, wherever it stands, if it is there."""
        if self._turns is not None and turn in self._turns:
            self._turns.remove(turn)
            self._bytes -= len(turn.request.payload)
            if not self._turns:
                self._turns = None

    def take_beside(self) -> list[Turn]:
        """Remove the turns that need not wait for others: those of the read-only and control lanes."""
        turns = list(self.drain())
        for turn in turns:
            if turn.spec.lane is Lane.TURN:
                self.put(turn, beyond_limit=True)
        return [turn for turn in turns if turn.spec.lane is not Lane.TURN]

    def drain(self) -> Iterator[Turn]:
        """Remove all turns, oldest first."""
        while self:
            yield self.take()

    def __iter__(self) -> Iterator[Turn]:
        return iter(self._turns or ())

    def __len__(self) -> int:
        return len(self._turns) if self._turns is not None else 0
