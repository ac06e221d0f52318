"""This project: the silo that ``benchmarks.overload`` floods."""

import contextlib
from collections.abc import AsyncIterator

from benchmarks.overload_app import Clerk, Ledger
from benchmarks.peer import Peer, Place, Served
from cluster import Silo


class OverloadedPeer(Peer):
    """A silo with its embedded directory."""

    @contextlib.asynccontextmanager
    async def serve(self, place: Place) -> AsyncIterator[Served]:
        """Host both kinds of actors."""
        silo = Silo([Clerk, Ledger], listen="127.0.0.1:0", store=place.store, name=place.name)
        async with silo:
            yield Served(silo.grpc)


PEER = OverloadedPeer()
