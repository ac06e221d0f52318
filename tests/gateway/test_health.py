"""``/readyz`` says why a silo takes no messages."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from actors import Actor, actor_ref, handler
from cluster import Silo
from cluster.etcd import EtcdServer
from tests.cluster.house import House, calling_from
from tests.cluster.waiting import eventually
from tests.gateway.http_client import Gateway


class Slow(Actor):
    """An actor whose turn lasts until the test says so."""

    begun = asyncio.Event()
    go_on = asyncio.Event()

    @handler
    async def work(self) -> None:
        self.begun.set()
        await self.go_on.wait()


@pytest.fixture
async def own_house(tmp_path: Path) -> AsyncIterator[House]:
    async with (
        EtcdServer(tmp_path / "etcd", unsafe_no_fsync=True) as server,
        House(server, tmp_path, lease_ttl=2) as house,
    ):
        yield house


async def told(silo: Silo) -> tuple[int, object]:
    assert silo.http is not None
    ready = await Gateway(silo.http)("GET", "/readyz")
    assert (await Gateway(silo.http)("GET", "/healthz")).status == 200
    assert ready.status == (200 if ready.json["ready"] else 503)
    return ready.status, ready.json.get("reason")


async def test_joining_ready_fenced_and_ready_again(own_house: House) -> None:
    own_house.server.pause()
    silo = own_house.new("n1", actors=[], http="127.0.0.1:0")
    starting = asyncio.create_task(silo.start())
    await eventually("it listens", lambda: silo.http is not None)
    assert await told(silo) == (503, "joining")
    own_house.server.resume()
    await starting
    assert await told(silo) == (200, None)

    own_house.server.pause()

    async def is_fenced() -> bool:
        return await told(silo) == (503, "fenced")

    await eventually("its lease is over", is_fenced)
    assert silo.http is not None
    stream = await Gateway(silo.http)("GET", "/v1/stream/s")
    assert (stream.status, stream.headers["retry-after"]) == (503, "1")
    own_house.server.resume()

    async def is_ready() -> bool:
        return await told(silo) == (200, None)

    await eventually("it has joined again", is_ready)


async def test_draining_until_the_last_turn_ends() -> None:
    Slow.begun, Slow.go_on = asyncio.Event(), asyncio.Event()
    silo = Silo([Slow], http="127.0.0.1:0")
    await silo.start()
    with calling_from(silo):
        working = asyncio.create_task(actor_ref("slow-1").work())
        await Slow.begun.wait()
        stopping = asyncio.create_task(silo.stop())

        async def drains() -> bool:
            return await told(silo) == (503, "draining")

        await eventually("it drains", drains)
        Slow.go_on.set()
        await asyncio.gather(working, stopping)
    assert silo.condition == "stopped"


async def test_what_could_not_start_is_stopped() -> None:
    silo = Silo([], http="127.0.0.1:0", store="redis://x")
    with pytest.raises(ValueError, match="redis"):
        await silo.start()
    assert silo.condition == "stopped"
