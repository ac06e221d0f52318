"""The channels of actors, as streams."""

import json

from actors import actor_ref
from cluster import Silo
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
