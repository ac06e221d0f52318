"""Whatever a client sends, it gets an answer that says whose fault it was, and soon."""

import asyncio
from collections.abc import Iterator
from random import Random

import pytest

from actors.ports import StoreUnavailable
from cluster import Silo
from cluster.gateway import json_values
from tests.gateway.http_client import Gateway, Response

JSON = ("Content-Type", "application/json")
_PIECES = [
    "", " ", "0", "-1", "1", "+1", "01", "1.5", "1e3", "9" * 40, "now", "true", "TRUE", "false", ",", "a,b", "..", "/",
    "%00", "\t", "é", "\ud800", "\x7f", "2026-01-01T00:00:00Z", "9999-99-99T99:99:99Z", "0001-01-01T00:00:00+23:59",
    "2026-01-01", "/v1/stream/", "/v1/stream/source", "/v1/stream/__ds/x", "http://10.0.0.1/", "text/plain", "text",
    "application/json; charset=utf-8", "a/b;c", "0000000000000000_0000000000000000", f"{'9' * 16}_{'9' * 16}",
    "0000000000000000_0000000000000001", "x" * 3000, "W/*", '"', "Bearer", "Bearer x", "null", "{}", "[]",
]  # fmt: skip
_HEADERS = [
    "Content-Type", "Stream-TTL", "Stream-Expires-At", "Stream-Closed", "Stream-Seq", "Stream-Forked-From",
    "Stream-Fork-Offset", "Stream-Fork-Sub-Offset", "Producer-Id", "Producer-Epoch", "Producer-Seq", "If-None-Match",
    "Authorization", "Accept", "Idempotency-Key", "Access-Control-Request-Method",
]  # fmt: skip
_BODIES = [
    b"", b" ", b"x", b"[]", b"[[]]", b"[1,2", b"{}", b'"\\ud800"', b"\xff\xfe", b"[" * 20_000, b"1" * 5000, b"NaN",
    b"\0" * 100, b'{"a":1}{"b":2}', b'{"type":"webhook"}', b'{"type":5}', b'{"streams":["a"],"type":"pull-wake"}',
    b'{"type":"pull-wake","pattern":"**/' + b"*" * 500 + b'","wake_stream":"w"}', b'{"worker":"w"}',
    b'{"wake_id":"w","generation":1,"acks":[{"stream":"a","offset":"x"}],"done":true}',
    b"x" * 2**20, b"x" * (2**20 + 1),
]  # fmt: skip
_NAMES = [
    "source", "a", "a/b", "a//b", "/a", "..", "../../x", "%2e%2e", "%00", "%ff", "%", "a%2Fb", "%E2%82%AC", "x" * 3000,
    "x" * 5000, "open-1/output", "open-1/", "open-1/%00", "open-1/$turns", "shut-1/output", "open-/x",
    "nobody-1/output",
    "webhook_keys-all/log", "durable_stream-source/log", "__ds", "__ds/", "__ds/jwks.json", "__ds/subscriptions",
    "__ds/subscriptions/", "__ds/subscriptions/s", "__ds/subscriptions/s/streams", "__ds/subscriptions/s/claim",
    "__ds/subscriptions/s/ack", "__ds/subscriptions/s/release", "__ds/subscriptions/s/callback",
    "__ds/subscriptions/s/streams/a", "__ds/subscriptions/s/streams/", "__ds/subscriptions/s/x/y",
]  # fmt: skip
_METHODS = ["GET", "GET", "GET", "PUT", "PUT", "POST", "POST", "DELETE", "HEAD", "OPTIONS", "PATCH", "BREW"]


