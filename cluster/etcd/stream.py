"""A bidirectional RPC whose waits can time out without cancelling it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar, cast

import grpc
import grpc.aio

from cluster.etcd.endpoint import Endpoint
from cluster.etcd.method import Method, RequestT, ResponseT
from cluster.etcd.verdict import Verdict, describe, judge

_GRACE = 0.3

_T = TypeVar("_T")


class StreamBroken(Exception):
    """The stream ended or failed at ``endpoint``. ``token`` is the one that it was opened with."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        cause: str,
        verdict: Verdict,
        code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE,
        token: str | None = None,
    ) -> None:
        super().__init__(f"{endpoint.url}: {cause}")
        self.endpoint = endpoint
        self.cause = cause
        self.verdict = verdict
        self.code = code
        self.token = token


class Stream(Generic[RequestT, ResponseT]):
    """One open RPC. At most one task sends and one receives.

    Reads and writes run in tasks of their own, so that neither a timeout nor a cancelled caller cancels the RPC under
    them: a message that arrives later is kept for the next ``receive``.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        method: Method[RequestT, ResponseT],
        *,
        token: str | None,
        metadata: tuple[tuple[str, str], ...],
    ) -> None:
        self.endpoint = endpoint
        self._token = token
        self._call = endpoint.stream(method, metadata=metadata)
        self._reading: asyncio.Task[ResponseT] | None = None
        self._writing: asyncio.Task[None] | None = None

    def broken(
        self,
        cause: str,
        *,
        verdict: Verdict = Verdict.UNKNOWN,
        code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE,
    ) -> StreamBroken:
        """The exception that blames this stream's member for ``cause``."""
        return StreamBroken(self.endpoint, cause=cause, verdict=verdict, code=code, token=self._token)

    def _ended(self, code: grpc.StatusCode, details: str) -> StreamBroken:
        return self.broken(describe(code, details), verdict=judge(code, details), code=code)

    async def send(self, request: RequestT, *, within: float) -> None:
        """Hand one message to the connection. Raises ``StreamBroken``, also if it is not taken ``within`` seconds."""
        self._writing = _task(self._call.write(request))
        await asyncio.wait({self._writing}, timeout=within)
        if not self._writing.done():
            raise self.broken(f"took no message for {within:.3g} s")
        await self._outcome(self._writing)

    async def receive(self, *, within: float | None = None) -> ResponseT:
        """The next message. Raises ``StreamBroken``, and ``TimeoutError`` if none comes ``within`` seconds."""
        if self._reading is None:
            self._reading = _task(self._read())
        reading = self._reading
        await asyncio.wait({reading}, timeout=within)
        if not reading.done():
            raise TimeoutError
        self._reading = None
        return await self._outcome(reading)

    async def _read(self) -> ResponseT:
        message = await self._call.read()
        if message is grpc.aio.EOF:
            raise self.broken("the member ended the stream")
        return cast(ResponseT, message)

    async def _outcome(self, task: asyncio.Task[_T]) -> _T:
        if task.cancelled():
            raise self.broken("the stream was closed")
        error = task.exception()
        if error is None:
            return task.result()
        if isinstance(error, grpc.aio.AioRpcError):
            raise self._ended(error.code(), error.details() or "") from None
        if isinstance(error, asyncio.InvalidStateError) and self._call.done():
            raise self._ended(await self._call.code(), await self._call.details()) from None
        if isinstance(error, StreamBroken):
            raise error
        raise self.broken(f"{type(error).__name__}: {error}") from error

    async def close(self, *, abandon: bool = False) -> None:
        """End the RPC: with a goodbye if the member answers that at once, else, or to ``abandon`` it, by cancelling."""
        closing = asyncio.get_running_loop().create_task(self._end(abandon=abandon))
        await asyncio.shield(closing)

    async def _end(self, *, abandon: bool) -> None:
        if not abandon and not self._call.done():
            goodbye = asyncio.get_running_loop().create_task(self._say_goodbye())
            await asyncio.wait({goodbye}, timeout=_GRACE)
            if not goodbye.done():
                self._call.cancel()
                await asyncio.wait({goodbye}, timeout=_GRACE)
        self._call.cancel()
        pending = {task for task in (self._reading, self._writing) if task is not None}
        if pending:
            await asyncio.wait(pending, timeout=_GRACE)

    async def _say_goodbye(self) -> None:
        try:
            await self._call.done_writing()
            if self._reading is not None:
                await asyncio.wait({self._reading})
            while await self._call.read() is not grpc.aio.EOF:
                pass
        except (grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError, asyncio.CancelledError):
            pass  # it has ended, which is all that was wanted


def _task(work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
    """Run it in a task that may fail when nobody waits for it any more: a stream can break long after its last use."""
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(_look)
    return task


def _look(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
