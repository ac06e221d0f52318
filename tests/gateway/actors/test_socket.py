"""Many actors over one WebSocket."""

import asyncio
import contextlib
import json
from random import Random
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from actors import actor_ref
from cluster import Silo
from cluster.gateway import GatewayOptions
from tests.cluster.waiting import eventually
from tests.gateway.actors.conftest import Desk, gate
from tests.gateway.actors.socket_client import opened
from tests.gateway.http_client import Gateway


async def test_send_and_ask(gateway: Gateway) -> None:
    async with opened(gateway) as ws:
        accepted = await ws.call(type="send", id=1, message={"a": 1})
        assert (accepted["type"], accepted["id"], list(accepted)) == ("accepted", 1, ["type", "id", "message_id"])
        assert await ws.call(type="ask", id="x", message="hi") == {"type": "result", "id": "x", "value": "hi"}
        other = await ws.call(type="ask", id=2, address="desk-2", handler="say", args=["w"], kwargs={"times": 2})
        assert other == {"type": "result", "id": 2, "value": 1}
        assert (await ws.call(type="ask", id=2, address="desk-2", handler="words"))["value"] == ["w"]
        assert (await ws.call(type="ask", id=3, handler="say", message="m"))["value"] == 3
        for _ in range(2):
            told = await ws.call(type="ask", id=4, handler="say", message="k", idempotency_key="k")
            assert told["value"] == 4


async def test_the_items_of_a_stream(gateway: Gateway) -> None:
    async with opened(gateway) as ws:
        await ws.send(type="ask", id=1, handler="count", args=[2])
        assert await ws.take(3) == [
            {"type": "item", "id": 1, "value": 0},
            {"type": "item", "id": 1, "value": 1},
            {"type": "end", "id": 1, "reason": "done"},
        ]
        await ws.send(type="ask", id=2, handler="count", kwargs={"upto": 0, "fail": True})
        failed = await ws.next()
        assert (failed["type"], failed["problem"]["type"]) == ("error", "ActorFailed")


async def test_a_slow_request_holds_up_no_other(gateway: Gateway) -> None:
    async with opened(gateway) as ws:
        await ws.send(type="ask", id=1, handler="wait", args=["later"])
        assert (await ws.call(type="ask", id=2, address="desk-2", handler="words"))["id"] == 2
        gate("later").set()
        assert await ws.next() == {"type": "result", "id": 1, "value": "later"}


async def test_a_late_subscriber_can_have_the_text_so_far_in_one_piece(silo: Silo, gateway: Gateway) -> None:
    await actor_ref("desk-1").say("a", 300)
    async with opened(gateway) as ws:
        await ws.call(type="subscribe", id=1, compact=True)
        merged = await ws.next()
        assert (merged["offset"], merged["data"]) == (299, "a" * 300)
        await actor_ref("desk-1").say("b")
        assert (await ws.next())["offset"] == 300


async def test_subscriptions_to_many_actors(silo: Silo, gateway: Gateway) -> None:
    await actor_ref("desk-1").say("a", 2)
    async with opened(gateway) as ws:
        assert await ws.call(type="subscribe", id=1) == {"type": "subscribed", "id": 1, "next": 0, "tail": 2}
        first, second = await ws.take(2)
        turn = first.pop("turn")
        assert turn
        assert second.pop("turn") == turn
        assert [first, second] == [
            {"type": "event", "id": 1, "offset": number, "kind": "item", "data": "a"} for number in range(2)
        ]
        joined = await ws.call(type="subscribe", id=2, address="desk-2", channel="other")
        assert joined == {"type": "subscribed", "id": 2, "next": 0, "tail": 0}
        await actor_ref("desk-2").channel("other").publish({"x": 1})
        assert await ws.next() == {"type": "event", "id": 2, "offset": 0, "kind": "item", "data": {"x": 1}}
        assert await ws.call(type="subscribe", id=3, after=0) == {"type": "subscribed", "id": 3, "next": 1, "tail": 2}
        assert (await ws.next())["offset"] == 1
        assert await ws.call(type="unsubscribe", id=3) == {"type": "end", "id": 3, "reason": "unsubscribed"}
        await actor_ref("desk-1").say("b")
        assert (await ws.next())["id"] == 1
        await actor_ref("desk-1").delete()
        assert [(await ws.next())[name] for name in ("kind", "reason")[:1]] == ["closed"]
        assert await ws.next() == {"type": "end", "id": 1, "reason": "closed"}


