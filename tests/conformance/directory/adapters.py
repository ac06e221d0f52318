"""The directories that the conformance suite runs over. A new one is a class here and an entry in ``ADAPTERS``."""

import asyncio
import secrets
from contextlib import AsyncExitStack
from typing import Protocol

from actors.alone import LonelyDirectory
from actors.ports import Directory
from cluster.clock import SystemClock
from cluster.directory import EtcdDirectory
from cluster.etcd import EtcdClient, EtcdServer
from cluster.keys import Keys
from cluster.member import Member
from cluster.membership import Membership
from cluster.placement import Placement
from cluster.shared_directory import SharedDirectory, SharedTable
from cluster.store import MemoryData, MemoryStore

TYPES = ("session", "story")


def record(silo: str) -> Member:
    return Member(
        silo=silo, name=silo.partition(".")[0], endpoint="127.0.0.1:1", types=dict.fromkeys(TYPES, "balanced")
    )


class House(Protocol):
    """A cluster without silos: directories that join it, drain and come to an end."""

    async def join(self, name: str) -> Directory:
        """The directory as a new incarnation of the silo ``name`` sees it."""
        ...

    async def drain(self, directory: Directory) -> None:
        """Place nothing new on the silo."""
        ...

    async def end(self, directory: Directory) -> None:
        """End the silo's membership without its doing, as the end of a lease does."""
        ...


class LonelyHouse:
    """Has one silo only."""

    async def join(self, name: str) -> Directory:
        return LonelyDirectory(TYPES, era=1, name=name)

    async def drain(self, directory: Directory) -> None:
        assert isinstance(directory, LonelyDirectory)
        directory.open = False

    async def end(self, directory: Directory) -> None:
        raise NotImplementedError("its membership has no end")


class SharedHouse:
    def __init__(self) -> None:
        self.table = SharedTable()

    async def join(self, name: str) -> Directory:
        silo = f"{name}.{secrets.token_hex(4)}"
        directory = SharedDirectory(self.table, silo, Placement(silo))
        self.table.enter(record(silo))
        return directory

    async def drain(self, directory: Directory) -> None:
        self.table.drain(directory.silo)

    async def end(self, directory: Directory) -> None:
        self.table.remove(directory.silo)


class EtcdHouse:
    """Each directory has its own connection to the etcd, and its own handle of one store."""

    def __init__(self, server: EtcdServer, stack: AsyncExitStack, *, ttl: int = 30) -> None:
        self.keys = Keys(f"test-{secrets.token_hex(4)}")
        self.data = MemoryData()
        self.memberships: dict[str, Membership] = {}
        self._server = server
        self._stack = stack
        self._ttl = ttl

    async def client(self, *, timeout: float = 5.0) -> EtcdClient:
        return await self._stack.enter_async_context(EtcdClient([self._server.endpoint], timeout=timeout))

    async def join(self, name: str, *, timeout: float = 5.0) -> EtcdDirectory:
        etcd = await self.client(timeout=timeout)
        silo = f"{name}.{secrets.token_hex(4)}"
        membership = Membership(etcd, self.keys, clock=SystemClock(), ttl=self._ttl, on_lost=lambda: None)
        self._stack.push_async_callback(membership.stop)
        directory = EtcdDirectory(etcd, self.keys, membership, store=MemoryStore(self.data), placement=Placement(silo))
        await directory.adopt()
        await membership.join(record(silo))
        self.memberships[silo] = membership
        return directory

    async def drain(self, directory: Directory) -> None:
        await self.memberships[directory.silo].update(draining=True)

    async def end(self, directory: Directory) -> None:
        member = self.memberships[directory.silo].member
        assert member is not None
        await (await self.client()).revoke(member.lease)


ADAPTERS = ("lonely", "shared", "etcd")


async def knows(directory: Directory, *silos: str, gone: bool = False) -> None:
    """Return when the directory sees all of the silos as members, or none of them."""
    async with asyncio.timeout(10):
        while any(directory.is_member(silo) is gone for silo in silos):
            changed = asyncio.ensure_future(directory.changed())
            await asyncio.wait({changed}, timeout=0.05)
            changed.cancel()
