"""This project: a silo that hosts no actors calls those of another silo, as an actor there would."""

import contextlib
from collections.abc import AsyncIterator

from benchmarks.peer import Caller, Place
from benchmarks.peers.silo import SiloPeer, works
from cluster import Silo


class SiloToSiloPeer(SiloPeer):
    """Two members of one cluster. Needs an etcd."""

    @contextlib.asynccontextmanager
    async def connect(self, place: Place) -> AsyncIterator[Caller]:
        """The other silo."""
        silo = Silo([], listen="127.0.0.1:0", etcd=place.etcd, store=place.store, name="caller")
        async with silo:
            yield Caller(works())


PEER = SiloToSiloPeer()
