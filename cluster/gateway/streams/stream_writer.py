"""The way of appends to a stream: straight to its actor if that is here and has nothing else to do, else by message."""

from typing import Final

from actors import direct
from actors.errors import ConnectionLost
from actors.outbound import Outbound
from actors.ref import caller
from actors.runtime import Runtime
from cluster.gateway.streams.names import stream_key
from cluster.gateway.streams.stream import Stream
from cluster.gateway.streams.stream_state import Appended, Write

PATIENCE: Final = 30.0
"""Seconds that a request waits for its stream."""


class StreamWriter:
    """Appends to the stream at ``path``, wherever it is."""

    def __init__(self, path: str) -> None:
        self._stream = Stream.ref(stream_key(path)).options(timeout=PATIENCE)

    async def append(self, writes: list[Write]) -> list[Appended]:
        """What came of the writes, once that is durable. Raises an ``ActorError`` if the stream cannot be reached."""
        here = caller()
        if isinstance(here, Outbound):
            outcomes = await self._append_directly(here.runtime, writes)
            if outcomes is not None:
                return outcomes
        return await self._stream.append(writes)

    async def _append_directly(self, runtime: Runtime, writes: list[Write]) -> list[Appended] | None:
        """The same; None if nothing was done yet, and a message has to do it."""
        address = self._stream.address
        activation = direct.find_free(runtime, address)
        if activation is None:
            return None
        stream = activation.actor
        assert isinstance(stream, Stream)
        by, first = runtime.requests.new_message_id(), stream.end_of_log()
        done = stream.append_directly(writes, by)
        if done is None:
            return None
        outcomes, batch = done
        try:
            await direct.commit(activation, batch.effects, state=batch.touches_state, timeout=PATIENCE)
        except ConnectionLost:  # whoever has the stream now knows what was committed: nothing more will be
            return outcomes if await self._stream.was_appended(first, by) else None
        return outcomes
