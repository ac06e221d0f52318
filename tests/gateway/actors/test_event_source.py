"""EventSource, as browsers have it, on ways that break off and silos that die."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from actors import Actor, Retention, actor_ref, handler
from cluster import Silo
from cluster.gateway import GatewayOptions
from tests.cluster.house import House, calling_from
from tests.gateway.actors.conftest import Desk
from tests.gateway.chat.cutting_proxy import cutting
from tests.gateway.http_client import Gateway
from tests.gateway.node import install_packages, with_node

SCRIPT = Path(__file__).with_name("event_source.mjs")


class EventSource:
    """The client in Node.js, and what it has said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.said: list[dict[str, Any]] = []

    async def until(self, enough: Callable[[], bool], *, within: float = 60.0) -> None:
        """Listen until it has said enough."""
        assert self._process.stdout is not None
        async with asyncio.timeout(within):
            while not enough():
                line = await self._process.stdout.readline()
                assert line, f"the client has ended: {self.said[-3:]}"
                self.said.append(json.loads(line))

    @property
    def data(self) -> list[Any]:
        return [event["data"] for event in self.said if "data" in event]

    @property
    def connections(self) -> int:
        return sum("open" in event for event in self.said)


@asynccontextmanager
async def following(address: str, actor: str, query: str = "") -> AsyncIterator[EventSource]:
    install_packages()
    process = await asyncio.create_subprocess_exec(
        "node", str(SCRIPT), f"http://{address}/v1/actors/{actor}/events{query}",
        stdout=asyncio.subprocess.PIPE, env=with_node(),
    )  # fmt: skip
    try:
        yield EventSource(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_nothing_is_lost_or_doubled_when_connections_break_and_the_owner_dies(house: House) -> None:
    """Each connection goes to another silo, and breaks off in the middle of an event."""
    silos = await house.start("a", "b", actors=[Desk], http="127.0.0.1:0", gateway=GatewayOptions())
    first = silos[0]
    with calling_from(first):
        await actor_ref("desk-1").say("begin", 1)
    owner = next(silo for silo in silos if "desk-1" in silo.runtime.activations)
    other = next(silo for silo in silos if silo is not owner)
    words = [f"{number} " + "x" * 50 for number in range(300)]
    addresses = [silo.http for silo in silos if silo.http is not None]
    async with cutting(addresses, after=4_777) as proxy, following(proxy.address, "desk-1") as client:
        with calling_from(other):
            for number, word in enumerate(words):
                if number == 150:
                    await client.until(lambda: len(client.data) > 50)
                    await owner.abort()
                await actor_ref("desk-1").options(idempotency_key=str(number), timeout=60).say(word)
        await client.until(lambda: len(client.data) > len(words))
        assert proxy.cuts >= 3
        assert client.connections >= 4
    assert client.data == ["begin", *words]
    assert [event["id"] for event in client.said if "data" in event] == [str(n) for n in range(len(words) + 1)]


async def test_it_does_not_come_again_when_the_channel_is_closed(silo: Silo, gateway: Gateway) -> None:
    await actor_ref("desk-1").say("a")
    await actor_ref("desk-1").channel().close()
    async with following(gateway.address, "desk-1") as client:
        await client.until(lambda: any("ended" in event for event in client.said))
    assert client.said == [
        {"open": True}, {"id": "0", "data": "a"}, {"id": "1", "closed": True}, {"ended": 204},
    ]  # fmt: skip


class Short(Actor, public=True, channel_retention=Retention(items=3)):
    @handler(public=True)
    async def say(self, *words: str) -> None:
        for word in words:
            await self.publish(word)


async def test_what_is_gone_meanwhile_is_told_by_a_reset() -> None:
    async with Silo([Short], http="127.0.0.1:0", gateway=GatewayOptions()) as silo:
        assert silo.http is not None
        gateway = Gateway(silo.http)
        async with cutting([silo.http]) as proxy, following(proxy.address, "short-1") as client:
            await actor_ref("short-1").say("a", "b")
            await client.until(lambda: client.data == ["a", "b"])
            proxy.cut()
            await actor_ref("short-1").say("c", "d", "e", "f")
            await client.until(lambda: client.data[-1] == "f")
        events = [event for event in client.said if "open" not in event]
        assert events[2:] == [
            {"id": "2", "reset": 0}, {"id": "3", "data": "d"}, {"id": "4", "data": "e"}, {"id": "5", "data": "f"},
        ]  # fmt: skip
        gone = await gateway("GET", "/v1/actors/short-1/events?after=1")
        assert (gone.status, gone.json["type"], gone.json["first"]) == (410, "OffsetGone", 3)
        assert (await gateway("GET", "/v1/actors/short-1/events?lastEventId=1")).status == 410


@pytest.mark.parametrize("address", ["desk", "nobody-1"])
async def test_it_does_not_come_again_where_nothing_is(gateway: Gateway, address: str) -> None:
    async with following(gateway.address, address) as client:
        await client.until(lambda: any("ended" in event for event in client.said))
    assert client.said[-1]["ended"] in (400, 404)
