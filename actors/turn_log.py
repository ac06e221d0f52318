"""``$turns``: the channel in which an actor's turns can be watched.

What is told rides on commits that the turn makes anyway. Told are turns that are seen from outside before they end
(they journal a step or stream), those whose sender asked for it with the header ``$watch``, and all while somebody
reads the channel: these have a commit for their beginning.
"""

from typing import TYPE_CHECKING, Any, Final

import msgspec

from actors import codec
from actors.envelope import Envelope, Failure, Reply
from actors.errors import TurnInterrupted
from actors.progress import Told
from actors.records import RUN, ChannelItem, Run, encode

if TYPE_CHECKING:
    from actors.durable import Durable
    from actors.turn import Turn

TURNS: Final = "$turns"
WATCH: Final = "$watch"
"""The header of a message whose turn is to be told of from its acceptance on."""

_LARGEST_RESULT = 64 * 1024


class TurnLog:
    """Adds what happens to turns to the commits in which it happens."""

    __slots__ = ("_durable", "_runs")

    def __init__(self, durable: "Durable") -> None:
        self._durable = durable
        self._runs: dict[bytes, Run] = {}

    def restore(self, number: bytes, run: Run) -> None:
        """A turn that a former activation has told of."""
        self._runs[number] = run

    def accepted(self, turn: "Turn", put: dict[bytes, bytes], at: float) -> None:
        """The message is in the durable inbox."""
        if turn.seen and not turn.recovered:
            self._tell(turn, put, {"event": "accepted", "at": at})

    def started(self, turn: "Turn", put: dict[bytes, bytes], at: float) -> None:
        """The turn is about to be seen from outside."""
        if turn.run is not None:
            return
        before = self._runs.pop(turn.number, None)
        if before is not None:
            turn.run = before
            self._tell(turn, put, {"event": "resumed", "at": at})
            return
        turn.run = Run(at, self.heads())
        put[RUN + turn.number] = encode(turn.run)
        self._tell(turn, put, {"event": "started", "at": at, "channels": turn.run.channels})

    def ended(
        self,
        turn: "Turn",
        put: dict[bytes, bytes],
        drop: list[bytes],
        *,
        answer: Envelope,
        heads: dict[str, int],
        at: float,
    ) -> None:
        """The turn is over. ``heads``: where channels ended before the commit in which it is."""
        if turn.seen and self.begun(turn) is None:
            self._tell(turn, put, {"event": "started", "at": at, "channels": heads})
        if isinstance(answer, Failure):
            if answer.error == TurnInterrupted.__name__:
                found: dict[str, Any] = {"event": "interrupted", "reason": turn.interruption.reason or ""}
                if turn.rolls_back:
                    found["rolled_back"] = True
            else:
                error = {"type": answer.type_name or answer.error, "message": answer.message or answer.text}
                found = {"event": "failed", "error": error}
        else:
            found = {"event": "committed"}
            if turn.interrupted:
                found["reason"] = turn.interruption.reason
            if isinstance(answer, Reply) and turn.watched and _is_plain(answer.payload):
                found["result"] = msgspec.Raw(answer.payload)
        self._end(turn, put, drop, found, heads, at)

    def parked(self, turn: "Turn", put: dict[bytes, bytes], drop: list[bytes], *, reason: str, at: float) -> None:
        """The message is put aside."""
        self._end(turn, put, drop, {"event": "parked", "reason": reason}, self.heads(), at)

    def steered(self, turn: "Turn", put: dict[bytes, bytes], *, into: str, at: float) -> None:
        """The message was read by the turn of the message ``into``, and is settled with that."""
        self._tell(turn, put, {"event": "steered", "into": into, "at": at})

    def tell(self, turn: "Turn", put: dict[bytes, bytes], what: Told, at: float) -> None:
        """Something has happened in the turn."""
        for entry in what:
            self._tell(turn, put, {**entry, "at": at})

    def begun(self, turn: "Turn") -> Run | None:
        """What was told of the turn's beginning, if it was."""
        return turn.run or self._runs.get(turn.number)

    def heads(self) -> dict[str, int]:
        """Where the channels end, by name."""
        channels = self._durable.channels or {}
        return {name: log.next for name, log in channels.items() if not name.startswith("$")}

    def _end(
        self,
        turn: "Turn",
        put: dict[bytes, bytes],
        drop: list[bytes],
        found: dict[str, Any],
        heads: dict[str, int],
        at: float,
    ) -> None:
        run = turn.run or self._runs.pop(turn.number, None)
        if run is None and not turn.seen:
            return
        if run is not None:
            drop.append(RUN + turn.number)
        begin = run.channels if run is not None else heads
        floor = self._durable.floor
        published = {
            name: [[begin.get(name, floor), end]] for name, end in self.heads().items() if end > begin.get(name, floor)
        }
        seconds = max(at - run.at, 0.0) if run is not None else 0.0
        steps = turn.take_untold()
        if steps:
            found["steps"] = steps
        self._tell(turn, put, {**found, "at": at, "seconds": seconds, "published": published})

    def _tell(self, turn: "Turn", put: dict[bytes, bytes], what: dict[str, Any]) -> None:
        request = turn.request
        entry = {**what, "message_id": request.message_id, "handler": request.handler or "receive", "key": request.key}
        self._durable.publish(TURNS, [ChannelItem("item", encode(entry), turn=request.message_id)], put)


def _is_plain(payload: bytes) -> bool:
    """Whether everybody who reads the entry can read the result."""
    if len(payload) > _LARGEST_RESULT:
        return False
    try:
        codec.decode(payload, trusted=False)
    except Exception:  # a pickle in it
        return False
    return True
