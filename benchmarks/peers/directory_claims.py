"""The ceiling of activations: one silo claims addresses in etcd, without messages and without actors."""

import contextlib
from collections.abc import AsyncIterator, Awaitable

from benchmarks.echo_app import Echo
from benchmarks.peer import Caller, Peer, Place, Served, nothing_to_serve
from cluster import Silo


class DirectoryClaimsPeer(Peer):
    """The directory adapter and etcd alone."""

    def serve(self, place: Place) -> contextlib.AbstractAsyncContextManager[Served]:
        """Nothing: etcd is up already."""
        return nothing_to_serve()

    @contextlib.asynccontextmanager
    async def connect(self, place: Place) -> AsyncIterator[Caller]:
        """A silo whose directory is called directly."""
        async with Silo([Echo], listen="127.0.0.1:0", etcd=place.etcd, store=place.store, name=place.name) as silo:
            directory = silo.runtime.directory

            def claim(number: int) -> Awaitable[object]:
                return directory.claim(f"echo-claim-{number}")

            yield Caller({"activate": claim})


PEER = DirectoryClaimsPeer()
