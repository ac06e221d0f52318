"""The live tail of a channel as server-sent events."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from actors import actor_ref
from actors.effects import Effects
from actors.records import ChannelItem, encode
from cluster import Silo
from cluster.gateway import GatewayOptions
from cluster.gateway.actors import event_stream
from cluster.gateway.actors import events as channel_events
from tests.cluster.waiting import eventually
from tests.gateway.actors.conftest import Desk
from tests.gateway.actors.sse import Sse, events
from tests.gateway.http_client import Gateway


async def take(stream: AsyncIterator[Sse], count: int) -> list[Sse]:
    async with asyncio.timeout(20):
        return [await anext(stream) for _ in range(count)]


async def rest(stream: AsyncIterator[Sse]) -> list[Sse]:
    async with asyncio.timeout(20):
        return [event async for event in stream]


async def test_history_and_what_comes(silo: Silo, gateway: Gateway) -> None:
    await actor_ref("desk-1").say("a", 2)
    async with events(gateway, "desk-1") as stream:
        assert await take(stream, 2) == [Sse("0", "", '"a"'), Sse("1", "", '"a"')]
        await actor_ref("desk-1").say("b\nc")
        assert await take(stream, 1) == [Sse("2", "", '"b\\nc"')]


@pytest.mark.parametrize(
    ("query", "headers"),
    [("after=0", {}), ("lastEventId=0", {}), ("", {"Last-Event-ID": "0"}), ("after=1", {"Last-Event-ID": "0"})],
)
async def test_a_reader_goes_on_behind_what_it_has(
    silo: Silo, gateway: Gateway, query: str, headers: dict[str, str]
) -> None:
    """The header is of the newest connection, a parameter of the first: the header counts."""
    await actor_ref("desk-1").say("a", 3)
    async with events(gateway, "desk-1", query, headers) as stream:
        assert [event.id for event in await take(stream, 2)] == ["1", "2"]


async def test_other_channels(silo: Silo, gateway: Gateway) -> None:
    await actor_ref("desk-1").channel("other").publish({"x": None})
    async with events(gateway, "desk-1", "channel=other") as stream:
        assert await take(stream, 1) == [Sse("0", "", '{"x":null}')]


async def test_the_actor_sleeps_while_what_is_stored_is_read(silo: Silo, gateway: Gateway) -> None:
    """Its store has the entries; it is asked for what comes only when these have been read."""
    await actor_ref("desk-1").say("x" * 50_000, 400)  # more than what fits into the buffers on the way
    silo.runtime.activations["desk-1"].request_deactivation()
    await eventually("the actor sleeps", lambda: "desk-1" not in silo.runtime.activations)
    async with events(gateway, "desk-1") as stream:
        assert [event.id for event in await take(stream, 100)] == [str(number) for number in range(100)]
        assert "desk-1" not in silo.runtime.activations
        assert [event.id for event in await take(stream, 300)] == [str(number) for number in range(100, 400)]
        await eventually("the actor is asked for what comes", lambda: "desk-1" in silo.runtime.activations)


async def test_nothing_is_said_for_long(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    assert event_stream.HEARTBEAT <= 15
    monkeypatch.setattr(channel_events, "HEARTBEAT", 0.02)
    async with events(gateway, "desk-1") as stream:
        assert await take(stream, 3) == [Sse(kind=":")] * 3


async def test_the_headers_come_at_once(gateway: Gateway) -> None:
    async with asyncio.timeout(5), events(gateway, "desk-new"):
        pass


async def test_a_deleted_actor_ends_its_readers(silo: Silo, gateway: Gateway) -> None:
    await actor_ref("desk-1").say("a")
    async with events(gateway, "desk-1") as stream:
        await take(stream, 1)
        await actor_ref("desk-1").delete()
        assert await rest(stream) == [Sse("1", "closed", "null")]
    again = await gateway("GET", "/v1/actors/desk-1/events", headers={"Last-Event-ID": "1"})
    assert again.status == 204  # EventSource does not come a third time
    await actor_ref("desk-1").say("b")
    async with events(gateway, "desk-1", "after=1") as stream:
        assert await take(stream, 1) == [Sse("2", "", '"b"')]
    async with events(gateway, "desk-1", headers={"Last-Event-ID": "0"}) as stream:
        assert await rest(stream) == [Sse("1", "closed", "null")]


async def test_offsets_that_make_no_sense(silo: Silo, gateway: Gateway) -> None:
    await actor_ref("desk-1").say("a")
    for wrong in ("x", "-1", "1.5", "1e3", "٣", "9" * 30, "0000000000000000_0000000000000001", "5", "1"):
        quoted = "%D9%A3" if wrong == "٣" else wrong
        for name in ("after", "lastEventId"):
            refused = await gateway("GET", f"/v1/actors/desk-1/events?{name}={quoted}")
            assert refused.status == 400, wrong
        refused = await gateway("GET", "/v1/actors/desk-1/events", headers={"Last-Event-ID": wrong})
        assert refused.status == 400, wrong
    for channel in ("", "a%2Fb", "%00", "%ff" * 200, "x" * 300):
        assert (await gateway("GET", f"/v1/actors/desk-1/events?channel={channel}")).status == 400, channel


async def test_actors_of_nobody_and_of_the_gateway(gateway: Gateway) -> None:
    await gateway.put("s", "x", Content_Type="text/plain")
    for address in ("nobody-1", "durable_stream-s"):
        refused = await gateway("GET", f"/v1/actors/{address}/events?channel=log")
        assert (refused.status, refused.json["type"]) == (404, "UnknownActorType")


async def test_what_json_cannot_say_is_told_as_such(silo: Silo, gateway: Gateway) -> None:
    for value in ({1}, object(), "fine"):
        await actor_ref("desk-1").channel().publish(value)
    async with events(gateway, "desk-1") as stream:
        stored = await take(stream, 3)
        for value in ({1}, object(), "fine"):
            await actor_ref("desk-1").channel().publish(value)
        live = await take(stream, 3)
    assert [event.data for event in stored] == [event.data for event in live]
    assert "unreadable" in stored[0].data


async def test_readers_are_let_go_when_the_silo_leaves() -> None:
    async with Silo([Desk], http="127.0.0.1:0", gateway=GatewayOptions()) as silo:
        assert silo.http is not None
        gateway = Gateway(silo.http)
        async with events(gateway, "desk-1") as caught_up, events(gateway, "desk-2"):
            await eventually("both follow", lambda: len(silo.runtime.calls) == 2)
            stopping = asyncio.create_task(silo.stop())
            assert await rest(caught_up) == []
            await stopping


async def test_a_late_reader_can_have_the_text_so_far_in_one_piece(silo: Silo, gateway: Gateway) -> None:
    await actor_ref("desk-1").say("a", 600)
    await actor_ref("desk-1").say("b", 2)
    async with events(gateway, "desk-1", "compact=1") as stream:
        assert await take(stream, 2) == [Sse("599", "", f'"{"a" * 600}"'), Sse("601", "", '"bb"')]
        await actor_ref("desk-1").say("c", 2)
        assert [event.id for event in await take(stream, 2)] == ["602", "603"]  # what comes, as it comes
    async with events(gateway, "desk-1", "compact=1&after=600") as stream:
        assert [(event.id, event.data) for event in await take(stream, 2)] == [("601", '"b"'), ("603", '"cc"')]
    async with events(gateway, "desk-1", "after=600") as stream:
        assert [event.id for event in await take(stream, 3)] == ["601", "602", "603"]
    assert (await gateway("GET", "/v1/actors/desk-1/events?compact=x")).status == 400


async def test_what_was_begun_anew_is_merged_without_what_it_replaced(silo: Silo, gateway: Gateway) -> None:
    effects = Effects()
    effects.items["output"] = [
        ChannelItem("item", encode("old"), turn="t", begins=True),
        ChannelItem("item", encode(" text"), turn="t"),
        ChannelItem("reset", encode(0), turn="t"),
        ChannelItem("item", encode("new"), turn="t", begins=True),
        ChannelItem("item", encode(" text"), turn="t"),
    ]
    await actor_ref("desk-1").say("x", 0)
    activation = silo.runtime.activations["desk-1"]
    await silo.runtime.apply(activation, activation.durable_side.commits.apart(effects))
    async with events(gateway, "desk-1", "compact=1") as stream:
        assert await take(stream, 1) == [Sse("4", "", '"new text"')]
    async with events(gateway, "desk-1", "compact=1", {"Last-Event-ID": "0"}) as stream:  # who has something is told
        assert await take(stream, 2) == [Sse("2", "reset", "0"), Sse("4", "", '"new text"')]
