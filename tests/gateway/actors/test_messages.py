"""Messages to actors over HTTP."""

import asyncio
import json
from typing import Any

import pytest

from actors import actor_ref
from cluster import Silo
from tests.cluster.house import House
from tests.cluster.waiting import eventually
from tests.gateway.actors.conftest import Closed, Desk, gate
from tests.gateway.http_client import Gateway, Response

ID = "8a5e1a6e-0a36-4b6e-9d39-0c1c8f0d2f11"


async def post(gateway: Gateway, path: str, value: Any = None, **headers: str) -> Response:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return await gateway("POST", f"/v1/actors/{path}", json.dumps(value), named)


async def test_send_and_ask(gateway: Gateway) -> None:
    sent = await post(gateway, "desk-1/send", {"a": [1, None]})
    assert (sent.status, list(sent.json)) == (202, ["message_id"])
    assert (await post(gateway, "desk-1/ask", "hi")).json == "hi"
    assert (await gateway("POST", "/v1/actors/desk-1/ask")).json is None
    told = await post(gateway, "desk-1/ask/words")
    assert (told.status, told.headers["content-type"]) == (200, "application/json")
    assert told.json == ["{'a': [1, None]}", "hi", "None"]


@pytest.mark.parametrize(
    ("body", "times"),
    [({"args": ["x", 2]}, 2), ({"args": ["x"], "kwargs": {"times": 3}}, 3), ({"kwargs": {"word": "x"}}, 1), ("x", 1)],
)
async def test_the_arguments_of_a_handler(silo: Silo, gateway: Gateway, body: Any, times: int) -> None:
    assert (await post(gateway, "desk-1/ask/say", body)).json == 1
    assert (await gateway.get("desk-1/output")).json == ["x"] * times
    assert (await post(gateway, "desk-1/send/say", body)).status == 202
    await eventually("it is said", lambda: actor_says(silo, 2))


async def actor_says(silo: Silo, count: int) -> bool:
    return len(await actor_ref("desk-1").words()) == count


@pytest.mark.parametrize("body", [{"args": "x"}, {"args": [], "kwargs": []}, {"args": ["x"], "kwargs": None}])
async def test_arguments_of_another_shape_are_refused(gateway: Gateway, body: Any) -> None:
    assert (await post(gateway, "desk-1/ask/say", body)).status == 400


@pytest.mark.parametrize("body", [{}, {"args": []}, {"args": [1]}, {"args": ["x", 1, 2]}, {"kwargs": {"y": 1}}])
async def test_arguments_that_do_not_fit_run_nothing(gateway: Gateway, body: Any) -> None:
    refused = await post(gateway, "desk-1/ask/say", body)
    assert (refused.status, refused.json["type"]) == (422, "SerializationFailed")
    assert (await post(gateway, "desk-1/ask/words")).json == []


@pytest.mark.parametrize(
    "path",
    ["closed-1/ask", "closed-1/send", "desk-1/ask/secret", "desk-1/send/secret", "desk-1/ask/nothing",
     "desk-1/ask/$delete", "desk-1/ask/$publish", "desk-1/ask/__init__", "desk-1/send/receive", "closed-1/ask/%24x",
     "closed-1/ask/on_activate"],
)  # fmt: skip
async def test_only_what_is_public_can_be_called_and_the_rest_is_not_told_apart(gateway: Gateway, path: str) -> None:
    refused = await post(gateway, path, {"args": []})
    assert (refused.status, refused.json["type"]) == (403, "NotAuthorized")
    assert (await post(gateway, "closed-1/ask/hello")).json == "hello"


@pytest.mark.parametrize("call", ["ask", "send"])
async def test_the_own_handlers_of_actors_are_not_for_clients(gateway: Gateway, call: str) -> None:
    """Appends come from outside, but through the streams, which check them: this name would spoil another channel."""
    await post(gateway, "desk-1/ask/say", "x")
    appended = {"args": ["output\0\0\0\0\0\0\0\0\0", ["forged"], False, None]}
    refused = await post(gateway, f"desk-1/{call}/$append", appended)
    assert (refused.status, refused.json["type"]) == (403, "NotAuthorized")
    assert (await post(gateway, f"desk-1/{call}/%24append", appended)).status == 403
    await post(gateway, "desk-1/ask/say", "y")
    assert (await gateway.get("desk-1/output")).json == ["x", "y"]