async def test_an_interrupt(gateway: Gateway) -> None:
    async with opened(gateway) as ws:
        await ws.send(type="ask", id=1, handler="wait", args=["never"])
        await eventually("the turn runs", lambda: bool(gate("never")._waiters))
        await ws.send(type="interrupt", id=2, reason="enough")
        told = {frame["id"]: frame for frame in await ws.take(2)}
        assert told[2] == {"type": "result", "id": 2, "value": {"interrupted": True}}
        assert told[1]["problem"]["type"] == "TurnInterrupted"


async def test_an_interrupt_of_one_message_stops_no_other(gateway: Gateway) -> None:
    async with opened(gateway) as ws:
        accepted = await ws.call(type="send", id=1, handler="wait", args=["mine"])
        await eventually("the turn runs", lambda: bool(gate("mine")._waiters))
        other = await ws.call(type="interrupt", id=2, message_id="another")
        assert other == {"type": "result", "id": 2, "value": {"interrupted": False}}
        assert gate("mine")._waiters, "it was stopped all the same"
        told = await ws.call(type="interrupt", id=3, message_id=accepted["message_id"])
        assert told["value"] == {"interrupted": True}


async def test_a_ping(gateway: Gateway) -> None:
    async with opened(gateway) as ws:
        assert await ws.call(type="ping", id="p") == {"type": "pong", "id": "p"}


async def test_closing_stops_nothing(silo: Silo, gateway: Gateway) -> None:
    async with opened(gateway) as ws:
        await ws.send(type="ask", id=1, handler="wait", args=["go"])
        await ws.call(type="subscribe", id=2, address="desk-2")
        await eventually("the turn runs", lambda: bool(gate("go")._waiters))
    await eventually("nobody waits any more", lambda: len(silo.runtime.calls) <= 1)  # the feed lingers
    gate("go").set()
    assert await actor_ref("desk-1").words() == ["go"]


BAD_FRAMES: list[Any] = [
    {}, [], 5, "x", None, {"type": "ask"}, {"id": 1}, {"type": "dance", "id": 1}, {"type": "ask", "id": 1.5},
    {"type": "ask", "id": None}, {"type": "ask", "id": True}, {"type": "ask", "id": {}}, {"type": "ask", "id": ""},
    {"type": "ask", "id": "x" * 129}, {"type": "ask", "id": 2**60}, {"type": "ask", "id": 1, "mesage": 1},
    {"type": "ask", "id": 1, "address": "desk"}, {"type": "ask", "id": 1, "address": "desk-a/b"},
    {"type": "ask", "id": 1, "address": 5}, {"type": "ask", "id": 1, "handler": 5},
    {"type": "ask", "id": 1, "args": [1]},
    {"type": "ask", "id": 1, "handler": "say", "args": "x"}, {"type": "ask", "id": 1, "handler": "say", "kwargs": []},
    {"type": "ask", "id": 1, "handler": "say", "args": ["x"], "message": "y"}, {"type": "ask", "id": 1, "timeout": 0},
    {"type": "ask", "id": 1, "timeout": "x"}, {"type": "ask", "id": 1, "timeout": 1e300},
    {"type": "ask", "id": 1, "idempotency_key": ""}, {"type": "ask", "id": 1, "idempotency_key": "x" * 257},
    {"type": "ask", "id": 1, "handler": "count", "args": [1], "idempotency_key": "k"},
    {"type": "subscribe", "id": 1, "after": -1}, {"type": "subscribe", "id": 1, "after": "0"},
    {"type": "subscribe", "id": 1, "after": 5}, {"type": "subscribe", "id": 1, "channel": "a/b"},
    {"type": "subscribe", "id": 1, "channel": ""}, {"type": "interrupt", "id": 1, "reason": 5},
    {"type": "interrupt", "id": 1, "reason": "x" * 1001},
    {"type": "interrupt", "id": 1, "message_id": ""}, {"type": "ping"}, {"type": "ping", "id": 1, "data": 1},
    {"type": "send", "id": 1, "message": 2**70},
]  # fmt: skip


