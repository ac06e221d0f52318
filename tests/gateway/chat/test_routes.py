"""What chats answer over HTTP: repeats, bad input, credentials, and turns that are watched while things happen."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from actors import Actor, actor_ref, handler
from cluster import Silo
from cluster.gateway import Chat, GatewayOptions
from cluster.gateway.history import History
from tests.cluster.waiting import eventually
from tests.gateway.auth.signing import SECRET, signed
from tests.gateway.http_client import Gateway, Response

GATES: dict[str, asyncio.Event] = {}
RUNS: list[str] = []


@dataclass
class Part:
    type: str
    text: str = ""


@dataclass
class Message:
    role: str
    id: str = ""
    parts: list[Part] = field(default_factory=list)


class Session(Actor):
    """Publishes what it is told, and waits where it is told to."""

    @handler(public=True)
    async def write(self, prompt: str) -> str:
        RUNS.append(prompt)
        verb, _, rest = prompt.partition(" ")
        if verb == "wait":
            async for _ in self.stream_step("before", one, "begun ", channel="output"):
                pass
            await GATES.setdefault(rest, asyncio.Event()).wait()
            await self.publish("done")
            return ""
        if verb == "close":
            await self.publish(rest)
            await self.channel("output").close()
            return ""
        return rest

    @handler(public=True)
    async def whole(self, message: Message) -> str:
        return f"{message.role} {message.parts[0].text}"

    @handler(public=True)
    async def everything(self, messages: list[dict[str, Any]]) -> str:
        return " ".join(str(message["role"]) for message in messages)

    @handler(public=True)
    async def odd(self, message: dict[str, Any]) -> str:
        await self.publish({("a", 1): 2})
        await self.publish({1: 2})
        await self.publish(b"bytes")
        await self.publish(float("nan"))
        return ""

    async def receive(self, message: Any) -> Any:
        return message


class Led(Actor, on_busy="steer"):
    """Takes what comes while it works into the same turn."""

    @handler(public=True)
    async def write(self, prompt: str) -> None:
        RUNS.append(prompt)
        async for _ in self.stream_step("before", one, f"{prompt} ", channel="output"):
            pass
        await GATES.setdefault(prompt, asyncio.Event()).wait()
        async for message in self.steering():
            await self.publish(f"{message} ")


class Short(Actor, channel_retention={"items": 3}, public=True):
    """Keeps little of what it publishes."""

    async def receive(self, message: str) -> str:
        for number in range(10):
            await self.publish(f"{number} ")
        return ""


async def one(text: str) -> AsyncIterator[str]:
    yield text


ACTORS = [Session, Short, Led]
CHATS = (
    Chat("/api/chat", "session", "write"),
    Chat("/api/whole", "session", "whole"),
    Chat("/api/all", "session", "everything"),
    Chat("/api/odd", "session", "odd"),
    Chat("/short", "short"),
    Chat("/led", "led", "write"),
    Chat("/api/agui", "session", "write", "ag-ui"),
)


@pytest.fixture(autouse=True)
def _forget() -> None:
    GATES.clear()
    RUNS.clear()


@pytest.fixture
async def exits() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack
        for gate in GATES.values():
            gate.set()


@pytest.fixture
async def silo(exits: AsyncExitStack) -> Silo:
    options = GatewayOptions(chats=CHATS, max_body=2**20)
    return await exits.enter_async_context(
        Silo([Session, Short, Led], http="127.0.0.1:0", gateway=options, drain_limit=0.2)
    )


@pytest.fixture
def gateway(silo: Silo) -> Gateway:
    assert silo.http is not None
    return Gateway(silo.http)


def body(text: str, *, chat: str = "a", id: str = "m1", **more: object) -> str:
    message = {"id": id, "role": "user", "parts": [{"type": "text", "text": text}]}
    return json.dumps({"id": chat, "messages": [message], **more})


def run_input(text: str, *, thread: str = "a", run: str = "r1") -> str:
    return json.dumps({"threadId": thread, "runId": run, "messages": [{"id": "m", "role": "user", "content": text}]})


def chunks(response: Response) -> list[dict[str, Any]]:
    """The chunks of a whole response."""
    assert response.status == 200, response
    lines = [line.removeprefix("data: ") for line in response.body.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def text_of(response: Response) -> str:
    return "".join(str(chunk["delta"]) for chunk in chunks(response) if "delta" in chunk)


async def post(gateway: Gateway, text: str, path: str = "/api/chat", **more: Any) -> Response:
    return await gateway("POST", path, body(text, **more))


async def waits(gate: str) -> None:
    """Return when a turn waits there."""
    await eventually(f"a turn waits for {gate}", lambda: gate in GATES)


async def accepted(silo: Silo, count: int, address: str = "session-a") -> None:
    """Return when so many messages of the chat were accepted."""
    history = History(silo.runtime.store, address, "$turns")

    async def are_accepted() -> bool:
        events: list[Any] = await history.read(0, 1000, limit=1000)
        return [event.data["event"] for event in events].count("accepted") == count

    await eventually(f"{count} are accepted", are_accepted)


# -- once, however often it is asked for -------------------------------------------------------------------------------


async def test_a_request_that_is_repeated_joins_the_turn_that_the_first_began(gateway: Gateway) -> None:
    waiting = [asyncio.create_task(post(gateway, "wait x")) for _ in range(5)]
    await waits("x")
    waiting += [asyncio.create_task(post(gateway, "wait x")) for _ in range(3)]
    await asyncio.sleep(0)
    GATES["x"].set()
    found = await asyncio.gather(*waiting)
    assert {text_of(response) for response in found} == {"begun done"}
    assert len({chunks(response)[0]["messageId"] for response in found}) == 1
    assert text_of(await post(gateway, "wait x")) == "begun done"
    assert RUNS == ["wait x"]


async def test_regenerating_is_a_new_turn_but_not_while_one_runs(gateway: Gateway) -> None:
    assert text_of(await post(gateway, "say hi")) == "hi"
    again = {"trigger": "regenerate-message"}
    for _ in range(2):
        assert text_of(await post(gateway, "say hi", **again)) == "hi"
    assert RUNS == ["say hi"] * 3
    waiting = [asyncio.create_task(post(gateway, "wait y", **again)) for _ in range(2)]
    await waits("y")
    GATES["y"].set()
    assert [text_of(response) for response in await asyncio.gather(*waiting)] == ["begun done"] * 2
    assert RUNS == ["say hi"] * 3 + ["wait y"]


async def test_a_message_that_was_changed_or_sent_elsewhere_is_another_one(gateway: Gateway) -> None:
    assert text_of(await post(gateway, "say a")) == "a"
    assert text_of(await post(gateway, "say b", messageId="m1")) == "b"
    assert text_of(await post(gateway, "say a", chat="b")) == "a"
    assert RUNS == ["say a", "say b", "say a"]


async def test_an_idempotency_key_is_honoured(gateway: Gateway) -> None:
    key = {"Idempotency-Key": "mine"}
    assert text_of(await gateway("POST", "/api/chat", body("say a", id="1"), key)) == "a"
    assert text_of(await gateway("POST", "/api/chat", body("say a", id="2"), key)) == "a"
    assert (await gateway("POST", "/api/chat", body("say b"), key)).status == 409
    assert (await gateway("POST", "/api/chat", body("say b"), {"Idempotency-Key": "x" * 257})).status == 400
    assert RUNS == ["say a"]


# -- what runs ---------------------------------------------------------------------------------------------------------


async def test_what_is_resumed_is_the_turn_that_runs_and_then_the_one_that_waits(silo: Silo, gateway: Gateway) -> None:
    first = asyncio.create_task(post(gateway, "wait one", id="1"))
    await waits("one")
    second = asyncio.create_task(post(gateway, "wait two", id="2"))
    await accepted(silo, 2)
    async with gateway.opened("GET", "/api/chat/a/stream") as (_, _, reader):
        beginning = (await reader.readuntil(b"begun ")).decode()
    GATES["one"].set()
    ids = [chunks(await first)[0]["messageId"]]
    assert ids[0] in beginning
    async with gateway.opened("GET", "/api/chat/a/stream") as (_, _, reader):
        beginning = (await reader.readuntil(b"begun ")).decode()
    GATES["two"].set()
    ids.append(chunks(await second)[0]["messageId"])
    assert ids[1] in beginning
    assert ids[0] != ids[1]
    assert chunks(await gateway("GET", "/api/chat/a/stream"))[0]["messageId"] == ids[1]  # a watcher left before its end
    assert (await gateway("GET", "/api/chat/a/stream")).status == 204


async def test_a_message_that_waits_can_be_watched_and_stopped(silo: Silo, gateway: Gateway) -> None:
    waiting = asyncio.create_task(gateway("POST", "/v1/actors/session-a/ask/write", '"wait x"'))
    await waits("x")
    other = asyncio.create_task(post(gateway, "say hi", path="/api/whole"))
    await accepted(silo, 1)
    assert (await gateway("POST", "/api/whole/a/stop")).json == {"stopped": True}
    GATES["x"].set()
    assert [chunk["type"] for chunk in chunks(await other)] == ["start", "abort"]
    assert (await waiting).json == ""
    assert (await gateway("POST", "/api/whole/a/stop")).json == {"stopped": False}


async def test_a_turn_that_was_begun_elsewhere_can_be_watched_and_stopped(gateway: Gateway) -> None:
    await actor_ref("session-a").write.send("wait x")
    await waits("x")
    watching = asyncio.create_task(gateway("GET", "/api/chat/a/stream"))
    stopped = await gateway("POST", "/api/chat/a/stop", '{"reason": "enough"}')
    assert (stopped.status, stopped.json) == (202, {"stopped": True})
    found = await watching
    assert text_of(found) == "begun "
    assert chunks(found)[-1] == {"type": "abort", "reason": "enough"}
    assert (await gateway("POST", "/api/chat/a/stop")).json == {"stopped": False}


async def test_a_message_that_steers_a_turn_is_answered_by_that_turn(silo: Silo, gateway: Gateway) -> None:
    first = asyncio.create_task(post(gateway, "go", path="/led", id="1"))
    await waits("go")
    second = asyncio.create_task(post(gateway, "left", path="/led", id="2"))
    await accepted(silo, 2, "led-a")
    GATES["go"].set()
    found = await asyncio.gather(first, second)
    assert [text_of(response) for response in found] == ["go left "] * 2
    assert chunks(found[0])[0] == chunks(found[1])[0]
    assert chunks(await post(gateway, "left", path="/led", id="2")) == chunks(
        await post(gateway, "go", path="/led", id="1")
    )
    assert (await gateway("GET", "/led/a/stream")).status == 204
    assert RUNS == ["go"]


async def test_what_others_publish_meanwhile_is_no_part_of_the_answer(gateway: Gateway) -> None:
    running = asyncio.create_task(post(gateway, "wait x"))
    await waits("x")
    await actor_ref("session-a").channel("output").publish("noise ")
    GATES["x"].set()
    assert text_of(await running) == "begun done"
    assert text_of(await post(gateway, "wait x")) == "begun done"


async def test_who_goes_stops_nothing(gateway: Gateway) -> None:
    async with gateway.opened("POST", "/api/chat", body("wait x").encode()) as (status, _, reader):
        assert status == 200
        await reader.readuntil(b"begun ")
    GATES["x"].set()
    found = await gateway("GET", "/api/chat/a/stream")
    assert text_of(found) == "begun done"
    assert (await gateway("GET", "/api/chat/a/stream")).status == 204


async def test_a_silo_that_leaves_breaks_answers_off(silo: Silo, gateway: Gateway) -> None:
    """An end would say that this is all."""
    async with gateway.opened("POST", "/api/chat", body("wait x").encode()) as (_, _, reader):
        await reader.readuntil(b"begun ")
        await silo.stop()
        rest = await reader.read()
    assert b"[DONE]" not in rest
    assert not rest.endswith(b"0\r\n\r\n")


async def test_an_actor_that_is_deleted_ends_what_is_told_of_it(gateway: Gateway) -> None:
    async with gateway.opened("POST", "/api/chat", body("wait x").encode()) as (_, _, reader):
        await reader.readuntil(b"begun ")
        deleting = asyncio.create_task(actor_ref("session-a").delete())
        await actor_ref("session-a").interrupt()
        await deleting
        rest = await reader.read()
    assert b'"abort"' in rest
    assert b"[DONE]" in rest
    assert (await gateway("GET", "/api/chat/a/stream")).status == 204


async def test_a_channel_may_be_closed_by_the_turn_and_the_next_one_fails(gateway: Gateway) -> None:
    found = await post(gateway, "close bye")
    assert text_of(found) == "bye"
    assert chunks(found)[-1]["type"] == "finish"


async def test_what_is_not_kept_cannot_be_told(gateway: Gateway) -> None:
    await post(gateway, "go", path="/short")
    found = chunks(await post(gateway, "go", path="/short"))
    assert [chunk["type"] for chunk in found] == ["start", "error"]


async def test_an_answer_of_which_nothing_is_known_any_more_is_gone_and_not_awaited(gateway: Gateway) -> None:
    assert text_of(await post(gateway, "say first")) == "first"
    watched = actor_ref("session-a").options(headers={"$watch": "1"})
    for _ in range(6):
        await asyncio.gather(*(watched.write.send("say x") for _ in range(100)))
        await actor_ref("session-a").write("say x")
    found = await post(gateway, "say first")
    assert (found.status, found.json["type"]) == (410, "AnswerGone")
    assert RUNS.count("say first") == 1


# -- what the handler gets, and what becomes of what it publishes ------------------------------------------------------


async def test_the_handler_gets_as_much_of_the_messages_as_it_asks_for(gateway: Gateway) -> None:
    assert text_of(await post(gateway, "say hi", path="/api/whole")) == "user say hi"
    messages = [{"role": "system", "parts": []}, {"role": "assistant", "parts": []}, {"role": "user", "parts": []}]
    found = await gateway("POST", "/api/all", json.dumps({"id": "a", "messages": messages}))
    assert text_of(found) == "system assistant user"
    message = {
        "role": "user",
        "parts": [{"type": "text", "text": "say "}, {"type": "file"}, {"type": "text", "text": "x"}],
    }
    found = await gateway("POST", "/api/chat", json.dumps({"id": "a", "messages": [message]}))
    assert text_of(found) == "x"
    found = await gateway("POST", "/api/whole", json.dumps({"id": "a", "messages": [{"role": "user", "parts": 7}]}))
    assert [chunk["type"] for chunk in chunks(found)] == ["start", "error"]


async def test_values_that_json_cannot_say_are_told_as_such(gateway: Gateway) -> None:
    found = chunks(await post(gateway, "", path="/api/odd"))
    assert [chunk["type"] for chunk in found] == ["start", *["data-output"] * 4, "finish"]
    assert "unreadable" in found[1]["data"]
    assert [chunk["data"] for chunk in found[2:5]] == [{"1": 2}, "Ynl0ZXM=", None]


# -- bad input ---------------------------------------------------------------------------------------------------------

BAD: list[tuple[str, str, str, int]] = [
    ("GET", "/api/chat", "", 405),
    ("DELETE", "/api/chat", "", 405),
    ("POST", "/api/chat/a/stream", "", 405),
    ("GET", "/api/chat/a/stop", "", 405),
    ("GET", "/api/chat/a", "", 404),
    ("GET", "/api/chat/a/stream/", "", 404),
    ("GET", "/api/chat//stream", "", 404),
    ("GET", "/api/chatter", "", 404),
    ("GET", "/api/chat/a%2Fb/stream", "", 400),
    ("GET", "/api/chat/a/b/stream", "", 400),
    ("GET", "/api/chat/%00/stream", "", 400),
    ("GET", "/api/chat/%ff/stream", "", 400),
    ("GET", "/api/chat/%20a/stream", "", 400),
    ("GET", f"/api/chat/{'x' * 257}/stream", "", 400),
    ("POST", "/api/chat", "", 400),
    ("POST", "/api/chat", "{", 400),
    ("POST", "/api/chat", "[" * 100_000, 400),
    ("POST", "/api/chat", '{"id": "a"}', 400),
    ("POST", "/api/chat", '{"id": "a", "messages": []}', 400),
    ("POST", "/api/chat", '{"id": "a", "messages": [{"role": "assistant"}]}', 400),
    ("POST", "/api/chat", body("say x", chat="a/b"), 400),
    ("POST", "/api/chat", body("say x", chat=""), 400),
    ("POST", "/api/chat", body("say x", chat="\0"), 400),
    ("POST", "/api/chat", body("say x", chat="\ud800"), 400),
    ("POST", "/api/chat", body("say x", trigger="resume-stream"), 400),
    ("POST", "/api/chat", json.dumps({"id": "a", "messages": [{"role": "user", "n": 2**64}]}), 422),
    ("POST", "/api/chat", body("x" * 2**20), 413),
    ("POST", "/api/chat/a/stop", "[]", 400),
    ("POST", "/api/chat/a/stop", '{"reason": 7}', 400),
    ("POST", "/api/chat/a/stop", json.dumps({"reason": "x" * 5000}), 400),
    ("GET", "/api/agui", "", 400),
    ("PUT", "/api/agui", "", 405),
    ("GET", "/api/agui?threadId=a%2Fb", "", 400),
    ("GET", "/api/agui?offset=-1&runId=none", "", 404),
    ("GET", "/api/agui?offset=-1&runId=", "", 404),
    ("GET", f"/api/agui?offset=-1&runId={'x' * 5000}", "", 404),
    ("POST", "/api/agui", '{"threadId": "a"}', 400),
    ("POST", "/api/agui", run_input("say x", run=""), 400),
    ("POST", "/api/agui", run_input("say x", run="x" * 300), 400),
    ("POST", "/api/agui", run_input("say x", thread="a/b"), 400),
]


@pytest.mark.parametrize(("method", "path", "sent", "status"), BAD, ids=lambda value: str(value)[:40])
async def test_bad_input_is_refused_with_a_reason(
    gateway: Gateway, method: str, path: str, sent: str, status: int
) -> None:
    found = await gateway(method, path, sent)
    assert (found.status, found.headers["content-type"]) == (status, "application/problem+json"), found
    assert found.json["detail"]
    assert not RUNS


async def test_positions_that_are_none_and_runs_that_are_others_are_refused(gateway: Gateway) -> None:
    for text in ("x", "1", "-5.0", "1.0\t2"):
        found = await gateway("POST", "/api/agui", run_input("say x"), {"Last-Event-ID": text})
        assert found.status == 400, text
    found = await gateway("POST", "/api/agui", run_input("say x"), {"Last-Event-ID": "0.0"})
    assert found.status == 404  # a read never begins a run
    assert not RUNS
    assert text_of(await gateway("POST", "/api/agui", run_input("say x"))) == "x"
    assert (await gateway("POST", "/api/agui", run_input("say x", thread="b"))).status == 409
    assert (await gateway("POST", "/api/agui", run_input("say y"))).status == 409
    assert text_of(await gateway("GET", "/api/agui?offset=-1&runId=r1")) == "x"
    assert RUNS == ["say x"]


async def test_the_run_of_a_thread_is_known_while_it_is_active(gateway: Gateway) -> None:
    assert (await gateway("GET", "/api/agui?threadId=a")).json["activeRun"] is None
    running = asyncio.create_task(
        gateway("POST", "/api/agui", run_input("wait x", run="my run"), {"X-Run-Id": "named"})
    )
    await waits("x")
    assert (await gateway("GET", "/api/agui?threadId=a")).json["activeRun"] == {"runId": "named"}
    GATES["x"].set()
    assert text_of(await running) == "begun done"
    assert (await gateway("GET", "/api/agui?threadId=a")).json["activeRun"] is None


# -- who may what ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def guarded(exits: AsyncExitStack) -> Gateway:
    options = GatewayOptions(chats=CHATS, auth_secret=SECRET)
    silo = await exits.enter_async_context(
        Silo([Session, Short, Led], http="127.0.0.1:0", gateway=options, drain_limit=0.2)
    )
    assert silo.http is not None
    return Gateway(silo.http)


def bearer(*verbs: str, act: str = "session-a", **claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {signed(act=[act], verbs=list(verbs), **claims)}"}


async def test_each_request_needs_its_verb_at_the_address_whether_the_actor_exists_or_not(guarded: Gateway) -> None:
    everything = bearer("send", "read", "interrupt", act="session-*")
    assert text_of(await guarded("POST", "/api/chat", body("say x"), everything)) == "x"
    for chat in ("a", "new"):
        requests = [
            ("POST", "/api/chat", body("say y", chat=chat), bearer("send")),
            ("POST", "/api/chat", body("say y", chat=chat), bearer("read", "interrupt")),
            ("GET", f"/api/chat/{chat}/stream", "", bearer("send", "interrupt")),
            ("POST", f"/api/chat/{chat}/stop", "", bearer("send", "read")),
            ("POST", "/api/agui", run_input("say y", thread=chat), bearer("read")),
            ("GET", f"/api/agui?threadId={chat}", "", bearer("send")),
            ("POST", "/api/chat", body("say y", chat=chat), bearer("send", "read", act="session-b")),
        ]
        for method, path, sent, headers in requests:
            found = await guarded(method, path, sent, headers)
            assert (found.status, found.json["type"]) == (403, "NotAuthorized"), (method, path)
            assert (await guarded(method, path, sent)).status == 401
    assert RUNS == ["say x"]


async def test_a_run_that_one_may_not_read_is_like_one_that_there_is_not(guarded: Gateway) -> None:
    await guarded("POST", "/api/agui", run_input("say x", run="known"), bearer("send", "read"))
    other = bearer("read", act="session-b")
    known, unknown = [await guarded("GET", f"/api/agui?runId={run}", headers=other) for run in ("known", "unknown")]
    assert (known.status, known.body) == (unknown.status, unknown.body) == (404, unknown.body)


async def test_an_answer_lasts_no_longer_than_the_token(guarded: Gateway) -> None:
    brief = bearer("send", "read", exp=int(time.time()) + 2)
    with pytest.raises(ConnectionError, match="broken off"):
        await guarded("POST", "/api/chat", body("wait x"), brief)
    assert RUNS == ["wait x"]