def _quoted(text: str) -> str:
    keep = set(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~%/+,")
    return "".join(chr(b) if b in keep else f"%{b:02X}" for b in text.encode("utf-8", "surrogatepass"))


def _requests(seed: int, count: int) -> Iterator[tuple[str, str, bytes, list[tuple[str, str]]]]:
    random = Random(seed)
    for _ in range(count):
        path = f"/v1/stream/{random.choice(_NAMES)}"
        query = "&".join(
            f"{random.choice(['offset', 'live', 'cursor', 'offset', 'x'])}="
            f"{_quoted(random.choice([*_PIECES, 'sse', 'long-poll']))}"
            for _ in range(random.choice([0, 0, 1, 2, 3]))
        )
        headers = [
            (random.choice(_HEADERS), random.choice(_PIECES).replace("\ud800", "\udc80"))
            for _ in range(random.choice([0, 1, 2, 4]))
        ]
        if random.random() < 0.4:
            headers.append(JSON)
        yield random.choice(_METHODS), path + (f"?{query}" if query else ""), random.choice(_BODIES), headers


def _check(what: object, response: Response) -> None:
    assert response.status < 500, f"{what}: {response}"
    assert response.headers["x-content-type-options"] == "nosniff", what
    if response.status >= 400 and response.body:
        problem = response.json
        assert (problem["status"], bool(problem["detail"])) == (response.status, True), what
        assert response.headers["content-type"] == "application/problem+json", what


@pytest.mark.parametrize("seed", range(6))
async def test_random_requests_never_fail_inside_and_never_hang(gateway: Gateway, seed: int) -> None:
    await gateway.put("source", "some text", Content_Type="text/plain")
    for number, (method, path, body, headers) in enumerate(_requests(seed, 150)):
        what = (seed, number, method, path[:200], headers, body[:60])
        if "live=sse" in path:
            async with asyncio.timeout(20), gateway.opened(method, path, body, headers) as (status, _, _):
                assert status < 500, what
        else:
            _check(what, await gateway(method, path, body, headers))
    assert (await gateway.get("source")).status in (200, 404, 410)


@pytest.mark.parametrize("offset", ["", "x", "1_1", "-2", "0", "a,b", "now%20", "%00", "..", "1" * 16 + "_", "é"])
async def test_offsets_of_nobody_are_refused(gateway: Gateway, offset: str) -> None:
    await gateway.put("s", "text", Content_Type="text/plain")
    for query in (
        f"offset={_quoted(offset)}",
        f"offset={_quoted(offset)}&live=long-poll",
        f"offset=-1&offset={offset}",
    ):
        assert (await gateway.get("s", query.encode("ascii", "ignore").decode())).status == 400


@pytest.mark.parametrize(
    "body",
    [b"[" * 20_000, b"[" * 20_000 + b"]" * 20_000, b"[1,", b'"\xff"', b"NaN", b"1 2", b"", b" ", b"[]", b'{"a":01}'],
)
async def test_what_is_no_json_is_refused_and_appends_nothing(gateway: Gateway, body: bytes) -> None:
    await gateway.put("j", "[1]", Content_Type="application/json")
    assert (await gateway.post("j", body, Content_Type="application/json")).status == 400
    assert (await gateway.get("j")).json == [1]


@pytest.mark.parametrize("body", ["[0" + ",0" * 1000 + "]", "[" + "[[[[[]]]]]," * 250 + "0]", '[{"a":{"b":{}}}' * 400])
@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", "stream/new"), ("POST", "stream/j"), ("POST", "stream/open-1/output"), ("POST", "actors/open-1/send"),
     ("POST", "actors/open-1/ask/say"), ("POST", "actors/open-1/interrupt")],
)  # fmt: skip
async def test_json_of_too_many_values_is_refused_before_it_is_taken_apart(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, method: str, path: str, body: str
) -> None:
    """A body within the limit of bytes can hold values that take gigabytes, and minutes, to look at."""
    await gateway.put("j", "[1]", Content_Type="application/json")
    monkeypatch.setattr(json_values, "MOST_VALUES", 1000)
    refused = await gateway(method, f"/v1/{path}", body, [JSON])
    assert (refused.status, refused.json["type"]) == (413, "PayloadTooLarge")
    assert (await gateway.get("j")).json == [1]


