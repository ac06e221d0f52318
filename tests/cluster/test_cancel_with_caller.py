"""Work that is tied to its caller, over real links: a client that cancels, leaves or dies stops it on any silo."""

import asyncio
from collections.abc import AsyncIterator
from typing import ClassVar

import pytest

from actors import Actor, Interrupted, actor_ref, handler
from actors.settings import Settings
from cluster import Client
from cluster.testing import TestCluster
from tests.cluster.waiting import eventually


class Worker(Actor, placement="hash"):
    did: ClassVar[dict[str, str]] = {}

    @handler
    async def work(self) -> None:
        self.did[self.key] = "begun"
        try:
            await asyncio.Event().wait()
        except Interrupted as interrupted:
            self.did[self.key] = str(interrupted)

    @handler
    async def items(self) -> AsyncIterator[int]:
        yield 1
        await self.work()


KEYS = [str(n) for n in range(6)]  # on more silos than the one that the client is connected to


async def all_are(what: str) -> None:
    await eventually(f"all are: {what}", lambda: [Worker.did.get(key) for key in KEYS] == [what] * len(KEYS))


@pytest.fixture
async def cluster() -> AsyncIterator[TestCluster]:
    Worker.did.clear()
    async with TestCluster(actors=[Worker], silos=3, settings=Settings(reconnect_grace=0.1)) as cluster:
        yield cluster


async def test_a_client_that_cancels(cluster: TestCluster) -> None:
    calls = [asyncio.ensure_future(actor_ref(f"worker-{key}").options(cancel_with_caller=True).work()) for key in KEYS]
    await all_are("begun")
    assert len({silo for silo in cluster.silos if silo.runtime.activations}) > 1
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await all_are("its caller gave up")


async def test_a_client_that_leaves_its_streams(cluster: TestCluster) -> None:
    streams = [actor_ref(f"worker-{key}").options(cancel_with_caller=True).items.stream() for key in KEYS]
    for stream in streams:
        assert await anext(stream) == 1
    await all_are("begun")
    for stream in streams:
        await stream.aclose()  # type: ignore[attr-defined]
    await all_are("its caller gave up")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_is_gone(cluster: TestCluster, stream: bool) -> None:
    async with Client([cluster.silos[0].grpc]):
        refs = [actor_ref(f"worker-{key}").options(cancel_with_caller=True) for key in KEYS]
        streams = [ref.items.stream() for ref in refs] if stream else []
        calls = [asyncio.ensure_future(ref.work()) for ref in refs] if not stream else []
        for items in streams:
            assert await anext(items) == 1
        await all_are("begun")
    await asyncio.gather(*calls, return_exceptions=True)
    await all_are("its caller is gone")
