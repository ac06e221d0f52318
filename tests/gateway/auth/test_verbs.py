"""What each request needs, and that a refusal tells nothing."""

import json
import time
from collections.abc import Iterator

import pytest

from cluster import Silo
from cluster.gateway import GatewayOptions
from cluster.gateway.auth.grant import VERBS
from tests.gateway.auth.conftest import Start
from tests.gateway.auth.signing import SECRET, bearer, signed
from tests.gateway.http_client import Gateway, Response

JSON = {"Content-Type": "application/json"}
PULL = json.dumps({"type": "pull-wake", "streams": ["s"], "wake_stream": "w"})
SAY = '{"args": ["x"]}'
S, C, SUB = "/v1/stream/s", "/v1/stream/open-1/output", "/v1/stream/__ds/subscriptions/p"

REQUESTS = [
    ("GET", S, "", "read"),
    ("GET", S + "?offset=-1&live=long-poll", "", "read"),
    ("GET", S + "?offset=-1&live=sse", "", "read"),
    ("HEAD", S, "", "read"),
    ("PUT", S, "[1]", "send"),
    ("POST", S, "[1]", "send"),
    ("DELETE", S, "", "admin"),
    ("PATCH", S, "", "admin"),
    ("GET", C, "", "read"),
    ("GET", C + "?offset=now&live=sse", "", "read"),
    ("HEAD", C, "", "read"),
    ("POST", C, "[1]", "send"),
    ("PUT", C, "", "send"),
    ("DELETE", C, "", "admin"),
    ("PUT", SUB, PULL, "admin"),
    ("GET", SUB, "", "admin"),
    ("POST", SUB + "/streams", '{"streams": []}', "admin"),
    ("DELETE", SUB + "/streams/s", "", "admin"),
    ("POST", SUB + "/claim", '{"worker": "w"}', "admin"),
    ("DELETE", SUB, "", "admin"),
    ("GET", "/v1/stream/__ds/nothing", "", "admin"),
    ("GET", "/parked", "", "admin"),
    ("POST", "/v1/actors/spoken-1/send/say", SAY, "send"),
    ("POST", "/v1/actors/spoken-1/ask/say", SAY, "ask"),
    ("POST", "/v1/actors/open-1/interrupt", "", "interrupt"),
    ("GET", "/v1/actors/open-1/events", "", "read"),
]


async def ask(gateway: Gateway, method: str, path: str, body: str, token: str) -> Response:
    if "sse" not in path and "events" not in path:
        return await gateway(method, path, body, {**bearer(token), **JSON})
    async with gateway.opened(method, path, body.encode(), {**bearer(token), **JSON}) as (status, headers, reader):
        return Response(status, headers, await reader.read() if status != 200 else b"")


def check_refused(answer: Response) -> None:
    assert answer.status == 403, answer
    assert not answer.body or answer.json["type"] == "NotAuthorized"


@pytest.mark.parametrize(("method", "path", "body", "verb"), REQUESTS)
async def test_one_verb_is_needed_and_no_other_will_do(
    guarded: Gateway, method: str, path: str, body: str, verb: str
) -> None:
    await guarded("PUT", S, "[0]", {**bearer(signed()), **JSON})
    others = [other for other in VERBS if other != verb]
    check_refused(await ask(guarded, method, path, body, signed(verbs=others)))
    check_refused(await ask(guarded, method, path, body, signed(verbs=[])))
    check_refused(await ask(guarded, method, path, body, signed(act=["t", "open-2", "*x"])))
    check_refused(await ask(guarded, method, path, body, signed(act=[])))
    needed = [verb, "read", "send"] if path == SUB and method == "PUT" else [verb]
    answer = await ask(guarded, method, path, body, signed(verbs=needed))
    assert answer.status not in (401, 403), answer


async def test_a_refusal_is_the_same_whether_there_is_something_or_not(guarded: Gateway) -> None:
    """Streams, actors of types that are and are not there, subscriptions: not one byte differs."""
    everything = bearer(signed())
    for path in ("/v1/stream/there", "/v1/stream/a/there"):
        await guarded("PUT", path, "[0]", {**everything, **JSON})
    await guarded("POST", C, "[0]", {**everything, **JSON})
    assert (await guarded("PUT", SUB, PULL, {**everything, **JSON})).status == 201
    names = [
        "there", "away", "a/there", "a/away", "open-1/output", "open-2/output", "shut-1/output", "nobody-1/output",
        "durable_stream-there/log", "open-1/$turns", "__ds/subscriptions/p", "__ds/subscriptions/q", "__ds/x",
    ]  # fmt: skip
    for token in (signed(act="else-*"), signed(verbs=["interrupt"]), signed(exp=int(time.time()) - 60), "x", ""):
        for method in ("GET", "HEAD", "PUT", "POST", "DELETE", "PATCH"):
            seen = {_but_date(await guarded(method, f"/v1/stream/{name}", "", bearer(token))) for name in names}
            details = {body for _, _, body in seen}
            assert len(details) == 1 or details <= set(_verbs_named(details)), seen
            assert len({(status, headers) for status, headers, _ in seen if status != 403}) <= 1


