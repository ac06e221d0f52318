"""A whole cluster in one process, for users' own tests."""

import asyncio
import secrets
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from actors.actor import Actor
from actors.ports import Store
from actors.settings import Settings
from cluster.client import Client
from cluster.shared_directory import SharedDirectory, SharedTable
from cluster.silo import Silo
from cluster.store import MemoryData, MemoryStore, open_store


class TestCluster:
    """Real silos with real gRPC links between them, in one process and without etcd.

    Inside ``async with TestCluster(actors=[Session], silos=3) as cluster`` references work as in any client. All silos
    share one store: memory, or ``store`` (a URL). ``kill`` ends a silo as a crash would, with the lease over at once.
    ``version`` is that of the actors' code: with ``add(actors=..., version=...)`` an upgrade can be tested.
    """

    __test__ = False  # pytest would take it for a class of tests

    def __init__(
        self,
        actors: Iterable[type[Actor]] = (),
        *,
        silos: int = 1,
        store: str = "memory:",
        settings: Settings | None = None,
        version: str = "",
    ) -> None:
        if silos < 1:
            raise ValueError(f"a cluster needs at least one silo, not {silos}")
        self._actors = list(actors)
        self._count = silos
        self._store = store
        self._settings = settings
        self._version = version
        self._table = SharedTable()
        self._memory = MemoryData()
        self._client: Client | None = None
        self.silos: list[Silo] = []

    async def __aenter__(self) -> Self:
        try:
            for _ in range(self._count):
                await self.add()
            self._client = Client([silo.grpc for silo in self.silos], settings=self._settings)
            await self._client.__aenter__()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.__aexit__(kind, error, trace)
        await self._stop()

    async def add(self, *, actors: Iterable[type[Actor]] | None = None, version: str | None = None) -> Silo:
        """Start one more silo, with other actors, or another version of their code, if that is given."""
        hosted = self._actors if actors is None else list(actors)
        name = f"n{len(self.silos) + 1}"
        silo = _TestSilo(
            self,
            hosted,
            name=name,
            store=self._store,
            settings=self._settings,
            version=self._version if version is None else version,
        )
        await silo.start()
        self.silos.append(silo)
        if self._client is not None:
            self._client.add_endpoint(silo.grpc)
        return silo

    async def kill(self, index: int) -> None:
        """End a silo as SIGKILL would: nothing is stored or released, calls under way there are lost."""
        silo = self.silos[index]
        self._table.remove(silo.runtime.directory.silo)
        await silo.abort()

    async def stop(self, index: int) -> None:
        """Stop a silo as SIGTERM would: its actors are stored and move to the others."""
        await self.silos[index].stop()

    def where(self, address: str) -> int | None:
        """The index of the silo on which the address is active, None if it is nowhere."""
        owner = self._table.owners.get(address)
        for index, silo in enumerate(self.silos):
            if owner is not None and owner.silo in self._table.members and silo.runtime.directory.silo == owner.silo:
                return index
        return None

    async def open_store(self) -> Store:
        """A handle of the store that all silos share."""
        return MemoryStore(self._memory) if self._store == "memory:" else await open_store(self._store)

    @property
    def table(self) -> SharedTable:
        """Membership and owners, to look at."""
        return self._table

    async def _stop(self) -> None:
        await asyncio.gather(*(silo.stop() for silo in self.silos if not silo.stopped.is_set()))


class _TestSilo(Silo):
    def __init__(
        self,
        cluster: TestCluster,
        actors: list[type[Actor]],
        *,
        name: str,
        store: str,
        settings: Settings | None,
        version: str,
    ) -> None:
        super().__init__(actors, name=name, store=store, settings=settings, version=version)
        self._of = cluster

    async def _start(self) -> None:
        silo = f"{self.name}.{secrets.token_hex(4)}"
        self._placement.silo = silo
        self._store = await self._of.open_store()
        self._make_runtime(self._store, SharedDirectory(self._of.table, silo, self._placement))
        await self._open_transport(silo)
        self._of.table.enter(self._member(silo))
        self._spawn(self.runtime.keep_agenda())

    async def _announce_draining(self) -> None:
        self._of.table.drain(self.runtime.directory.silo)

    def _endpoint(self, silo: str) -> str | None:
        member = self._of.table.members.get(silo)
        return member.endpoint if member is not None else None

    async def _leave(self) -> None:
        if self._runtime is not None:
            self._of.table.remove(self._runtime.directory.silo)
