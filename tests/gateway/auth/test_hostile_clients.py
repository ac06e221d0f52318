"""Whatever somebody sends beside a good token, or instead of one, is answered, and never as a fault of the silo."""

import asyncio
from random import Random

import pytest

from tests.gateway.auth.conftest import Start
from tests.gateway.auth.signing import SECRET, bearer, signed
from tests.gateway.http_client import Gateway, Response

NAMES = [
    "Host", "Origin", "X-Forwarded-For", "X-Forwarded-Proto", "Connection", "Upgrade", "Sec-WebSocket-Key", "Accept",
    "Sec-WebSocket-Version", "Sec-WebSocket-Protocol", "Expect", "Cookie", "Content-Type", "Last-Event-ID", "Referer",
    "Authorization", "Idempotency-Key", "Prefer", "Te", "Content-Encoding", "Access-Control-Request-Headers",
]  # fmt: skip
VALUES = [
    "", " ", "a", "a, b", "[", "[::1", "é", "\udc80", "null", "*", "https://a.example", "http://[", "https", "x-y",
    "websocket", "upgrade", "keep-alive, Upgrade", "13", "dGhlIHNhbXBsZSBub25jZQ==", "text/event-stream", "chunked",
    "100-continue",
    "bearer.", "bearer.x", "agentsilo, bearer.x", "Bearer", "Bearer x", "Basic x", "10.0.0.1", "10.0.0.1, x", "::1",
    "1.2.3.4:x", "9" * 5000, "x" * 5000, "wait=1", "0", "-1", "application/json",
]  # fmt: skip
PATHS = [
    "/v1/stream/s", "/v1/stream/open-1/output", "/v1/stream/__ds/jwks.json", "/v1/stream/__ds/subscriptions/p/ack",
    "/v1/stream/__ds/subscriptions/p", "/v1/actors/open-1/ws", "/v1/actors/spoken-1/ask/say", "/v1/actors/x/ws",
    "/v1/actors/open-1/events", "/parked", "/healthz", "/readyz", "/", "/v1", "/v1/", "/v1//", "//v1/stream/s",
    "/openapi.json", "/parked/x", "*",
]  # fmt: skip
QUERIES = [
    "",
    "",
    "?access_token=x",
    "?access_token",
    "?%61ccess_token=%ff",
    "?access_token=a&access_token=b",
    "?%",
    "??",
]


def check(what: object, answer: Response) -> None:
    assert answer.status < 500, f"{what}: {answer}"
    if answer.status >= 400 and answer.body:
        assert (answer.json["status"], bool(answer.json["detail"])) == (answer.status, True), what
        assert answer.headers["x-content-type-options"] == "nosniff", what
    if answer.status == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer"), what


@pytest.mark.parametrize("seed", range(4))
async def test_random_requests(start: Start, seed: int) -> None:
    gateway: Gateway = await start(auth_secret=SECRET, long_poll_timeout=0.2, event_stream_lifetime=0.2, max_head=8192)
    random = Random(seed)
    good = signed()
    await gateway("PUT", "/v1/stream/s", "text", {**bearer(good), "Content-Type": "text/plain"})
    for number in range(200):
        method = random.choice(["GET", "GET", "GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT"])
        path = random.choice(PATHS) + random.choice([*QUERIES, f"?access_token={good}&live=sse&offset=-1"])
        headers = [(random.choice(NAMES), random.choice(VALUES)) for _ in range(random.choice([1, 2, 3, 6]))]
        if random.random() < 0.6:
            headers.append(("Authorization", f"Bearer {good}"))
        what = (seed, number, method, path, headers)
        try:
            async with asyncio.timeout(10), gateway.opened(method, path, b"", headers) as (status, found, reader):
                if status == 101:
                    continue
                stream = found.get("content-type") == "text/event-stream"
                body = b"" if stream or "content-length" not in found else await reader.read()
                check(what, Response(status, found, body))
        except (TimeoutError, IndexError) as error:
            raise AssertionError(f"no answer to {what}") from error
    assert (await gateway("GET", "/readyz")).status == 200
