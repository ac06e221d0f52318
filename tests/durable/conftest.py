"""Clusters of silo processes over SQLite and PostgreSQL."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from cluster.etcd import EtcdServer
from tests.conformance.store.postgres_server import shared_server
from tests.durable.cluster import Cluster, nursery


@pytest.fixture(scope="session")
def etcd_server() -> Iterator[EtcdServer]:
    """One for all tests, each of which uses a cluster name of its own."""
    server = EtcdServer(unsafe_no_fsync=True)
    asyncio.run(server.start())
    yield server
    asyncio.run(server.close())


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["sqlite", "postgres"])
async def cluster(
    request: pytest.FixtureRequest, etcd_server: EtcdServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Cluster]:
    """Three silos for the tests of a module. Each test kills some; in ``attended`` blocks they return."""
    folder: Path = tmp_path_factory.mktemp("durable")
    url = f"sqlite:///{folder}/state.db" if request.param == "sqlite" else shared_server().new_database()
    with nursery(folder) as found:
        cluster = Cluster(found, etcd_server, url, folder, name=f"durable-{secrets.token_hex(4)}")
        await cluster.start("n1", "n2", "n3")
        yield cluster
        await cluster.stop()