@pytest.mark.parametrize("value", ['{"a":' * 400 + "1" + "}" * 400, "[" * 600 + "]" * 600, "[" * 900 + "]" * 900])
@pytest.mark.parametrize(
    "path", ["actors/desk-1/send", "actors/desk-1/ask/say", "actors/desk-1/interrupt", "stream/desk-1/output"]
)
async def test_json_that_is_nested_too_deeply_is_told_so(gateway: Gateway, path: str, value: str) -> None:
    refused = await gateway("POST", f"/v1/{path}", value, {"Content-Type": "application/json"})
    assert (refused.status, refused.json["type"]) == (400, "BadRequest")
    assert "nested too deeply" in refused.json["detail"]
    assert (await gateway.get("desk-1/output")).json == []


async def test_the_silo_that_hosts_the_type_decides_what_is_public(house: House) -> None:
    """The one that is asked does not know the class."""
    (_,) = await house.start("host", actors=[Desk, Closed])
    (front,) = await house.start("front", actors=[], http="127.0.0.1:0")
    assert front.http is not None
    gateway = Gateway(front.http)
    assert (await post(gateway, "desk-1/ask/say", "x")).json == 1
    for path in ("closed-1/ask", "desk-1/ask/secret", "desk-1/send/secret", "desk-1/ask/nothing"):
        assert (await post(gateway, path, {"args": []})).status == 403
    streamed = await post(gateway, "desk-1/ask/count", 2)
    assert streamed.body.decode() == "data: 0\n\ndata: 1\n\nevent: end\ndata: null\n\n"
    order = {"id": ID, "due": "2026-01-02T00:00:00Z", "amounts": {"1": 0.5}, "data": "aGk="}
    assert (await post(gateway, "desk-1/ask/order", {"args": [order]})).json == order


async def test_arguments_are_decoded_by_the_annotations(gateway: Gateway) -> None:
    order = {"id": ID, "due": "2026-01-02T00:00:00Z", "amounts": {"1": 0.5}, "data": "aGk="}
    assert (await post(gateway, "desk-1/ask/order", {"args": [order]})).json == order
    assert (await post(gateway, "desk-1/ask/point_at", "desk-2")).json == "desk-2"
    for wrong in ({**order, "id": "x"}, {**order, "due": 5}, {**order, "data": "%"}, {"id": ID}, None):
        assert (await post(gateway, "desk-1/ask/order", {"args": [wrong]})).status == 422
    assert (await post(gateway, "desk-1/ask/point_at", "no address")).status == 422


@pytest.mark.parametrize(
    ("what", "text"),
    [("nan", "null"), ("big", str(2**63)), ("bytes", '"aGk="'), ("set", "[1]"), ("keys", '{"1":"one"}'),
     ("time", '"2026-01-02T00:00:00Z"')],
)  # fmt: skip
async def test_replies_are_told_as_json_has_them(gateway: Gateway, what: str, text: str) -> None:
    told = await post(gateway, "desk-1/ask/make", what)
    assert (told.status, told.body.decode()) == (200, text)


@pytest.mark.parametrize("what", ["bigger", "object", "surrogate"])
async def test_a_reply_that_json_cannot_say_is_a_problem_of_its_own(gateway: Gateway, what: str) -> None:
    refused = await post(gateway, "desk-1/ask/make", what)
    assert (refused.status, refused.json["type"]) == (422, "SerializationFailed")


async def test_numbers_that_no_message_carries_are_refused(gateway: Gateway) -> None:
    assert (await post(gateway, "desk-1/ask", 2**64 - 1)).json == 2**64 - 1
    for body in (str(2**64), f'[{{"a": {2**80}}}]', "1e400", "NaN", "[" * 20_000, '"\\ud800"', "\xff", "{'a':1}"):
        refused = await gateway("POST", "/v1/actors/desk-1/ask", body.encode("latin-1"))
        assert refused.status in (400, 422), body[:40]
    assert (await post(gateway, "desk-1/ask/words")).json == [str(2**64 - 1)]