@pytest.mark.parametrize("frame", BAD_FRAMES, ids=lambda frame: json.dumps(frame)[:60])
async def test_a_frame_that_makes_no_sense_is_answered_and_the_connection_stays(gateway: Gateway, frame: Any) -> None:
    async with opened(gateway) as ws:
        await ws.connection.send(json.dumps(frame))
        answer = await ws.next()
        assert (answer["type"], answer["problem"]["status"]) in (("error", 400), ("error", 422))
        given = frame.get("id") if isinstance(frame, dict) else None
        assert answer["id"] == (given if given == 1 and given is not True else None)
        assert (await ws.call(type="ask", id=9, handler="words"))["value"] == []


@pytest.mark.parametrize(
    ("frame", "status"),
    [({"handler": "secret"}, 403), ({"handler": "nothing"}, 403), ({"address": "closed-1"}, 403),
     ({"address": "nobody-1"}, 404), ({"address": "durable_stream-s"}, 404), ({"handler": "say"}, 422)],
)  # fmt: skip
async def test_what_may_not_be_called(gateway: Gateway, frame: dict[str, Any], status: int) -> None:
    async with opened(gateway) as ws:
        assert (await ws.call(type="ask", id=1, **frame))["problem"]["status"] == status
        assert (await ws.call(type="unsubscribe", id=7))["problem"]["status"] == 404


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"{}", 1003), ("{", 1007), ("", 1007), ("NaN", 1007), ("[" * 20_000, 1007),
     ("[" * 600 + "]" * 600, 1007), ("x" * (2**20 + 1), 1009),
     ("x" * (2**24 + 1), 1009)],
)  # fmt: skip
async def test_what_is_no_frame_at_all_ends_the_connection(gateway: Gateway, data: str | bytes, code: int) -> None:
    async with opened(gateway) as ws:
        with contextlib.suppress(ConnectionClosed):  # while it still sends
            await ws.connection.send(data)
        assert (await ws.closed())[0] == code
    async with opened(gateway) as ws:
        assert (await ws.call(type="ask", id=1, message=1))["value"] == 1


async def test_ids_in_use(gateway: Gateway) -> None:
    async with opened(gateway) as ws:
        await ws.call(type="subscribe", id=1)
        for again in ("subscribe", "send"):
            assert (await ws.call(type=again, id=1))["problem"]["type"] == "IdInUse"
        await ws.call(type="unsubscribe", id=1)
        assert (await ws.call(type="subscribe", id=1))["type"] == "subscribed"


async def test_there_is_a_limit_to_what_is_open() -> None:
    options = GatewayOptions(max_socket_requests=2, max_socket_subscriptions=2)
    async with Silo([Desk], http="127.0.0.1:0", gateway=options) as silo:
        assert silo.http is not None
        async with opened(Gateway(silo.http)) as ws:
            for id in (1, 2):
                await ws.send(type="ask", id=id, handler="wait", args=["open"])
                assert (await ws.call(type="subscribe", id=10 + id))["type"] == "subscribed"
            assert (await ws.call(type="ask", id=3))["problem"]["status"] == 429
            assert (await ws.call(type="subscribe", id=13))["problem"]["status"] == 429
            await ws.call(type="unsubscribe", id=11)
            assert (await ws.call(type="subscribe", id=13))["type"] == "subscribed"
            gate("open").set()
            await ws.take(2)
            assert (await ws.call(type="ask", id=3))["type"] == "result"


