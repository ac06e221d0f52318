"""Limits for each token and each address."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from cluster.gateway import GatewayOptions
from cluster.gateway.auth import clients
from cluster.gateway.auth.clients import Clients, name_of_address
from cluster.gateway.problems import Problem
from tests.cluster.waiting import eventually
from tests.gateway.auth.conftest import Start
from tests.gateway.auth.signing import SECRET, bearer, signed
from tests.gateway.http_client import Gateway, Response

JSON = {"Content-Type": "application/json"}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_then_a_rate() -> None:
    clock = Clock()
    counted = Clients(GatewayOptions(client_rate=2, client_burst=3), clock=clock)
    for _ in range(3):
        counted.count("a")
    with pytest.raises(Problem) as refused:
        counted.count("a")
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "1")
    counted.count("b")
    clock.now += 0.5
    counted.count("a")
    with pytest.raises(Problem):
        counted.count("a")
    clock.now += 1000
    for _ in range(3):
        counted.count("a")
    with pytest.raises(Problem):
        counted.count("a")


def test_how_long_to_wait_is_said_in_whole_seconds() -> None:
    counted = Clients(GatewayOptions(client_rate=0.1, client_burst=1), clock=Clock())
    counted.count("a")
    with pytest.raises(Problem) as refused:
        counted.count("a")
    assert refused.value.headers["Retry-After"] == "10"


def test_whoever_comes_memory_is_bounded_and_open_requests_stay_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "_MOST_CLIENTS", 50)
    counted = Clients(GatewayOptions(client_concurrency=1))
    with counted.admitted("open"):
        for number in range(1000):
            counted.count(f"c{number}")
        assert len(counted) == 50
        with pytest.raises(Problem), counted.admitted("open"):
            pass
    with counted.admitted("open"):
        pass


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("127.0.0.1", ""), ("127.9.9.9", ""), ("::1", ""), ("::ffff:127.0.0.1", ""), ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"), ("2001:db8::1", "2001:db8::/64"), ("2001:db8::ffff:1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"), ("no address", "no address"),
    ],
)  # fmt: skip
def test_what_is_one_client(host: str, name: str) -> None:
    assert name_of_address({"client": (host, 1)}) == name


async def test_each_token_has_its_own_limit(start: Start) -> None:
    gateway = await start(auth_secret=SECRET, client_burst=3, client_rate=0.001)
    first, second = bearer(signed(sub="a")), bearer(signed(sub="b"))

    async def get(token: dict[str, str]) -> Response:
        return await gateway("GET", "/v1/stream/none", headers=token)

    assert [(await get(first)).status for _ in range(4)] == [404, 404, 404, 429]
    refused = await get(first)
    assert refused.json["type"] == "TooManyRequests"
    assert int(refused.headers["retry-after"]) > 100
    assert refused.headers["x-content-type-options"] == "nosniff"
    assert (await get(second)).status == 404
    assert (await gateway("GET", "/healthz")).status == 200


async def test_who_guesses_tokens_is_counted_by_address_and_harms_nobody_else(start: Start) -> None:
    gateway = await start(auth_secret=SECRET, client_burst=3, client_rate=0.001)
    guesses = [
        (await gateway("GET", "/v1/stream/none", headers={**bearer(f"guess{number}"), "X-Forwarded-For": "10.0.0.1"}))
        for number in range(5)
    ]
    assert [guess.status for guess in guesses] == [401, 401, 401, 429, 429]
    others = {**bearer("guess"), "X-Forwarded-For": "10.0.0.2"}
    assert (await gateway("GET", "/v1/stream/none", headers=others)).status == 401
    good = {**bearer(signed()), "X-Forwarded-For": "10.0.0.1"}
    assert (await gateway("GET", "/v1/stream/none", headers=good)).status == 404


async def test_without_tokens_addresses_are_counted_but_not_this_machine(start: Start) -> None:
    gateway = await start(client_burst=2, client_rate=0.001)
    there = {"X-Forwarded-For": "10.0.0.1"}
    assert [(await gateway("GET", "/v1/stream/none", headers=there)).status for _ in range(3)] == [404, 404, 429]
    assert [(await gateway("GET", "/v1/stream/none")).status for _ in range(4)] == [404] * 4


async def test_open_streams_are_counted_until_they_end(start: Start) -> None:
    gateway = await start(auth_secret=SECRET, client_concurrency=2, event_stream_lifetime=1000)
    token = bearer(signed())
    await gateway("PUT", "/v1/stream/s", "[]", {**token, **JSON})

    async def status(name: dict[str, str]) -> int:
        return (await gateway("GET", "/v1/stream/s", headers=name)).status

    async with AsyncExitStack() as stack:
        for _ in range(2):
            opened = gateway.opened("GET", "/v1/stream/s?offset=now&live=sse", headers=token)
            assert (await stack.enter_async_context(opened))[0] == 200
        refused = await gateway("GET", "/v1/stream/s", headers=token)
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert await status(bearer(signed(sub="other"))) == 200

    async def is_free() -> bool:
        return await status(token) == 200

    await eventually("they have ended", is_free)


async def test_requests_that_break_off_are_not_counted_for_ever(start: Start) -> None:
    gateway: Gateway = await start(auth_secret=SECRET, client_concurrency=2)
    token = signed()
    head = f"POST /v1/stream/s HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Length: 9\r\n\r\nhalf"
    for _ in range(10):
        async with gateway.connected(head.encode()):
            await asyncio.sleep(0)

    async def is_free() -> bool:
        return (await gateway("GET", "/v1/stream/none", headers=bearer(token))).status == 404

    await eventually("they count no more", is_free)
