"""Messages that a running turn reads while it runs: ``on_busy="steer"``."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

import msgspec

from actors import codec
from actors.builtin import TIMER
from actors.envelope import Accepted, Failure, Mode, Reply
from actors.errors import SerializationFailed
from actors.records import JOURNAL, Read, encode

if TYPE_CHECKING:
    from actors.envelope import Envelope
    from actors.turn import Turn

READ: Final = b"\x1f"  # of the path of a Read in a turn's journal: no step has such a name


class Steering:
    """What one turn reads of the messages that were handed to it.

    A read is journaled, with its place among all looks that the turn has taken: a turn that runs again sees each
    message where it saw it the first time. What was read is settled by the turn's commit; if the turn commits nothing,
    the message is run like any other.
    """

    __slots__ = ("_answers", "_looks", "_recorded", "_turn", "taken")

    def __init__(self, turn: "Turn") -> None:
        self._turn = turn
        self._looks = 0
        self._recorded = dict(turn.journal.reads) if self._journaled else {}
        self._answers: list[Reply | Accepted] = []
        self.taken: list[Turn] = []
        """The messages that were read."""

    @property
    def _journaled(self) -> bool:
        return self._turn.activation.durable is not None and self._turn.request.handler != TIMER

    def start_anew(self) -> None:
        """A stream of the turn starts anew: what was read while it ran is read whenever the turn looks again."""
        self._recorded.clear()

    async def messages(self) -> AsyncIterator[Any]:
        """What has come and was not read yet."""
        while (message := self._look()) is not None:
            turn, value = message
            self.taken.append(turn)
            if self._journaled and self._looks not in self._recorded:
                await self._record(turn)
            self._recorded.pop(self._looks, None)
            yield value

    async def _record(self, message: "Turn") -> None:
        row = {JOURNAL + self._turn.number + READ + b"%d" % self._looks: encode(Read(message.request.message_id))}
        try:
            await self._turn.journal.write(row, messages=[message])
        except BaseException:  # the turn is interrupted: it has not seen the message
            self.taken.remove(message)
            raise

    def _look(self) -> "tuple[Turn, Any] | None":
        turn = self._turn
        if turn.ended or not turn.activation.runs(turn):
            raise asyncio.CancelledError(f"{turn.where}: the turn is over, or was given up")
        self._looks += 1
        wanted = self._recorded.get(self._looks)
        if wanted is None and (self._recorded or (self._journaled and not turn.journal.caught_up)):
            return None  # nothing had come here the first time
        now = turn.activation.runtime.loop.time()
        for other in turn.activation.mail():
            if other in self.taken or (other.request.message_id != wanted if wanted else other.into != turn.id):
                continue
            if other.interrupted or (other.expires <= now and other.request.mode is Mode.ASK and not other.row):
                continue
            try:
                return other, _value(other)
            except SerializationFailed:
                other.into = ""  # it fails as a turn of its own
        self._recorded.pop(self._looks, None)
        return None

    def settled(self, answer: "Envelope") -> "list[tuple[Turn, Reply | Accepted]]":
        """The messages that are settled with the turn's answer, and what their senders get."""
        if isinstance(answer, Failure):
            return []
        if not self._answers:
            self._answers = [_answer(other, self._turn.id) for other in self.taken]
        return list(zip(self.taken, self._answers, strict=True))


def _answer(turn: "Turn", into: str) -> Reply | Accepted:
    if turn.request.mode is Mode.SEND and not turn.request.key:
        return Accepted(turn.request.id)
    if turn.request.outside:
        return Reply(turn.request.id, codec.encode_outside({"steered": into}))
    return Reply(turn.request.id, msgspec.msgpack.encode(msgspec.msgpack.Ext(codec.STEERED, into.encode())))


def _value(turn: "Turn") -> Any:
    args, kwargs = turn.spec.decode_arguments_of(turn.request)
    return args[0] if len(args) == 1 and not kwargs else (args, kwargs)