@pytest.mark.parametrize("seed", range(4))
async def test_random_frames_never_fail_inside_and_never_hang(gateway: Gateway, seed: int) -> None:
    random = Random(seed)
    values = [None, 0, 1, -1, 2**63, 1.5, "", "x", "desk-1", "closed-1", "nobody-1", "say", "words", "count", "output",
              [], ["x"], {}, {"a": 1}, True, "x" * 300, "\ud800", "$delete"]  # fmt: skip
    names = ["type", "id", "address", "handler", "message", "args", "kwargs", "channel", "after", "reason", "presence",
             "name", "data", "timeout", "idempotency_key"]  # fmt: skip
    async with opened(gateway) as ws:
        for number in range(200):
            frame = {name: random.choice(values) for name in random.sample(names, random.randrange(6))}
            frame.update(type=random.choice(["send", "ask", "subscribe", "interrupt", "x"]), id=number)
            await ws.connection.send(json.dumps(frame).replace("\\ud800", "?"))
        await ws.send(type="ask", id="last", address="desk-9", message="last")
        while (told := await ws.next())["id"] != "last":
            assert told.get("problem", {}).get("status", 400) < 500 or told["problem"]["type"] == "ActorFailed", told


async def test_where_no_socket_is(gateway: Gateway) -> None:
    for path, status in (("desk/ws", 400), ("desk-1/ask", 404), ("desk-1/events", 404), ("nobody-1/ws", 404),
                         ("durable_stream-s/ws", 404), ("desk-%ff/ws", 400)):  # fmt: skip
        with pytest.raises(InvalidStatus) as refused:
            async with connect(f"ws://{gateway.address}/v1/actors/{path}", proxy=None):
                pass
        assert refused.value.response.status_code == status
        assert refused.value.response.headers["content-type"] == "application/problem+json"
    with pytest.raises(InvalidStatus):
        async with connect(f"ws://{gateway.address}/v1/stream/x", proxy=None):
            pass


async def test_a_silo_that_leaves_says_so() -> None:
    async with Silo([Desk], http="127.0.0.1:0", gateway=GatewayOptions()) as silo:
        assert silo.http is not None
        async with opened(Gateway(silo.http)) as ws:
            await ws.call(type="subscribe", id=1)
            stopping = asyncio.create_task(silo.stop())
            assert (await ws.closed())[0] == 1012
            await stopping


async def test_a_client_that_takes_nothing_is_let_go() -> None:
    """Nothing is skipped for it: it comes again with the offset that it has."""
    options = GatewayOptions(stall_timeout=0.3)
    async with Silo([Desk], http="127.0.0.1:0", gateway=options) as silo:
        assert silo.http is not None
        gateway = Gateway(silo.http)
        async with opened(gateway) as ws:
            await ws.call(type="subscribe", id=1)
            ws.connection.transport.pause_reading()
            await actor_ref("desk-1").say("x" * 100_000, 200)
            assert silo._http_side is not None
            assert silo._http_side.gateway is not None
            (feed,) = silo._http_side.gateway._hub._feeds.values()
            await eventually("nobody follows", lambda: len(feed.followers) == 0)
            ws.connection.transport.resume_reading()
            got = [frame["offset"] for frame in await ws.all()]
        assert got == list(range(len(got)))
        assert len(got) < 200
        async with opened(gateway) as ws:
            await ws.call(type="subscribe", id=1, after=got[-1])
            rest = [frame["offset"] for frame in await ws.take(200 - len(got))]
        assert [*got, *rest] == list(range(200))


async def test_a_subscription_may_end_before_it_has_begun(gateway: Gateway) -> None:
    """Both frames are there before the first is looked at."""
    async with opened(gateway) as ws:
        for _ in range(3):
            for kind in ("subscribe", "unsubscribe"):
                await ws.send(type=kind, id=1)
        await ws.send(type="ping", id=2)
        told: list[dict[str, Any]] = []
        while not told or told[-1]["type"] != "pong":
            told.append(await ws.next())
        assert [frame["type"] for frame in told if frame["type"] != "subscribed"] == ["end", "end", "end", "pong"]
