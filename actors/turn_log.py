"""``$turns``: the channel in which an actor's turns can be watched.

Who reads it is told of every turn, also of what waits and runs when the reading begins; for that a turn has a commit
for its beginning. Retained without a reader are turns that journal a step or stream, and those whose sender asked for
it with the header ``$watch``: what is told of these rides on commits that they make anyway. A turn that nobody watches
and that only commits its end leaves no entry: see docs/turns.md, and docs/decisions/0021 for what one would cost.
"""

from typing import TYPE_CHECKING, Any, Final

import msgspec

from actors import codec
from actors.channel_log import read_items
from actors.envelope import Envelope, Failure, Reply
from actors.errors import ActorError, TurnInterrupted
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
            self._accepted(turn, put, at)

    def _accepted(self, turn: "Turn", put: dict[bytes, bytes], at: float) -> None:
        turn.told = True
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
        turn.run = Run(at - self._ran(turn), self.heads())
        put[RUN + turn.number] = encode(turn.run)
        self._tell(turn, put, {"event": "started", "at": turn.run.at, "channels": turn.run.channels})

    async def catch_up(self) -> None:
        """Somebody begins to read: tell what waits and runs, as far as it was not told. Raises ``StoreUnavailable``."""
        durable = self._durable
        unsettled = [turn for turn in durable.inbox.turns() if turn.seen and not turn.ended]
        if any(turn.recovered and not turn.told for turn in unsettled):
            before = await self._told_before(unsettled[0])
            for turn in unsettled:
                turn.told = turn.told or turn.id in before
        put: dict[bytes, bytes] = {}
        running = None
        for turn in unsettled:
            if turn.ended or not durable.inbox.holds(turn):
                continue
            if turn.row and not turn.told and self.begun(turn) is None:
                came = turn.activation.runtime.loop.time() - turn.came if turn.came else 0.0
                self._accepted(turn, put, self._now(turn) - came)
            if turn.began and turn.run is None and turn.journals and turn.goes_on:
                running = turn
        if running is not None:
            write, _ = durable.commits.journal(running, put)
            await running.activation.write(write)
        elif put:
            await unsettled[0].activation.write(durable.commits.compose(put=put))

    async def _told_before(self, turn: "Turn") -> set[str]:
        """The messages of which a former activation has told that they were accepted."""
        log = self._durable.channel(TURNS)
        store = turn.activation.runtime.store
        found = await read_items(store, turn.address, TURNS, log.begin, log.end, limit=log.end - log.begin)
        entries = [(item.turn, msgspec.msgpack.decode(item.data)) for _, item in found if item.turn]
        return {message_id for message_id, entry in entries if entry["event"] == "accepted"}

    @staticmethod
    def _now(turn: "Turn") -> float:
        return turn.activation.runtime.clock.time()

    @staticmethod
    def _ran(turn: "Turn") -> float:
        """For how many seconds it has run here."""
        return turn.activation.runtime.loop.time() - turn.began if turn.began else 0.0

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
            self._tell(turn, put, {"event": "started", "at": at - self._ran(turn), "channels": heads})
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

    def withdrawn(self, turn: "Turn", put: dict[bytes, bytes], *, why: ActorError, at: float) -> None:
        """The message is not run after all."""
        if turn.told:
            error = {"type": type(why).__name__, "message": str(why)}
            self._tell(turn, put, {"event": "failed", "error": error, "at": at, "seconds": 0.0, "published": {}})

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
        seconds = max(at - run.at, 0.0) if run is not None else self._ran(turn)
        steps = turn.take_untold()
        if steps:
            found["steps"] = steps
        self._tell(turn, put, {**found, "at": at, "seconds": seconds, "published": published})

    def _tell(self, turn: "Turn", put: dict[bytes, bytes], what: dict[str, Any]) -> None:
        request = turn.request
        entry = {**what, "message_id": request.message_id, "handler": request.handler or "receive", "key": request.key}
        self._durable.commits.publish(TURNS, [ChannelItem("item", encode(entry), turn=request.message_id)], put)


def _is_plain(payload: bytes) -> bool:
    """Whether everybody who reads the entry can read the result."""
    if len(payload) > _LARGEST_RESULT:
        return False
    try:
        codec.decode(payload, trusted=False)
    except Exception:  # a pickle in it
        return False
    return True
