"""This project with a store that syncs to disk: callers in another process than the silo."""

import contextlib
from collections.abc import AsyncIterator

from benchmarks.peer import Caller, Peer, Place, Served
from benchmarks.peers.durable_silo import durable_silo, works
from cluster import connect


class DurableClientPeer(Peer):
    """A silo, and a client of it."""

    @contextlib.asynccontextmanager
    async def serve(self, place: Place) -> AsyncIterator[Served]:
        """A silo with an SQLite file of its own."""
        async with durable_silo() as silo:
            yield Served(silo.grpc)

    @contextlib.asynccontextmanager
    async def connect(self, place: Place) -> AsyncIterator[Caller]:
        """A client."""
        async with connect(place.endpoints[0]):
            yield Caller(works())


PEER = DurableClientPeer()
