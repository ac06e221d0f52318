"""Channels as their users see them: a name on an actor's address, to publish to and to read from."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple

from actors.builtin import SUBSCRIBE
from actors.errors import ConnectionLost, Timeout

if TYPE_CHECKING:
    from actors.ref import ActorRef, Caller

_PAUSE = 0.02


class Event(NamedTuple):
    """An entry of a channel.

    ``kind``: "item"; "reset": readers discard what they have from offset ``data`` on, as it is told anew; "closed": the
    channel has ended (``data`` True: it was closed; None: the actor was deleted). ``turn``: id of the message whose
    turn published it, "" from outside of a turn of the actor.
    """

    offset: int
    data: Any
    kind: str
    turn: str = ""


class Channel:
    """A durable, ordered log of an actor, known as ``<address>/<name>``."""

    __slots__ = ("_ref", "name")

    def __init__(self, ref: "ActorRef", name: str) -> None:
        if not name or len(name.encode()) > 256 or "/" in name or not name.isprintable():
            raise ValueError(f"a channel's name is printable text of 1 to 256 bytes without '/', not {name!r}")
        self._ref = ref
        self.name = name

    def publish(self, item: object) -> Coroutine[Any, Any, None]:
        """Add an entry.

        Inside a turn of the actor itself the entry is part of the turn's commit: readers see it when the turn has
        ended well, or never. Otherwise it is durable when this returns. With the option ``idempotency_key`` of the
        reference it is added once, however often this is repeated. Raises ``ChannelClosed``.
        """
        from actors.ref import caller

        return caller().publish(self._ref, self.name, item)

    def close(self) -> Coroutine[Any, Any, None]:
        """Let nothing follow: readers get an event of kind "closed", and come to the end; publishing fails from now on.

        Takes effect like ``publish``. From outside of the actor it comes after what running turns have published
        already, and waits for these to end. Closing again does nothing.
        """
        from actors.ref import caller

        return caller().close_channel(self._ref, self.name)

    def subscribe(self, after: int | None = None, *, compact: bool = False) -> AsyncIterator[Event]:
        """The entries behind offset ``after`` (None: everything that is retained), and then those to come.

        ``compact``: those that are there already come in few pieces. Of one turn, strings that follow each other become
        one, as do the fields "delta" of dicts that are equal but for them; such an event has the offset of the last.
        What a "reset" supersedes is left out with it. Everything else, and what comes later, is as it is.

        Every entry once and in order, whatever fails: when the actor moves or its silo dies there is a pause. Ends
        with an event of kind "closed" if the channel is closed or the actor deleted. Raises ``OffsetGone`` when the
        next entry is not retained any more, and ``ClusterUnavailable`` when the actor cannot be reached for the
        delivery timeout; subscribing again behind the last offset goes on from there.
        """
        from actors.ref import caller

        return self._read(caller(), after, compact=compact)

    async def _read(self, reader: "Caller", after: int | None, *, compact: bool) -> AsyncIterator[Event]:
        while True:
            stream = reader.stream(self._ref, SUBSCRIBE, (self.name, after, *((True,) if compact else ())), {})
            with contextlib.suppress(ConnectionLost, Timeout):  # the next stream goes on behind what was passed on
                async with contextlib.aclosing(stream) as entries:  # type: ignore[type-var]
                    async for offset, kind, data, turn in entries:
                        after = offset
                        yield Event(offset, data, kind, turn)
                        if kind == "closed":
                            return
            await asyncio.sleep(_PAUSE)

    def __repr__(self) -> str:
        return f"{self._ref!r}.channel({self.name!r})"
