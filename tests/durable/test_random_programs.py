"""Some seeds of ``random_programs``; a person runs more by hand."""

import secrets
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from cluster.etcd import EtcdServer
from tests.conformance.store.postgres_server import shared_server
from tests.durable.cluster import Cluster, nursery
from tests.durable.random_programs import PATIENT, run_seed


@pytest_asyncio.fixture(params=["sqlite", "postgres"])
async def patient_cluster(
    request: pytest.FixtureRequest, etcd_server: EtcdServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Cluster]:
    folder = tmp_path_factory.mktemp("programs")
    url = f"sqlite:///{folder}/state.db" if request.param == "sqlite" else shared_server().new_database()
    with nursery(folder) as found:
        cluster = Cluster(found, etcd_server, url, folder, name=f"random-{secrets.token_hex(4)}", settings=PATIENT)
        await cluster.start("n1", "n2", "n3")
        yield cluster
        await cluster.stop()


@pytest.mark.parametrize("seed", range(2))
async def test_every_count_is_exact(patient_cluster: Cluster, seed: int) -> None:
    outcome = await run_seed(patient_cluster, seed)
    assert outcome.kills > 0
