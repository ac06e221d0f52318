"""xoscar: actors in a pool process, called from another process over TCP."""

import contextlib
from collections.abc import AsyncIterator, Awaitable

import xoscar

from benchmarks.peer import ACTORS, PAYLOAD, Caller, Peer, Place, Served


class Echo(xoscar.Actor):  # type: ignore[misc]
    """Answers with what it got, one message at a time like an actor of this project."""

    async def echo(self, data: bytes) -> bytes:
        """The argument."""
        return data


class XoscarPeer(Peer):
    """A pool without sub-pools, so that callers reach the actors' process directly."""

    requires = "xoscar"

    @contextlib.asynccontextmanager
    async def serve(self, place: Place) -> AsyncIterator[Served]:
        """The pool with its actors."""
        async with await xoscar.create_actor_pool("127.0.0.1", n_process=0) as pool:
            for number in range(ACTORS):
                await xoscar.create_actor(Echo, address=pool.external_address, uid=f"echo-{number}")
            yield Served(pool.external_address)

    @contextlib.asynccontextmanager
    async def connect(self, place: Place) -> AsyncIterator[Caller]:
        """References to the actors."""
        [endpoint] = place.endpoints
        refs = [await xoscar.actor_ref(address=endpoint, uid=f"echo-{number}") for number in range(ACTORS)]

        def echo(number: int) -> Awaitable[object]:
            answer: Awaitable[object] = refs[number % ACTORS].echo(PAYLOAD)
            return answer

        def create(number: int) -> Awaitable[object]:
            created: Awaitable[object] = xoscar.create_actor(Echo, address=endpoint, uid=f"fresh-{number}")
            return created

        yield Caller({"echo": echo, "activate": create})


PEER = XoscarPeer()
