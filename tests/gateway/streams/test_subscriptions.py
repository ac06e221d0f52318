"""Subscriptions beyond the conformance suite: retries, leases, fencing, and where webhooks may not go."""

import asyncio
import base64
import json
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from actors import actor_ref
from cluster import Silo
from cluster.gateway.streams.index import matches
from cluster.gateway.streams.stream import Stream
from cluster.gateway.streams.subscription import Subscription
from cluster.gateway.streams.webhook_keys import keys_address
from cluster.gateway.streams.webhook_url import Target, UnsafeUrl, check_url, resolve
from tests.cluster.waiting import eventually
from tests.gateway.http_client import Gateway, Response
from tests.gateway.streams.receiver import receiving

JSON = {"Content_Type": "application/json"}
SUB = "__ds/subscriptions/s"
DONE = (200, b'{"done": true}')


async def subscribe(gateway: Gateway, *, expect: int = 201, **config: Any) -> Response:
    wanted = {"lease_ttl_ms": 1000, **config}
    response = await gateway.put(SUB, json.dumps(wanted), **JSON)
    assert response.status == expect, response
    return response


async def links(gateway: Gateway) -> dict[str, str]:
    """Up to where each stream was processed."""
    return {link["path"]: link["acked_offset"] for link in (await gateway.get(SUB)).json["streams"]}


async def told(gateway: Gateway, verb: str, body: object, token: str = "") -> Response:
    return await gateway.post(f"{SUB}/{verb}", json.dumps(body), Authorization=f"Bearer {token}", **JSON)


async def claimed(gateway: Gateway) -> Any:
    """The wake that a worker gets, once there is one."""
    found: list[Response] = []

    async def is_claimed() -> bool:
        found.append(await told(gateway, "claim", {"worker": "w"}))
        return found[-1].status == 200

    await eventually("there is work to claim", is_claimed)
    return found[-1].json


async def test_a_webhook_that_fails_is_tried_again_with_a_new_generation(gateway: Gateway) -> None:
    async with receiving((500, b""), (302, b""), DONE) as receiver:
        await subscribe(gateway, type="webhook", pattern="events/*", webhook={"url": receiver.url})
        tail = (await gateway.put("events/a", "[1]", **JSON)).next_offset
        wakes = [(await receiver.next())[2] for _ in range(3)]
        assert [wake["generation"] for wake in wakes] == sorted({wake["generation"] for wake in wakes})
        assert len({wake["wake_id"] for wake in wakes}) == 3

        async def is_acked() -> bool:
            return (await links(gateway))["events/a"] == tail

        await eventually("the third try was taken", is_acked)
        assert (await gateway.get(SUB)).json["status"] == "active"


async def test_appends_while_a_wake_is_under_way_are_one_more_wake(gateway: Gateway) -> None:
    async with receiving() as receiver:
        await subscribe(gateway, type="webhook", pattern="**", webhook={"url": receiver.url}, lease_ttl_ms=60_000)
        await gateway.put("deep/events/a", "[1]", **JSON)
        wake = (await receiver.next())[2]
        for number in range(5):
            await gateway.post("deep/events/a", f"[{number}]", **JSON)
        ack = {key: wake[key] for key in ("wake_id", "generation")}
        acks = [{"stream": info["path"], "offset": info["tail_offset"]} for info in wake["streams"]]
        told_back = await told(gateway, "callback", {**ack, "acks": acks, "done": True}, wake["callback_token"])
        assert told_back.status == 200
        again = (await receiver.next())[2]
        assert again["generation"] == wake["generation"] + 1
        assert again["streams"][0]["acked_offset"] == acks[0]["offset"]
        assert (await told(gateway, "callback", {**ack, "done": True}, wake["callback_token"])).status == 409
        assert receiver.came.empty()


async def test_a_lease_that_ends_wakes_anew_and_fences_the_old_holder_off(gateway: Gateway) -> None:
    await gateway.put("wakes", "[]", **JSON)
    await subscribe(gateway, type="pull-wake", pattern="events/*", wake_stream="wakes")
    await gateway.put("events/a", "[1]", **JSON)
    old = await claimed(gateway)
    new = await claimed(gateway)  # when the lease of the first has ended
    assert new["generation"] > old["generation"]
    stale = {"wake_id": old["wake_id"], "generation": old["generation"], "done": True}
    assert (await told(gateway, "ack", stale, old["token"])).json["error"]["code"] == "FENCED"
    forged = {"wake_id": new["wake_id"], "generation": new["generation"], "done": True}
    assert (await told(gateway, "ack", forged, old["token"])).status == 409
    for wrong in ({"generation": old["generation"]}, {"wake_id": old["wake_id"]}):
        assert (await told(gateway, "ack", {**forged, **wrong}, new["token"])).status == 409
    assert (await told(gateway, "ack", forged, new["token"])).json == {"ok": True, "next_wake": True}
    events = (await gateway.get("wakes")).json
    assert [event["generation"] for event in events][:2] == [old["generation"], new["generation"]]