async def test_what_a_handler_raises(gateway: Gateway) -> None:
    failed = await post(gateway, "desk-1/ask/make", "unknown")
    assert (failed.status, failed.json["type"]) == (502, "ActorFailed")
    unknown = await post(gateway, "nobody-1/ask", 1)
    assert (unknown.status, unknown.json["type"]) == (404, "UnknownActorType")
    assert "durable_stream" not in unknown.json["detail"]


async def test_a_key_is_run_once(gateway: Gateway) -> None:
    first = await post(gateway, "desk-1/ask/say", "x", Idempotency_Key="k")
    again = await post(gateway, "desk-1/ask/say", "x", Idempotency_Key="k")
    assert first.json == again.json == 1
    assert (await post(gateway, "desk-1/ask/say", "y", Idempotency_Key="k")).status == 409
    ids = [(await post(gateway, "desk-1/send/say", "z", Idempotency_Key="k2")).json for _ in range(2)]
    assert ids[0] == ids[1]
    assert (await post(gateway, "desk-1/ask/words")).json == ["x", "z"]
    for key in ("", "x" * 257):
        assert (await post(gateway, "desk-1/ask/say", "x", Idempotency_Key=key)).status == 400
    assert (await post(gateway, "desk-1/ask/count", 1, Idempotency_Key="k3")).status == 400


async def test_a_wait_that_ends_early_stops_nothing(gateway: Gateway) -> None:
    for path, headers in (("wait?timeout=0.05", {}), ("wait", {"Prefer": "respond-async, wait=1"})):
        late = await post(gateway, f"desk-1/ask/{path}", path, **headers)
        assert (late.status, late.json["type"]) == (504, "Timeout")
        gate(path).set()
        await eventually("the turn ends", lambda path=path: _has_word(path))
    for wrong in ("0", "-1", "x", "nan", "inf", "1e3", "9999999", ""):
        assert (await post(gateway, f"desk-1/ask/words?timeout={wrong}")).status == 400


async def _has_word(word: str) -> bool:
    return word in await actor_ref("desk-1").words()


async def test_a_client_that_goes_away_stops_nothing(silo: Silo, gateway: Gateway) -> None:
    head = f"POST /v1/actors/desk-1/ask/wait HTTP/1.1\r\nHost: {gateway.address}\r\nContent-Length: 4\r\n\r\n"
    async with gateway.connected(head.encode() + b'"go"'):
        await eventually("the turn runs", lambda: "desk-1" in silo.runtime.activations)
        assert len(silo.runtime.calls) == 1
    await eventually("nobody waits for it any more", lambda: len(silo.runtime.calls) == 0)
    gate("go").set()
    await eventually("the turn ends", lambda: _has_word("go"))


async def test_a_stream_handler_is_told_as_events(gateway: Gateway) -> None:
    told = await post(gateway, "desk-1/ask/count", 3)
    assert (told.status, told.headers["content-type"]) == (200, "text/event-stream")
    assert told.body.decode() == "data: 0\n\ndata: 1\n\ndata: 2\n\nevent: end\ndata: null\n\n"
    broken = (await post(gateway, "desk-1/ask/count", {"kwargs": {"upto": 1, "fail": True}})).body.decode()
    items, _, problem = broken.partition("event: problem\ndata: ")
    assert (items, json.loads(problem)["type"]) == ("data: 0\n\n", "ActorFailed")
    assert (await post(gateway, "desk-1/ask/count", "x")).status == 422
    assert (await post(gateway, "desk-1/send/count", 3)).status == 202


