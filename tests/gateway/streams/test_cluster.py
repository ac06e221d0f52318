"""Streams in a cluster: any silo serves any stream, and readers go on when a silo dies."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from actors import Actor
from cluster import Silo
from cluster.etcd import EtcdServer
from cluster.gateway import GatewayOptions
from cluster.gateway.streams.names import stream_address
from cluster.gateway.streams.stream import Stream
from cluster.gateway.streams.stream_state import View
from tests.cluster.house import House
from tests.cluster.waiting import eventually
from tests.gateway.http_client import Gateway

JSON = {"Content_Type": "application/json"}
OPTIONS = GatewayOptions(long_poll_timeout=5)


@pytest.fixture
async def house(etcd_server: EtcdServer, tmp_path: Path) -> AsyncIterator[House]:
    async with House(etcd_server, tmp_path, lease_ttl=2) as house:
        yield house


def gateway_of(silo: Silo) -> Gateway:
    assert silo.http is not None
    return Gateway(silo.http)


async def test_a_reader_goes_on_when_the_silo_of_the_stream_dies(house: House) -> None:
    silos = await house.start("a", "b", actors=[], http="127.0.0.1:0", gateway=OPTIONS)
    response = created = await gateway_of(silos[0]).put("s", "[0]", **JSON)
    owner = next(silo for silo in silos if stream_address("s") in silo.runtime.activations)
    other = gateway_of(next(silo for silo in silos if silo is not owner))
    offset, read = "-1", []
    async with other.events("s", "offset=-1") as events:
        for number in range(1, 6):
            if number == 3:
                await owner.abort()
            response = await other.post("s", f"[{number}]", **JSON, Producer_Id="p", Producer_Epoch="0",
                                        Producer_Seq=str(number - 1))  # fmt: skip
            assert response.status in (200, 204)
        async with asyncio.timeout(30):
            while offset < response.next_offset:
                name, data = await anext(events)
                if name == "data":
                    read += json.loads(data)
                else:
                    offset = json.loads(data)["streamNextOffset"]
    assert read == [0, 1, 2, 3, 4, 5]
    assert created.next_offset < offset


async def test_a_fork_is_released_although_the_silo_dies_right_after_the_answer(house: House) -> None:
    """What a stream tells others is in its own commit: it is told, however soon its silo dies."""
    silos = await house.start("a", "b", actors=[], http="127.0.0.1:0", gateway=OPTIONS)
    first = gateway_of(silos[0])
    forks = [f"fork{number}" for number in range(8)]
    await first.put("source", "[0]", **JSON)
    await asyncio.gather(*(first.put(fork, Stream_Forked_From="/v1/stream/source") for fork in forks))
    assert (await first.delete("source")).status == 204
    assert (await first.get("source")).status == 410
    await asyncio.gather(*(first.delete(fork) for fork in forks))
    await silos[0].abort()
    second = gateway_of(silos[1])

    async def is_gone() -> bool:
        return (await second.get("source")).status == 404

    await eventually("the source goes with its last fork", is_gone, within=30)


async def test_a_fork_is_made_although_its_silo_and_its_client_are_lost_on_the_way(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source knows of the fork by then: without an end to the creation it would be kept for ever."""
    reached, prefix = asyncio.Event(), Stream._prefix

    async def stop_the_first_time(self: Stream, source: View, position: int, count: int) -> bytes:
        if not reached.is_set():
            reached.set()
            await asyncio.Event().wait()
        return await prefix(self, source, position, count)

    monkeypatch.setattr(Stream, "_prefix", stop_the_first_time)
    silos = await house.start("a", "b", actors=[], http="127.0.0.1:0", gateway=OPTIONS)
    await gateway_of(silos[0]).put("source", "[0,1]", **JSON)
    assert (await gateway_of(silos[0]).get("fork")).status == 404
    owner = next(silo for silo in silos if stream_address("fork") in silo.runtime.activations)
    other = gateway_of(next(silo for silo in silos if silo is not owner))
    headers = {"Stream_Fork_Offset": f"{0:016d}_{0:016d}", "Stream_Fork_Sub_Offset": "1"}
    asking = asyncio.create_task(gateway_of(owner).put("fork", Stream_Forked_From="/v1/stream/source", **headers))
    async with asyncio.timeout(20):
        await reached.wait()
    await owner.abort()
    await asyncio.gather(asking, return_exceptions=True)

    async def is_made() -> bool:
        return (await other.get("fork")).status == 200

    await eventually("the fork is made by the other silo", is_made, within=30)
    assert (await other.get("fork")).json == [0]


async def test_a_gateway_off_loopback_needs_insecure() -> None:
    with pytest.raises(ValueError, match="--insecure"):
        Silo([], http="0.0.0.0:0")
    async with Silo([], http="0.0.0.0:0", insecure=True) as silo:
        assert silo.http is not None
        port = silo.http.rpartition(":")[2]
        there = Gateway(f"127.0.0.1:{port}")
        assert (await there("GET", "/v1/stream/s", headers={"Host": "silo.example"})).status == 404
        assert (await there("GET", "/healthz", headers={"Host": "silo.example"})).status == 200


def test_the_types_of_the_gateway_are_taken() -> None:
    class Mine(Actor, type="durable_stream"):
        pass

    with pytest.raises(ValueError, match="Mine.*durable_stream.*gateway"):
        Silo([Mine])