def _but_date(answer: Response) -> tuple[int, frozenset[tuple[str, str]], bytes]:
    kept = {name: value for name, value in answer.headers.items() if name not in ("date", "content-length")}
    return answer.status, frozenset(kept.items()), answer.body


def _verbs_named(bodies: set[bytes]) -> Iterator[bytes]:
    """Those that differ in no more than the verb that was needed, which the method and the form of the path tell."""
    for body in bodies:
        if any(f"'{verb}'".encode() in body for verb in VERBS):
            yield body


async def test_whether_actors_and_their_types_are_there_is_told_to_those_who_may_use_them(guarded: Gateway) -> None:
    for method, action in (
        ("POST", "send"),
        ("POST", "ask/say"),
        ("POST", "interrupt"),
        ("GET", "events"),
        ("PUT", "ask"),
    ):
        seen = {
            (answer.status, answer.body)
            for name in ("open-1", "shut-1", "nobody-1", "durable_stream-1")
            for answer in [await guarded(method, f"/v1/actors/{name}/{action}", "", bearer(signed(act="else-*")))]
        }
        assert {status for status, _ in seen} == {403}
        assert len(seen) == 1
    assert (await guarded("POST", "/v1/actors/nobody-1/ask", "", bearer(signed()))).status == 404


async def test_a_token_for_one_actor_is_for_all_of_its_channels_and_nothing_else(guarded: Gateway) -> None:
    token = bearer(signed(act="open-1"))
    assert (await guarded("POST", C, "[1]", {**token, **JSON})).status == 204
    assert (await guarded("GET", "/v1/stream/open-1/other", headers=token)).status == 200
    for path in (
        "open-2/output", "open-11/output", "open-1/a/b", "Open-1/output", "open-1%2Foutput/x", "%6Fpen-2/output",
        "open-1/../open-2/output", "./open-1/output", "/open-1/output", "open-1", "open-1/output/",
    ):  # fmt: skip
        answer = await guarded("GET", f"/v1/stream/{path}", headers=token)
        assert answer.status == (404 if path == "open-1" else 403), path
    assert (await guarded("GET", "/v1/stream/%6Fpen-1%2Foutput", headers=token)).json == [1], "the same name"
    nobody = await guarded("GET", "/v1/stream/nobody-1/output", headers=bearer(signed(act="nobody-1")))
    assert nobody.status == 404, "it is granted by its form, whether or not there is such a type"


async def test_a_token_may_be_for_one_channel(guarded: Gateway) -> None:
    token = bearer(signed(act="open-1/output"))
    assert (await guarded("POST", C, "[1]", {**token, **JSON})).status == 204
    check_refused(await guarded("GET", "/v1/stream/open-1/other", headers=token))


async def test_a_fork_shows_what_its_source_holds_so_that_must_be_readable(guarded: Gateway) -> None:
    await guarded("PUT", "/v1/stream/source", "[0]", {**bearer(signed()), **JSON})
    for source in ("source", "none"):
        fork = {"Stream-Forked-From": f"/v1/stream/{source}"}
        for token in (signed(act="mine"), signed(act="mine", verbs=["send"]), signed(verbs=["send", "admin"])):
            check_refused(await guarded("PUT", "/v1/stream/mine", "", {**bearer(token), **fork}))
    reader = signed(act=["mine", "sour*"], verbs=["send", "read"])
    answer = await guarded("PUT", "/v1/stream/mine", "", {**bearer(reader), "Stream-Forked-From": S[:-1] + "source"})
    assert answer.status == 201
    assert (await guarded("GET", "/v1/stream/mine", headers=bearer(reader))).json == [0]