@pytest.mark.parametrize(
    ("path", "status"),
    [("", 400), ("desk", 400), ("desk-", 400), ("Desk-1/ask", 400), ("desk-%2F/ask", 400), ("desk-a%2Fb/ask", 400),
     ("desk-%00/ask", 400), ("desk-%ff/ask", 400), ("desk-" + "x" * 257 + "/ask", 400), ("desk-1/" + "x" * 5000, 400),
     ("desk-1", 404), ("desk-1/", 404), ("desk-1/ask/", 404), ("desk-1//ask", 404), ("desk-1/ask/say/x", 404),
     ("desk-1/nothing", 404), ("..", 400), ("../v1/actors/desk-1/ask", 400), ("desk-1/../ask", 404),
     ("desk-%20/ask", 400), ("durable_stream-x/ask", 404), ("webhook_keys-all/ask/sign", 404), ("desk-1/ws", 405)],
)  # fmt: skip
async def test_paths_that_lead_nowhere(gateway: Gateway, path: str, status: int) -> None:
    refused = await gateway("POST", f"/v1/actors/{path}", "1")
    assert (refused.status, refused.json["status"]) == (status, status)


async def test_keys_may_be_any_text(gateway: Gateway) -> None:
    for key in ("%E2%82%AC", "a%20b", "a-b.c~", "%25", "%3F%23"):
        assert (await post(gateway, f"desk-{key}/ask", 1)).json == 1


async def test_methods(gateway: Gateway) -> None:
    for method, path, allowed in (("GET", "ask", "POST"), ("PUT", "send", "POST"), ("POST", "events", "GET")):
        refused = await gateway(method, f"/v1/actors/desk-1/{path}")
        assert (refused.status, refused.headers["allow"]) == (405, f"{allowed}, OPTIONS")


async def test_a_socket_is_no_page(gateway: Gateway) -> None:
    refused = await gateway("GET", "/v1/actors/desk-1/ws")
    assert (refused.status, refused.headers["upgrade"]) == (426, "websocket")


async def test_a_body_over_the_limit(gateway: Gateway) -> None:
    assert (await gateway("POST", "/v1/actors/desk-1/ask", b'"' + b"x" * 2**20 + b'"')).status == 413


async def test_many_at_once_come_in_the_order_in_which_they_were_sent(gateway: Gateway) -> None:
    """Each is sent when the one before was accepted."""
    for number in range(20):
        assert (await post(gateway, "desk-1/send", number)).status == 202
    assert (await post(gateway, "desk-1/ask/words")).json == [str(number) for number in range(20)]
    replies = await asyncio.gather(*(post(gateway, f"desk-{number}/ask", number) for number in range(50)))
    assert [reply.json for reply in replies] == list(range(50))


async def test_an_interrupt_stops_the_turn_that_runs(silo: Silo, gateway: Gateway) -> None:
    asking = asyncio.create_task(post(gateway, "desk-1/ask/wait", "never"))
    await eventually("the turn runs", lambda: _is_waited_for("never"))
    stopped = await post(gateway, "desk-1/interrupt", {"reason": "enough"})
    assert (stopped.status, stopped.json) == (202, {"interrupted": True})
    interrupted = await asking
    assert (interrupted.status, interrupted.json["type"]) == (409, "TurnInterrupted")
    assert (await gateway("POST", "/v1/actors/desk-1/interrupt")).json == {"interrupted": False}
    for wrong in (5, {"reason": 5}, {"reason": "x" * 1001}, ["x"], {"message_id": 5}, {"message_id": ""}):
        assert (await post(gateway, "desk-1/interrupt", wrong)).status == 400


async def test_an_interrupt_of_one_message_stops_no_other(silo: Silo, gateway: Gateway) -> None:
    sent = await post(gateway, "desk-1/send/wait", "mine")
    await eventually("the turn runs", lambda: _is_waited_for("mine"))
    other = await post(gateway, "desk-1/interrupt", {"message_id": "another"})
    assert (other.status, other.json) == (202, {"interrupted": False})
    assert _is_waited_for("mine")
    stopped = await post(gateway, "desk-1/interrupt", {"message_id": sent.json["message_id"]})
    assert stopped.json == {"interrupted": True}


def _is_waited_for(name: str) -> bool:
    return bool(gate(name)._waiters)