async def test_a_claim_that_comes_before_the_reminder_of_the_lease_s_end_is_a_wake_of_its_own(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def late(self: Subscription, name: str) -> None:
        pass

    monkeypatch.setattr(Subscription, "on_reminder", late)
    await gateway.put("wakes", "[]", **JSON)
    await subscribe(gateway, type="pull-wake", pattern="events/*", wake_stream="wakes")
    await gateway.put("events/a", "[1]", **JSON)
    old, new = await claimed(gateway), await claimed(gateway)
    assert new["generation"] == old["generation"] + 1
    assert new["wake_id"] != old["wake_id"]


async def test_existing_streams_are_linked_at_their_tail(gateway: Gateway) -> None:
    tail = (await gateway.put("events/old", "[1]", **JSON)).next_offset
    await gateway.put("wakes", "[]", **JSON)
    await subscribe(gateway, type="pull-wake", pattern="events/*", wake_stream="wakes")

    async def is_linked() -> bool:
        return await links(gateway) == {"events/old": tail}

    await eventually("the old stream is linked at its tail", is_linked)
    assert (await told(gateway, "claim", {"worker": "w"})).json["error"]["code"] == "NO_PENDING_WORK"
    await gateway.post("events/old", "[2]", **JSON)
    assert (await claimed(gateway))["streams"][0]["acked_offset"] == tail


async def test_a_claim_finds_work_whose_news_are_still_on_their_way(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def tell_nobody(_: Stream, __: int) -> None:
        pass

    await gateway.put("events/a", "[1]", **JSON)
    await subscribe(gateway, type="pull-wake", pattern="events/*", wake_stream="wakes")

    async def is_linked() -> bool:
        return bool(await links(gateway))

    await eventually("the stream is linked", is_linked)
    monkeypatch.setattr(Stream, "_tell_watchers", tell_nobody)
    await gateway.post("events/a", "[2]", **JSON)
    assert (await told(gateway, "claim", {"worker": "w"})).status == 200


async def test_streams_that_do_not_exist_yet_and_streams_that_are_deleted(gateway: Gateway) -> None:
    await gateway.put("wakes", "[]", **JSON)
    await subscribe(
        gateway, type="pull-wake", streams=["one"], pattern="glob/*", wake_stream="wakes", lease_ttl_ms=60_000
    )
    await gateway.put("glob/a", "[1]", **JSON)
    await gateway.put("one", "[1]", **JSON)

    async def both() -> bool:
        return set(await links(gateway)) == {"one", "glob/a"}

    await eventually("both are linked", both)
    await gateway.delete("glob/a")

    async def one() -> bool:
        return set(await links(gateway)) == {"one"}

    await eventually("the deleted one is forgotten", one)
    wake = await claimed(gateway)
    assert [info["path"] for info in wake["streams"] if info["has_pending"]] == ["one"]


async def test_a_deleted_subscription_is_gone_and_its_wakes_count_for_nothing(gateway: Gateway) -> None:
    await gateway.put("wakes", "[]", **JSON)
    await subscribe(gateway, type="pull-wake", pattern="events/*", wake_stream="wakes", lease_ttl_ms=60_000)
    await gateway.put("events/a", "[1]", **JSON)
    wake = await claimed(gateway)
    assert (await gateway.delete(SUB)).status == 204
    held = {"wake_id": wake["wake_id"], "generation": wake["generation"], "done": True}
    assert (await told(gateway, "ack", held, wake["token"])).status == 404
    assert (await gateway.get(SUB)).status == 404
    assert (await gateway.post("events/a", "[2]", **JSON)).status == 204


async def test_another_configuration_under_the_same_name_is_refused(gateway: Gateway) -> None:
    await subscribe(gateway, type="pull-wake", streams=["a", "b"], wake_stream="w")
    await subscribe(gateway, expect=200, type="pull-wake", streams=["b", "a"], wake_stream="w")
    await subscribe(gateway, expect=409, type="pull-wake", streams=["a"], wake_stream="w")


async def test_signatures_can_be_verified_also_after_a_rotation_of_keys(silo: Silo, gateway: Gateway) -> None:
    async with receiving(DONE) as receiver:
        await subscribe(gateway, type="webhook", pattern="events/*", webhook={"url": receiver.url})
        await gateway.put("events/a", "[1]", **JSON)
        headers, body, _ = await receiver.next()
        await actor_ref(keys_address()).rotate()
        jwks = (await gateway.get("__ds/jwks.json")).json["keys"]
        assert len(jwks) == 2
        signed = dict(part.split("=", 1) for part in headers["webhook-signature"].split(","))
        key = next(key for key in jwks if key["kid"] == signed["kid"])
        assert key is not jwks[0], "the old key is published still, behind the new one"
        public = Ed25519PublicKey.from_public_bytes(_decoded(key["x"]))
        public.verify(_decoded(signed["ed25519"]), f"{signed['t']}.".encode() + body)
        with pytest.raises(InvalidSignature):
            public.verify(_decoded(signed["ed25519"]), f"{signed['t']}.".encode() + body + b" ")


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/", "https://10.0.0.1/", "https://127.0.0.1/", "https://[::1]/", "https://169.254.169.254/",
        "https://192.168.1.1/", "https://[fe80::1]/", "https://[::ffff:10.0.0.1]/", "https://[64:ff9b::a00:1]/",
        "https://[2002:a00:1::]/", "https://0/", "https://2130706433/", "https://0x7f.1/", "https://localhost/",
        "https://a.localhost/", "https://metadata.google.internal/", "https://user:pw@example.com/",
        "ftp://example.com/",
        "https://", "//example.com", "https://example.com:99999/", "https://exa mple.com/",
        "https://example.com/\r\nX: y",
        "https://100.64.0.1/", "https://224.0.0.1/", "http://localhost/", "http://127.0.0.1:80/",
    ],
)  # fmt: skip
def test_urls_where_webhooks_may_not_go(url: str) -> None:
    with pytest.raises(UnsafeUrl):
        check_url(url, local=False)


