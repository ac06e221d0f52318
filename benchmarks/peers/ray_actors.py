"""Ray: an async actor, which is a process of its own, called from the driver process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable

import ray

from benchmarks.peer import PAYLOAD, Caller, Peer, Place, Served, nothing_to_serve

_OBJECT_STORE = 100 * 2**20


class Echo:
    """Answers with what it got. As an async actor it runs up to 1,000 calls at a time (Ray's default)."""

    async def echo(self, data: bytes) -> bytes:
        """The argument."""
        return data


_RemoteEcho = ray.remote(num_cpus=0)(Echo)


class RayPeer(Peer):
    """A local Ray. One actor stands for all: a hundred would be a hundred processes."""

    requires = "ray"

    def serve(self, place: Place) -> contextlib.AbstractAsyncContextManager[Served]:
        """Nothing: the driver starts Ray."""
        return nothing_to_serve()

    @contextlib.asynccontextmanager
    async def connect(self, place: Place) -> AsyncIterator[Caller]:
        """The driver."""
        await asyncio.to_thread(
            ray.init, include_dashboard=False, log_to_driver=False, object_store_memory=_OBJECT_STORE
        )
        try:
            actor = _RemoteEcho.remote()
            await actor.echo.remote(PAYLOAD)

            def echo(_: int) -> Awaitable[object]:
                answer: Awaitable[object] = actor.echo.remote(PAYLOAD)
                return answer

            async def create(_: int) -> object:
                fresh = _RemoteEcho.remote()  # ends when the last reference to it goes, which is on return
                return await fresh.echo.remote(PAYLOAD)

            yield Caller({"echo": echo, "activate": create})
        finally:
            await asyncio.to_thread(ray.shutdown)


PEER = RayPeer()
