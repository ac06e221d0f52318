"""A real etcd, silos in this process and ``silo`` processes, all ended with their test."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cluster.etcd import EtcdServer
from tests.cluster.house import House
from tests.cluster.processes import Cluster, Processes


@pytest.fixture(scope="session")
def etcd_server() -> Iterator[EtcdServer]:
    """One for all tests, each of which uses a cluster name of its own."""
    server = EtcdServer(unsafe_no_fsync=True)
    asyncio.run(server.start())
    yield server
    asyncio.run(server.close())


@pytest.fixture
async def own_etcd(tmp_path: Path) -> AsyncIterator[EtcdServer]:
    """An etcd to stop, freeze, wipe or restore."""
    async with EtcdServer(tmp_path / "etcd", unsafe_no_fsync=True) as server:
        yield server


@pytest.fixture
async def exits() -> AsyncIterator[AsyncExitStack]:
    """Where a test leaves what has to be closed at its end."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def house(etcd_server: EtcdServer, tmp_path: Path) -> AsyncIterator[House]:
    """A cluster of silos in this process, over the shared etcd and an SQLite file."""
    async with House(etcd_server, tmp_path) as house:
        yield house


@pytest.fixture
async def own_house(own_etcd: EtcdServer, tmp_path: Path) -> AsyncIterator[House]:
    """Like ``house``, over ``own_etcd``, with short leases."""
    async with House(own_etcd, tmp_path, lease_ttl=2) as house:
        yield house


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    """Starts ``silo`` commands; whatever still runs at the end is killed."""
    async with Processes(tmp_path) as processes:
        yield processes


@pytest.fixture
def cluster(processes: Processes, etcd_server: EtcdServer, tmp_path: Path) -> Cluster:
    """A cluster of ``silo`` processes, over the shared etcd and an SQLite file."""
    return Cluster(processes, etcd_server, tmp_path)
