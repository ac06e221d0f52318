import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from cluster.etcd import EtcdServer
from tests.conformance.directory.adapters import EtcdHouse, House, LonelyHouse, SharedHouse


@pytest.fixture(scope="session")
def etcd_server() -> Iterator[EtcdServer]:
    server = EtcdServer(unsafe_no_fsync=True)
    asyncio.run(server.start())
    yield server
    asyncio.run(server.close())


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Where a house leaves what has to be closed at the end."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def house(request: pytest.FixtureRequest, stack: AsyncExitStack) -> House:
    """An empty cluster over the directory that the test is parametrized with."""
    kind = request.param
    if kind == "lonely":
        return LonelyHouse()
    if kind == "shared":
        return SharedHouse()
    return EtcdHouse(request.getfixturevalue("etcd_server"), stack)
