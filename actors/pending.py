"""The calls of one runtime that wait for answers."""

import asyncio
from collections.abc import Callable, Iterator

from actors.calls import Call, StreamCall
from actors.deadlines import Deadlines
from actors.errors import ActorError, ActorFailed, ConnectionLost, Rejected


class PendingCalls:
    """Calls by request id, each until its answer, its deadline or its failure.

    ``on_close`` hears of every call that is no longer waited for, ``on_silence`` of a stream that is given up although
    its other side may still be there.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        on_close: Callable[[Call], None],
        on_silence: Callable[[StreamCall], None],
    ) -> None:
        self._loop = loop
        self._calls: dict[int, Call] = {}
        self._deadlines: Deadlines[int] = Deadlines(loop, self._expire)
        self._on_close = on_close
        self._on_silence = on_silence

    def begin(self, call: Call, timeout: float) -> None:
        """Wait for answers to the call, for ``timeout`` seconds; 0 waits for ever."""
        self._calls[call.request.id] = call
        if timeout:
            call.expires = self._loop.time() + timeout
            call.slot = self._deadlines.add(call.request.id, timeout)

    def get(self, request_id: int) -> Call | None:
        """The call that waits under this id."""
        return self._calls.get(request_id)

    def close(self, call: Call) -> bool:
        """Wait no more. Returns whether anybody did."""
        if self._calls.pop(call.request.id, None) is None:
            return False
        if call.slot:
            self._deadlines.discard(call.request.id, call.slot)
        self._on_close(call)
        return True

    def end(self, call: Call, error: ActorError) -> None:
        """End a call without an answer."""
        if self.close(call):
            # An earlier attempt may have got through. Nor has the handler failed: the actor cannot be activated.
            if call.request.attempt and isinstance(error, Rejected | ActorFailed):
                error = ConnectionLost(f"{error}; the silo that had the message before was lost, and it may have run")
            call.fail(error)

    def end_all(self, reason: Callable[[Call], ActorError]) -> None:
        """End every call, and wait for nothing any more."""
        for call in list(self._calls.values()):
            self.end(call, reason(call))
        self._deadlines.close()

    def values(self) -> list[Call]:
        """All of them, oldest first."""
        return list(self._calls.values())

    def __contains__(self, call: Call) -> bool:
        return call.request.id in self._calls

    def __iter__(self) -> Iterator[Call]:
        return iter(self.values())

    def __len__(self) -> int:
        return len(self._calls)

    def _expire(self, request_id: int) -> None:
        call = self._calls.get(request_id)
        if call is None:
            return
        if isinstance(call, StreamCall):
            waited = self._loop.time() - call.waiting_since if call.reader_waits else 0.0
            if waited < call.request.timeout - 0.01 and not call.held_for:
                call.slot = self._deadlines.add(request_id, call.request.timeout - waited)
                return
            self._on_silence(call)
        self.end(call, call.timed_out())
