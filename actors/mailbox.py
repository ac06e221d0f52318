"""The turns that wait for the running one."""

from collections import OrderedDict, deque
from collections.abc import Iterator

from actors.errors import MailboxFull
from actors.handler import Lane
from actors.shares import Shares, may_take, with_reserve
from actors.turn import Turn

_OVERHEAD = 1000  # bytes that a message takes beside its payload, about


class _Line:
    """What one caller has in a mailbox, in order of arrival."""

    __slots__ = ("bytes", "turns")

    def __init__(self) -> None:
        self.turns: deque[Turn] = deque()
        self.bytes = 0


class Mailbox:
    """A bounded queue: at most ``limit`` messages, and at most ``limit_bytes`` of payload; an eighth more for several.

    ``room`` is what all mailboxes of the silo share, in bytes.

    The messages of one caller leave in order of arrival, and callers take turns. One alone may fill the mailbox: who
    comes then finds room in that eighth, and who has much waiting is refused before that is taken (see ``may_take``).
    """

    __slots__ = ("_bytes", "_limit", "_limit_bytes", "_lines", "_room", "_size")

    def __init__(self, limit: int, limit_bytes: int, room: Shares) -> None:
        self._limit = limit
        self._room = room
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._size = 0
        self._lines: OrderedDict[str, _Line] | None = None  # most activations are idle most of the time

    @property
    def is_full(self) -> bool:
        """Whether there is room for no further message."""
        return self._size >= self._limit

    def first(self) -> Turn:
        """The turn that is next. Raises ``IndexError`` when empty."""
        if self._lines is None:
            raise IndexError
        return next(iter(self._lines.values())).turns[0]

    def refusal(self, caller: str, size: int, address: str) -> MailboxFull | None:
        """Why there is no room for a message of so many bytes; None if there is."""
        line = self._lines.get(caller) if self._lines is not None else None
        own, own_bytes = (len(line.turns), line.bytes) if line is not None else (0, 0)
        if self._has_place(own) and self._has_bytes(own, own_bytes, size):
            if self._room.has_room(caller):
                return None
            return MailboxFull(
                f"{address}: {self._room.taken:,} of at most {self._room.limit:,} bytes wait for actors of this silo "
                "already; send less or later, or raise max_waiting_bytes"
            )
        mine = "" if own == self._size else f", {own} ({own_bytes} bytes) of them from this caller"
        return MailboxFull(
            f"{address}: {self._size} messages ({self._bytes} bytes) wait already{mine}, the limit is {self._limit} "
            f"({self._limit_bytes} bytes), shared by all callers; send less or later, or raise max_queue"
        )

    def _has_place(self, own: int) -> bool:
        if own == self._size:
            return own < self._limit
        limit = with_reserve(self._limit)
        return may_take(own, limit - self._size, limit)

    def _has_bytes(self, own: int, own_bytes: int, size: int) -> bool:
        if not self._size:  # one message is always let in
            return True
        if own == self._size:
            return self._bytes + size <= self._limit_bytes
        limit = with_reserve(self._limit_bytes)
        left = limit - self._bytes
        return size <= left and (not own or may_take(own_bytes, left, limit))

    def put(self, turn: Turn, *, beyond_limit: bool = False) -> None:
        """Add a turn. Raises ``MailboxFull``, except for what was accepted before (``beyond_limit``)."""
        request = turn.request
        caller, size = request.caller, len(request.payload)
        if not beyond_limit and (refusal := self.refusal(caller, size, request.address)) is not None:
            raise refusal
        if self._lines is None:
            self._lines = OrderedDict()
        line = self._lines.get(caller)
        if line is None:
            line = self._lines[caller] = _Line()
        line.turns.append(turn)
        line.bytes += size
        self._bytes += size
        self._size += 1
        self._room.take(caller, size + _OVERHEAD)

    def take(self) -> Turn:
        """Remove the turn that is next. Raises ``IndexError`` when empty."""
        if self._lines is None:
            raise IndexError
        caller, line = next(iter(self._lines.items()))
        turn = line.turns.popleft()
        self._removed(caller, line, turn)
        if len(self._lines or ()) > 1 and line.turns:
            self._lines.move_to_end(caller)
        return turn

    def discard(self, turn: Turn) -> None:
        """Remove a turn, wherever it stands, if it is there."""
        line = self._lines.get(turn.request.caller) if self._lines is not None else None
        if line is not None and turn in line.turns:
            line.turns.remove(turn)
            self._removed(turn.request.caller, line, turn)

    def _removed(self, caller: str, line: _Line, turn: Turn) -> None:
        size = len(turn.request.payload)
        line.bytes -= size
        self._bytes -= size
        self._size -= 1
        self._room.give_back(caller, size + _OVERHEAD)
        if not line.turns:
            assert self._lines is not None
            del self._lines[caller]
            if not self._lines:
                self._lines = None

    def take_beside(self) -> list[Turn]:
        """Remove the turns that need not wait for others: those of the read-only and control lanes."""
        turns = list(self)
        beside = [turn for turn in turns if turn.spec.lane is not Lane.TURN]
        for turn in beside:
            self.discard(turn)
        return beside

    def drain(self) -> Iterator[Turn]:
        """Remove all turns: those of each caller in order of arrival."""
        while self:
            yield self.take()

    def __iter__(self) -> Iterator[Turn]:
        """Those of one caller after the other."""
        for line in (self._lines or {}).values():
            yield from line.turns

    def __len__(self) -> int:
        return self._size
