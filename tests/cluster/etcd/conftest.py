"""A real etcd for the tests: one for the session, and others for those that stop, freeze or configure theirs."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from cluster.etcd import EtcdClient, EtcdServer


@pytest.fixture(scope="session")
def shared_server() -> Iterator[EtcdServer]:
    server = EtcdServer(unsafe_no_fsync=True)
    asyncio.run(server.start())
    yield server
    asyncio.run(server.close())


@pytest.fixture
async def client(shared_server: EtcdServer) -> AsyncIterator[EtcdClient]:
    """A client of the shared etcd, which is empty at the start of each test."""
    async with EtcdClient([shared_server.endpoint]) as client:
        await client.delete("", prefix=True)
        yield client


@pytest.fixture
async def server() -> AsyncIterator[EtcdServer]:
    """An etcd of the test's own, to stop, kill or freeze."""
    async with EtcdServer(unsafe_no_fsync=True) as server:
        yield server


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Where a test leaves what has to be closed at its end."""
    async with AsyncExitStack() as stack:
        yield stack