def test_only_this_machine_is_the_exception_for_development() -> None:
    assert check_url("http://127.0.0.1:8080/a?b=c", local=True) == Target(False, "127.0.0.1", 8080, "/a?b=c")
    assert check_url("http://localhost/", local=True).port == 80
    for url in ("http://10.0.0.1/", "https://10.0.0.1/", "http://example.com/", "http://[::1]/", "http://0.0.0.0/"):
        with pytest.raises(UnsafeUrl):
            check_url(url, local=True)


def test_a_name_that_leads_into_the_network_is_found_out_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(2, 1, 6, "", ("93.184.216.34", 443)), (2, 1, 6, "", ("10.0.0.1", 443))]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: found)
    target = check_url("https://rebinding.example/", local=True)
    with pytest.raises(UnsafeUrl):
        resolve(target, local=True)
    del found[1]
    assert resolve(target, local=True) == "93.184.216.34"


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("events/*", "events/a", True), ("events/*", "events/a/b", False), ("events/*", "events", False),
        ("**", "a/b/c", True), ("events/**", "events", True), ("events/**", "events/a/b", True), ("**/x", "x", True),
        ("**/x", "a/b/x", True), ("a/**/b", "a/b", True), ("a/**/b", "a/x/y/b", True), ("a/**/b", "a/x/y", False),
        ("a/**/**/b", "a/b", True), ("a*c/d", "abc/d", True), ("a.c", "abc", False), ("*", "a", True),
        ("*", "a/b", False), ("a*a", "a", False), ("a*a", "aa", True), ("a*b*c", "aXbXc", True), ("a**b", "aXb", True),
        ("/".join(["**"] * 30) + "/no", "/".join("a" * 30), False), ("*a" * 25 + "b", "a" * 50, False),
    ],
)  # fmt: skip
def test_globs(pattern: str, path: str, expected: bool) -> None:
    assert matches(pattern, path) is expected


async def test_a_webhook_that_never_says_done_is_woken_again(gateway: Gateway) -> None:
    async with receiving((200, b"{}"), DONE) as receiver:
        await subscribe(gateway, type="webhook", pattern="events/*", webhook={"url": receiver.url})
        await gateway.put("events/a", "[1]", **JSON)
        first = (await receiver.next())[2]
        async with asyncio.timeout(20):
            second = (await receiver.next())[2]  # the lease has ended, and nobody had said that it is done
        assert second["generation"] > first["generation"]
