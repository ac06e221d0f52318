"""The dialling side: one fresh gRPC channel for each link."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import grpc
import grpc.aio

from cluster.transport import frame
from cluster.transport.handshake import Identity, Introduction, introduce
from cluster.transport.options import channel_options
from cluster.transport.refusal import Refusal

_T = TypeVar("_T")
_REFUSING: Final = 0.5  # seconds for the other side to take notice of a refusal
_SETTLE: Final = 0.1  # seconds for gRPC to wake those that wait for a cancelled stream


class Dial:
    """A stream to an endpoint, from the first byte until it is hung up."""

    def __init__(self, identity: Identity, endpoint: str, *, keepalive: float) -> None:
        self._identity = identity
        self._endpoint = endpoint
        credentials = identity.credentials
        options = channel_options(keepalive=keepalive, server_name=credentials.tls_server_name)
        tls = credentials.for_channel()
        self._channel: Any
        if tls is None:
            self._channel = grpc.aio.insecure_channel(endpoint, options=options)
        else:
            self._channel = grpc.aio.secure_channel(endpoint, tls, options=options)
        self.stream: Any = self._channel.stream_stream(frame.METHOD)()
        self._waiting: set[asyncio.Task[Any]] = set()

    async def introduce(self, *, expected: str, is_silo: bool, timeout: float) -> tuple[Introduction, bytes]:
        """The handshake, up to the frame that opens the link.

        Raises a ``ConnectionError`` with the reason, after ``timeout`` seconds at the latest, or ``NotAuthorized``.
        After that, or cancelled, the dial can only be hung up.
        """
        where = f"{expected} at {self._endpoint}" if expected else self._endpoint
        handshake = introduce(self.stream, self._identity, expected=expected, is_silo=is_silo)
        task = await self._within(timeout, handshake)
        if not task.done():
            raise ConnectionError(f"no link to {where}: no answer within {timeout:g} s")
        try:
            return task.result()
        except Refusal as refusal:
            await self._half_close(_REFUSING)
            raise refusal.error(where) from None
        except grpc.aio.AioRpcError as error:
            details = error.details() or error.code().name
            kind = ConnectionRefusedError if "onnection refused" in details else ConnectionError
            raise kind(f"no link to {where}: {details}") from None
        except (EOFError, asyncio.InvalidStateError) as error:
            raise ConnectionError(f"no link to {where}: {error}") from None
        except asyncio.CancelledError:
            # The task's, not the caller's: nothing is awaited here.
            raise ConnectionError(f"no link to {where}: the stream was cancelled") from None

    async def hang_up(self, *, politely: float = 0) -> None:
        """End the stream and close the channel. Within ``politely`` seconds the other side may end it first."""
        if politely:
            await self._half_close(politely)
        if not self.stream.done():
            self.stream.cancel()
        await self._channel.close()
        if self._waiting:
            # gRPC does not wake a write that still waits for the connection. All others it does, and cancelling those
            # instead would leak memory (grpc#43360).
            _, stuck = await asyncio.wait(self._waiting, timeout=_SETTLE)
            for task in stuck:
                task.cancel()

    async def _half_close(self, timeout: float) -> None:
        # Breaking the stream at once could overtake what was just written.
        await self._within(timeout, self._drain())

    async def _drain(self) -> None:
        await self.stream.done_writing()
        # gRPC tells the end of the stream only when everything before it was read.
        while isinstance(await self.stream.read(), bytes):
            pass

    async def _within(self, timeout: float, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Wait for the work, but not longer. What is not done then ends when the dial is hung up."""
        task = asyncio.create_task(work)
        self._waiting.add(task)
        task.add_done_callback(self._settled)
        await asyncio.wait({task}, timeout=timeout)
        return task

    def _settled(self, task: asyncio.Task[Any]) -> None:
        self._waiting.discard(task)
        # Where nobody waits any more, an exception is of no interest, but asyncio would report it.
        if not task.cancelled():
            task.exception()
