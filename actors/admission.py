"""The way of messages into the durable inbox."""

from collections.abc import Iterator
from itertools import takewhile
from typing import TYPE_CHECKING

from actors.envelope import Mode
from actors.handler import Lane

if TYPE_CHECKING:
    from actors.activation import Activation
    from actors.durable import Durable
    from actors.turn import Turn


class Admission:
    """Makes messages durable that came in for one activation; those that come together with one commit."""

    __slots__ = ("_activation", "_durable", "_waiting")

    def __init__(self, activation: "Activation", durable: "Durable") -> None:
        self._activation = activation
        self._durable = durable
        self._waiting: list[Turn] = []

    @property
    def pending(self) -> bool:
        """Whether the commit of a message is about to be composed."""
        return bool(self._waiting)

    def admit(self, turn: "Turn") -> None:
        """Make the message durable, and only then tell its sender that it was accepted."""
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            self._activation.runtime.spawn(self._admit())

    async def _admit(self) -> None:
        turns, self._waiting = self._waiting, []
        turns = [turn for turn in turns if not turn.row and self._durable.inbox.holds(turn)]
        if not turns:
            return
        put: dict[bytes, bytes] = {}
        commits = self._durable.commits
        for turn in [*self._asked_before(turns[-1]), *turns]:
            if not turn.row:  # a request may be among both
                commits.add_message(put, turn)
        if await self._activation.write(commits.compose(put=put)):
            for turn in turns:
                turn.accepted()

    def _asked_before(self, turn: "Turn") -> "Iterator[Turn]":
        """Requests that are to run before the message: after a crash they would come later, if they were not stored."""
        for earlier in takewhile(lambda other: other is not turn, self._durable.inbox.turns()):
            if earlier.row or earlier.ended:
                continue
            if earlier.request.mode is Mode.ASK and earlier.spec.lane is Lane.TURN:
                yield earlier
