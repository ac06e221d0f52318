"""What tokens allow on the routes of actors, and that what is open ends with them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest
from websockets.exceptions import InvalidStatus

from actors import actor_ref
from cluster import Silo
from cluster.gateway import GatewayOptions
from tests.gateway.actors.conftest import Closed, Desk
from tests.gateway.actors.socket_client import opened
from tests.gateway.actors.sse import events
from tests.gateway.auth.signing import SECRET, bearer, signed
from tests.gateway.http_client import Gateway

REQUESTS = {
    "send": ("POST", "send"), "ask": ("POST", "ask/words"), "interrupt": ("POST", "interrupt"),
    "read": ("GET", "events?after=99"),
}  # fmt: skip


@pytest.fixture
async def guarded() -> AsyncIterator[Gateway]:
    options = GatewayOptions(auth_secret=SECRET)
    async with Silo([Desk, Closed], http="127.0.0.1:0", gateway=options) as silo:
        assert silo.http is not None
        yield Gateway(silo.http)


@pytest.mark.parametrize("verb", REQUESTS)
async def test_each_request_needs_its_verb_at_its_address(guarded: Gateway, verb: str) -> None:
    method, action = REQUESTS[verb]
    others = [other for other in ("send", "ask", "read", "interrupt", "admin") if other != verb]
    refused = [
        await guarded(method, f"/v1/actors/{address}/{action}", headers=headers)
        for address, headers in [
            *((address, bearer(signed(verbs=others))) for address in ("desk-1", "nobody-1", "closed-1")),
            *((address, bearer(signed(act="desk-2"))) for address in ("desk-1", "nobody-1", "durable_stream-s")),
        ]
    ]
    assert {(answer.status, answer.json["type"]) for answer in refused} == {(403, "NotAuthorized")}
    assert len({answer.json["detail"] for answer in refused}) == 1, "it says nothing of what there is"
    allowed = await guarded(method, f"/v1/actors/desk-1/{action}", headers=bearer(signed(act=["desk-*"], verbs=[verb])))
    assert allowed.status == (400 if verb == "read" else 200 if verb == "ask" else 202)
    assert (await guarded(method, f"/v1/actors/desk-1/{action}")).status == 401


async def test_a_token_for_one_channel(guarded: Gateway) -> None:
    token = signed(act="desk-1/output", verbs=["read"])
    async with events(guarded, "desk-1", headers=bearer(token)):
        pass
    for path in ("desk-1/events?channel=other", "desk-2/events", "desk-1/events?channel=$turns"):
        assert (await guarded("GET", f"/v1/actors/{path}", headers=bearer(token))).status == 403
    async with opened(guarded, additional_headers=bearer(token)) as ws:
        assert (await ws.call(type="subscribe", id=1))["type"] == "subscribed"
        assert (await ws.call(type="subscribe", id=2, channel="other"))["problem"]["status"] == 403
        assert (await ws.call(type="send", id=3))["problem"]["status"] == 403


async def test_each_frame_needs_what_the_request_would(guarded: Gateway) -> None:
    frames = {
        "send": {"type": "send"}, "ask": {"type": "ask", "handler": "words"}, "read": {"type": "subscribe"},
        "interrupt": {"type": "interrupt"},
    }  # fmt: skip
    for verb in frames:
        token = signed(act="desk-1", verbs=[verb])
        async with opened(guarded, additional_headers=bearer(token)) as ws:
            for id, (other, frame) in enumerate(frames.items()):
                told = await ws.call(id=id, **frame)
                assert (told["type"] == "error") == (other != verb), (verb, told)
                for address in ("desk-2", "nobody-1"):
                    refused = (await ws.call(id=10 + id, address=address, **frame))["problem"]
                    assert (refused["status"], refused["type"]) == (403, "NotAuthorized")


@pytest.mark.parametrize("address", ["desk-1", "nobody-1"])
async def test_a_socket_that_may_do_nothing_is_not_opened(guarded: Gateway, address: str) -> None:
    for headers, status in ((bearer(signed(act="desk-2")), 403), ({}, 401)):
        with pytest.raises(InvalidStatus) as refused:
            async with opened(guarded, address, additional_headers=headers):
                pass
        assert refused.value.response.status_code == status


async def test_what_is_open_ends_with_its_token(guarded: Gateway) -> None:
    token = signed(exp=int(time.time()) + 2)
    async with (
        asyncio.timeout(15),
        opened(guarded, additional_headers=bearer(token)) as ws,
        events(guarded, "desk-1", headers=bearer(token)) as stream,
    ):
        await ws.call(type="subscribe", id=1)
        await actor_ref("desk-1").say("a")
        assert (await ws.next())["data"] == json.loads((await anext(stream)).data) == "a"
        assert (await ws.closed())[0] == 1008
        assert [event async for event in stream if event.kind != ":"] == []


async def test_who_is_there_by_token(guarded: Gateway) -> None:
    """The name is what a reader says; the subject is what its token says."""
    async with opened(guarded, additional_headers=bearer(signed(sub="u1"))) as ws:
        await ws.call(type="subscribe", id=1, presence=True, name="ann")
        (reader,) = (await ws.next())["readers"]
        assert (reader["name"], reader["subject"]) == ("ann", "u1")
