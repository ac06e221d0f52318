"""The channels of actors, as streams."""

import json
from pathlib import Path

from actors import actor_ref
from cluster import Silo
from cluster.etcd import EtcdServer
from tests.cluster.house import House
from tests.cluster.waiting import eventually
from tests.gateway.conftest import OPTIONS, Open, Shut
from tests.gateway.http_client import Gateway

JSON = {"Content_Type": "application/json"}


async def test_a_channel_is_read_as_json_without_waking_its_actor(silo: Silo, gateway: Gateway) -> None:
    for word in "ab":
        await actor_ref("shut-1").say(word)
    first = await gateway.get("shut-1/output")
    assert (first.json, first.headers["stream-up-to-date"]) == (["a", "b"], "true")
    middle = f"{0:016d}_{1:016d}"
    assert (await gateway.get("shut-1/output", f"offset={middle}")).json == ["b"]
    assert (await gateway("HEAD", "/v1/stream/shut-1/output")).next_offset == first.next_offset
    etag = first.headers["etag"]
    assert (await gateway("GET", "/v1/stream/shut-1/output", headers={"If-None-Match": etag})).status == 304

    assert (await gateway.get("shut-2/output")).json == []
    assert "shut-2" not in silo.runtime.activations


async def test_the_live_tail_of_a_channel(silo: Silo, gateway: Gateway) -> None:
    await actor_ref("shut-1").say("before")
    async with gateway.events("shut-1/output", "offset=-1") as events:
        assert await anext(events) == ("data", '["before"]')
        control = json.loads((await anext(events))[1])
        await actor_ref("shut-1").say("after")
        assert await anext(events) == ("data", '["after"]')
        following = json.loads((await anext(events))[1])
    assert following["streamNextOffset"] > control["streamNextOffset"]
    polled = await gateway.get("shut-1/output", f"offset={control['streamNextOffset']}&live=long-poll")
    assert polled.json == ["after"]
    waited = await gateway.get("shut-1/output", "offset=now&live=long-poll")
    assert (waited.status, waited.next_offset) == (204, following["streamNextOffset"])


async def test_only_channels_of_public_classes_can_be_written(silo: Silo, gateway: Gateway) -> None:
    assert (await gateway.post("open-1/output", '[{"a":1},2]', **JSON)).status == 204
    assert (await gateway.get("open-1/output")).json == [{"a": 1}, 2]
    refused = await gateway.post("shut-1/output", "1", **JSON)
    assert (refused.status, refused.json["type"]) == (403, "NotAuthorized")
    assert (await gateway.post("open-1/$turns", "1", **JSON)).status == 403
    assert (await gateway.get("shut-1/output")).json == []
    for method in ("PUT", "DELETE"):
        assert (await gateway(method, "/v1/stream/open-1/output")).status == 405


async def test_offsets_of_what_was_deleted_are_gone(silo: Silo, gateway: Gateway) -> None:
    await actor_ref("shut-1").say("a")
    await actor_ref("shut-1").delete()
    assert (await gateway.get("shut-1/output", f"offset={0:016d}_{0:016d}")).status == 410
    assert (await gateway.get("shut-1/output")).json == []


async def test_what_json_cannot_say_is_told_as_such(silo: Silo, gateway: Gateway) -> None:
    await actor_ref("open-1").channel("output").publish({1, 2})
    assert list((await gateway.get("open-1/output")).json[0]) == ["unreadable"]


async def test_the_gateways_own_actors_are_no_streams(silo: Silo, gateway: Gateway) -> None:
    await gateway.put("s", "text", Content_Type="text/plain")
    assert (await gateway.get("durable_stream-s/log")).status == 404


async def test_a_post_of_several_messages_is_one_append_by_a_producer(silo: Silo, gateway: Gateway) -> None:
    def producer(epoch: int, seq: int) -> dict[str, str]:
        return {**JSON, "Producer_Id": "p", "Producer_Epoch": str(epoch), "Producer_Seq": str(seq)}

    first = await gateway.post("open-1/output", "[1,2,3]", **producer(0, 0))
    assert (first.status, first.headers["producer-seq"], first.next_offset) == (200, "0", f"{0:016d}_{3:016d}")
    again = await gateway.post("open-1/output", "[1,2,3]", **producer(0, 0))
    assert (again.status, again.next_offset) == (204, first.next_offset)
    gap = await gateway.post("open-1/output", "[9]", **producer(0, 2))
    assert (gap.status, gap.headers["producer-expected-seq"], gap.headers["producer-received-seq"]) == (409, "1", "2")
    assert (await gateway.post("open-1/output", "[4]", **producer(1, 0))).status == 200
    fenced = await gateway.post("open-1/output", "[9]", **producer(0, 1))
    assert (fenced.status, fenced.headers["producer-epoch"]) == (403, "1")
    assert (await gateway.post("open-1/output", "[9]", **{**JSON, "Producer_Id": "p"})).status == 400
    assert (await gateway.post("open-1/output", "[9]", **JSON, Stream_Seq="a")).status == 400
    assert (await gateway.get("open-1/output")).json == [1, 2, 3, 4]