@pytest.mark.parametrize("path", ["stream/open-1/output", "stream/s", "actors/open-1/events"])
async def test_a_store_that_is_away_is_no_failure_of_the_silo(
    silo: Silo, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    await gateway.put("s", "text", Content_Type="text/plain")

    async def read(*_: object, **__: object) -> None:
        raise StoreUnavailable("gone for a moment")

    monkeypatch.setattr(silo.runtime.store, "read", read)
    refused = await gateway("GET", f"/v1/{path}")
    assert (refused.status, refused.json["type"], refused.headers["retry-after"]) == (503, "ClusterUnavailable", "1")


async def test_an_append_to_a_channel_has_a_bounded_number_of_messages(gateway: Gateway) -> None:
    refused = await gateway.post("open-1/output", "[0" + ",0" * 10_000 + "]", Content_Type="application/json")
    assert (refused.status, refused.json["type"]) == (413, "PayloadTooLarge")
    assert (await gateway.get("open-1/output")).json == []
    assert (
        await gateway.post("open-1/output", "[0" + ",0" * 9_999 + "]", Content_Type="application/json")
    ).status == 204


async def test_a_body_over_the_limit_is_refused_also_without_a_length(gateway: Gateway) -> None:
    await gateway.put("s", "", Content_Type="text/plain")
    assert (await gateway.post("s", b"x" * (2**20 + 1), Content_Type="text/plain")).status == 413
    head = f"POST /v1/stream/s HTTP/1.1\r\nHost: {gateway.address}\r\nContent-Type: text/plain\r\n"
    chunked = head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + (b"40000\r\n" + b"x" * 0x40000 + b"\r\n") * 5
    async with asyncio.timeout(20), gateway.connected(chunked + b"0\r\n\r\n") as reader:
        assert b" 413 " in await reader.readline()
    assert (await gateway.get("s")).body == b""


@pytest.mark.parametrize(("method", "status"), [("POST", 413), ("BREW", 400), ("PATCH", 405), ("GET", 404)])
async def test_a_client_that_sends_in_vain_sees_the_answer_all_the_same(
    gateway: Gateway, method: str, status: int
) -> None:
    """A server that answers and closes while the client still sends makes the client lose the answer."""
    answer = await gateway(method, "/v1/stream/none", b"x" * 2**24, {"Content-Type": "text/plain"})
    assert answer.status == status


async def test_a_client_that_leaves_in_the_middle_of_a_body_appends_nothing(gateway: Gateway) -> None:
    await gateway.put("s", "", Content_Type="text/plain")
    head = f"POST /v1/stream/s HTTP/1.1\r\nHost: {gateway.address}\r\nContent-Type: text/plain\r\n"
    async with gateway.connected(head.encode() + b"Content-Length: 9\r\n\r\nhalf"):
        pass
    assert (await gateway.get("s")).body == b""


async def test_the_prefix_in_another_spelling_is_no_other_name(gateway: Gateway) -> None:
    await gateway.put("/v1/stream/s", "text", Content_Type="text/plain")
    assert (await gateway("GET", "/v1/%73tream/s")).status == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "10.0.0.1", "", "localhost.evil.example"])
async def test_a_name_that_leads_here_from_elsewhere_is_refused(gateway: Gateway, host: str) -> None:
    refused = await gateway("GET", "/v1/stream/s", headers={"Host": host})
    assert refused.status in (400, 403)


async def test_a_page_of_another_origin_can_write_nothing(gateway: Gateway) -> None:
    """Such a request needs no preflight: the browser sends it, and only the server can refuse it."""
    await gateway.put("s", "", Content_Type="text/plain")
    simple = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
    assert (await gateway("POST", "/v1/stream/s", "x", simple)).status == 403
    own = {"Origin": f"http://{gateway.address}", "Content-Type": "text/plain"}
    assert (await gateway("POST", "/v1/stream/s", "x", own)).status == 204
    assert (await gateway.get("s")).body == b"x"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/stream/nobody", 404), ("PUT", "/v1/stream/s", 201)]
)
async def test_every_response_has_the_headers_of_browser_security_once(
    gateway: Gateway, method: str, path: str, status: int
) -> None:
    raw = f"{method} {path} HTTP/1.1\r\nHost: {gateway.address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    async with gateway.connected(raw.encode()) as reader:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    assert f" {status} " in head[0]
    for name in ("x-content-type-options: nosniff", "cross-origin-resource-policy: same-origin"):
        assert head.count(name) == 1
