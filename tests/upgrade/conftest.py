"""Silos and clients of the release before this one, and of this one, over one etcd and one store."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cluster.etcd import EtcdServer
from tests.cluster.processes import Cluster, Processes
from tests.upgrade.release import Release


@pytest.fixture(scope="session")
def previous_release() -> Release:
    return Release.previous()


@pytest.fixture(scope="session")
def old_tree(previous_release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages of the release before this one."""
    return previous_release.unpack(tmp_path_factory.mktemp("previous"))


@pytest.fixture(scope="session")
def etcd_server() -> Iterator[EtcdServer]:
    server = EtcdServer(unsafe_no_fsync=True)
    asyncio.run(server.start())
    yield server
    asyncio.run(server.close())


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(tmp_path) as processes:
        yield processes


@pytest.fixture
def cluster(processes: Processes, etcd_server: EtcdServer, tmp_path: Path) -> Cluster:
    return Cluster(processes, etcd_server, tmp_path)