async def test_a_channel_is_closed(silo: Silo, gateway: Gateway) -> None:
    await gateway.post("open-1/output", "[1]", **JSON)
    async with gateway.events("open-1/output", "offset=-1") as events:
        assert await anext(events) == ("data", "[1]")
        await anext(events)
        closing = {"Producer_Id": "p", "Producer_Epoch": "0", "Producer_Seq": "0", "Stream_Closed": "true"}
        closed = await gateway.post("open-1/output", "[2]", **JSON, **closing)
        assert (closed.status, closed.headers["stream-closed"]) == (200, "true")
        assert await anext(events) == ("data", "[2]")
        rest = [json.loads(data) async for name, data in events if name == "control"]
    assert rest[-1]["streamClosed"] is True
    assert rest[-1]["streamNextOffset"] == closed.next_offset
    assert (await gateway.post("open-1/output", "[2]", **JSON, **closing)).status == 204, "a repeat"
    assert (await gateway.post("open-1/output", "", Stream_Closed="true")).status == 204, "closing again is fine"
    late = await gateway.post("open-1/output", "[3]", **JSON)
    assert (late.status, late.headers["stream-closed"], late.next_offset) == (409, "true", closed.next_offset)
    head = await gateway("HEAD", "/v1/stream/open-1/output")
    assert (head.headers["stream-closed"], head.next_offset) == ("true", closed.next_offset)
    page = await gateway.get("open-1/output")
    assert (page.json, page.headers["stream-closed"]) == ([1, 2], "true")
    for live in ("long-poll", "sse"):
        there = await gateway.get("open-1/output", f"offset={closed.next_offset}&live={live}")
        assert there.status == (204 if live == "long-poll" else 200)
    shut = await gateway.post("shut-1/output", "", Stream_Closed="true")
    assert (shut.status, shut.json["type"]) == (403, "NotAuthorized")


async def test_what_was_trimmed_is_gone(silo: Silo, gateway: Gateway) -> None:
    for number in range(10):
        await actor_ref("short-1").say(str(number))
    assert (await gateway.get("short-1/output")).json == ["7", "8", "9"]
    gone = await gateway.get("short-1/output", f"offset={0:016d}_{6:016d}")
    assert (gone.status, gone.json["type"]) == (410, "OffsetGone")
    assert (await gateway.get("short-1/output", f"offset={0:016d}_{7:016d}")).json == ["7", "8", "9"]


async def test_a_channel_is_written_through_a_silo_that_does_not_host_its_class(
    etcd_server: EtcdServer, tmp_path: Path
) -> None:
    async with House(etcd_server, tmp_path, lease_ttl=2) as house:
        await house.start("a", actors=[Open, Shut])
        (other,) = await house.start("b", actors=[], http="127.0.0.1:0", gateway=OPTIONS)
        assert other.http is not None
        gateway = Gateway(other.http)
        assert (await gateway.post("open-1/output", "[1,2]", **JSON)).status == 204
        assert (await gateway.get("open-1/output")).json == [1, 2]
        assert (await gateway.post("shut-1/output", "1", **JSON)).status == 403
        assert (await gateway.post("open-1/output", "", Stream_Closed="true")).status == 204
        assert (await gateway.post("open-1/output", "[3]", **JSON)).status == 409


async def test_while_nobody_hosts_a_type_its_actors_are_away_and_not_unknown(
    etcd_server: EtcdServer, tmp_path: Path
) -> None:
    """What a client takes for final must not be said of what comes back; nor may a stream take a channel's name."""
    async with House(etcd_server, tmp_path, lease_ttl=2) as house:
        (first,) = await house.start("a", actors=[Open])
        (other,) = await house.start("b", actors=[], http="127.0.0.1:0", gateway=OPTIONS)
        assert other.http is not None
        gateway = Gateway(other.http)
        assert (await gateway.post("open-1/output", "[1]", **JSON)).status == 204
        await first.stop()

        async def is_away() -> bool:
            return (await gateway("GET", "/v1/actors/open-1/events?after=0")).status == 503

        await eventually("the silo's leaving is known", is_away)
        assert (await gateway.put("open-1/output", "[2]", **JSON)).status == 503
        assert (await gateway.get("open-1/output")).status == 503
        assert (await gateway.get("nobody-1/output")).status == 404
        await house.start("c", actors=[Open])

        async def is_back() -> bool:
            return (await gateway.get("open-1/output")).status == 200

        await eventually("it is back", is_back)
        assert (await gateway.get("open-1/output")).json == [1]
