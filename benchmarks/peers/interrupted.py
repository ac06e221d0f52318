"""This project: the silo whose turns ``benchmarks.interrupt`` interrupts."""

import contextlib
from collections.abc import AsyncIterator

from benchmarks.interrupt_app import Neighbour, Writer
from benchmarks.peer import Peer, Place, Served
from cluster import Silo


class InterruptedPeer(Peer):
    """A member of a cluster. Who interrupts is another one."""

    @contextlib.asynccontextmanager
    async def serve(self, place: Place) -> AsyncIterator[Served]:
        """A silo."""
        silo = Silo([Writer, Neighbour], listen="127.0.0.1:0", etcd=place.etcd, store=place.store, name=place.name)
        async with silo:
            yield Served(silo.grpc)


PEER = InterruptedPeer()