@pytest.mark.parametrize(
    ("config", "act", "status"),
    [
        ({"streams": ["a/1"], "wake_stream": "w"}, ["__ds/**", "a/*", "w"], 201),
        ({"streams": ["a/1"], "wake_stream": "w"}, ["__ds/**", "w"], 403),
        ({"streams": ["a/1"], "wake_stream": "w"}, ["__ds/**", "a/*"], 403),
        ({"streams": ["a/1", "b"], "wake_stream": "w"}, ["__ds/**", "a/*", "w"], 403),
        ({"pattern": "a/*", "wake_stream": "w"}, ["__ds/**", "a/*", "w"], 201),
        ({"pattern": "a/x*", "wake_stream": "w"}, ["__ds/**", "a/*", "w"], 201),
        ({"pattern": "a/**", "wake_stream": "w"}, ["__ds/**", "a/*", "w"], 403),
        ({"pattern": "**", "wake_stream": "w"}, ["__ds/**", "*", "*/*", "w"], 403),
        ({"pattern": "*", "wake_stream": "w"}, ["__ds/**", "a", "w"], 403),
    ],
)
async def test_who_is_woken_by_streams_may_read_them(
    guarded: Gateway, config: dict[str, object], act: list[str], status: int
) -> None:
    token = bearer(signed(act=act))
    answer = await guarded("PUT", SUB, json.dumps({"type": "pull-wake", **config}), {**token, **JSON})
    assert answer.status == status
    if status == 201:
        more = await guarded("POST", SUB + "/streams", '{"streams": ["secret"]}', {**token, **JSON})
        check_refused(more)


async def test_the_token_of_a_wake_is_enough_for_the_wake_and_others_learn_nothing(guarded: Gateway) -> None:
    everything = {**bearer(signed()), **JSON}
    await guarded("PUT", S, "[0]", everything)
    assert (await guarded("PUT", SUB, PULL, everything)).status == 201
    await guarded("POST", S, "[1]", everything)
    claimed = (await guarded("POST", SUB + "/claim", '{"worker": "w"}', everything)).json
    held = {"wake_id": claimed["wake_id"], "generation": claimed["generation"]}
    for action in ("ack", "callback", "release"):
        seen = set()
        for name in ("p", "q"):
            path = f"/v1/stream/__ds/subscriptions/{name}/{action}"
            for token in ("x", signed()):
                answer = await guarded("POST", path, json.dumps(held), {**bearer(token), **JSON})
                seen.add((answer.status, answer.body))
            assert (await guarded("POST", path, json.dumps(held), JSON)).status == 401
        assert {status for status, _ in seen} == {409}
        assert len(seen) == 1, "there is a subscription p, and none q"
    done = json.dumps({**held, "done": True})
    assert (await guarded("POST", SUB + "/ack", done, {**bearer(claimed["token"]), **JSON})).status == 200
    for method in ("GET", "PUT", "DELETE"):
        assert (await guarded(method, SUB + "/ack", "", bearer(claimed["token"]))).status == 401
    assert (await guarded("GET", S, headers=bearer(claimed["token"]))).status == 401


async def test_who_has_no_token_wakes_no_actors() -> None:
    """Otherwise names without end would fill memory and store."""
    async with Silo([], http="127.0.0.1:0", gateway=GatewayOptions(auth_secret=SECRET)) as silo:
        assert silo.http is not None
        held = json.dumps({"wake_id": "w", "generation": 1})
        for action in ("ack", "callback", "release"):
            path = f"/v1/stream/__ds/subscriptions/none/{action}"
            assert (await Gateway(silo.http)("POST", path, held, {**bearer("x"), **JSON})).status == 409
        await Gateway(silo.http)("GET", "/v1/stream/none")
        await Gateway(silo.http)("GET", "/v1/actors/open-1/events")
        assert not silo.runtime.activations


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_a_live_read_ends_with_its_token(start: Start, live: str) -> None:
    gateway = await start(auth_secret=SECRET, long_poll_timeout=1000, event_stream_lifetime=1000)
    await gateway("PUT", S, "[0]", {**bearer(signed()), **JSON})
    token = signed(exp=int(time.time()) + 2)
    answer = await gateway("GET", f"{S}?offset=now&live={live}", headers=bearer(token), within=20)
    assert answer.status == (200 if live == "sse" else 204)


async def test_what_caches_keep_is_for_that_token_only(guarded: Gateway) -> None:
    await guarded("PUT", S, "[0]", {**bearer(signed()), **JSON})
    answer = await guarded("GET", S, headers=bearer(signed()))
    assert "Authorization" in answer.headers["vary"]
    assert "private" in answer.headers["cache-control"]
