"""Several silos of one cluster in the test's own process."""

import asyncio
import secrets
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from actors import Actor
from actors.ref import current_caller
from cluster import Silo, connect
from cluster.client import Client
from cluster.etcd import EtcdClient, EtcdServer
from cluster.keys import Keys
from cluster.membership import Membership
from cluster.store import LocalStore, open_store
from tests.cluster.house_actors import ACTORS
from tests.cluster.waiting import eventually


class House:
    """Starts silos that share an etcd and a store; ends what is left of them."""

    def __init__(self, server: EtcdServer, folder: Path, *, lease_ttl: int = 6) -> None:
        self.server = server
        self.cluster = f"test-{secrets.token_hex(4)}"
        self.keys = Keys(self.cluster)
        self.store_url = f"sqlite:///{folder}/state.db"
        self.silos: list[Silo] = []
        self.lease_ttl = lease_ttl
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(silo.abort() for silo in self.silos if not silo.stopped.is_set()))
        await self._stack.aclose()

    def new(self, name: str, *, actors: Sequence[type[Actor]] = ACTORS, **options: Any) -> Silo:
        """A silo that is not started yet."""
        options = {
            "etcd": self.server.endpoint,
            "store": self.store_url,
            "lease_ttl": self.lease_ttl,
            "drain_limit": 3.0,
            **options,
        }
        silo = Silo(actors, name=name, cluster=self.cluster, **options)
        self.silos.append(silo)
        return silo

    async def start(self, *names: str, actors: Sequence[type[Actor]] = ACTORS, **options: Any) -> list[Silo]:
        """Started silos that all see each other."""
        silos = [self.new(name, actors=actors, **options) for name in names]
        await asyncio.gather(*(silo.start() for silo in silos))
        await self.acquainted(*[silo for silo in self.silos if silo.ready])
        return silos

    async def acquainted(self, *silos: Silo) -> None:
        """Return when each of the silos sees exactly these."""
        wanted = {silo_id(silo) for silo in silos}
        await eventually(
            "all silos see each other",
            lambda: all({member.silo for member in silo.members} == wanted for silo in silos),
        )

    async def etcd(self, *, timeout: float = 5.0) -> EtcdClient:
        return await self._stack.enter_async_context(EtcdClient([self.server.endpoint], timeout=timeout))

    async def client(self, *endpoints: str, **options: Any) -> Client:
        """A client of the given silos, else of all, that the test's calls go through."""
        found = list(endpoints) or [silo.grpc for silo in self.silos]
        return await self._stack.enter_async_context(connect(found, cluster=self.cluster, **options))

    async def store(self) -> LocalStore:
        """A handle of the store that all silos share."""
        store = await open_store(self.store_url)
        self._stack.push_async_callback(store.close)
        return store


def silo_id(silo: Silo) -> str:
    return silo.runtime.directory.silo


def membership_of(silo: Silo) -> Membership:
    assert silo._etcd_side is not None
    return silo._etcd_side.membership


@contextmanager
def calling_from(source: Silo | Client) -> Iterator[None]:
    """References used in the block call through this silo or client."""
    assert source._runtime is not None
    token = current_caller.set(source._runtime.outbound)
    try:
        yield
    finally:
        current_caller.reset(token)
