"""Keys that others publish: they change, and whoever publishes them may be away."""

import asyncio
import json
from pathlib import Path

import pytest

from cluster import Silo
from cluster.gateway import GatewayOptions
from cluster.gateway.auth.jwks import Jwks, KeysUnavailable
from tests.cluster.waiting import eventually
from tests.gateway.auth.conftest import Start
from tests.gateway.auth.signing import OTHER_RSA, RSA, bearer, jwk, published, signed
from tests.gateway.http_client import Gateway

LATE = 2**32
"""When these tokens expire: the tests before this one may take long."""

OLD, NEW = signed(RSA, "RS256", kid="old", exp=LATE), signed(OTHER_RSA, "RS256", kid="new", exp=LATE)


async def status(gateway: Gateway, token: str) -> int:
    return (await gateway("GET", "/v1/stream/none", headers=bearer(token))).status


async def test_a_new_key_is_taken_at_once_and_an_old_one_goes_with_the_next_refresh(start: Start) -> None:
    async with published(jwk(RSA, "old")) as publisher:
        gateway = await start(auth_jwks=publisher.url, auth_jwks_refresh=0.2, auth_jwks_cooldown=1e-9)
        assert await status(gateway, OLD) == 404
        publisher.keys = [jwk(RSA, "old"), jwk(OTHER_RSA, "new")]
        assert (await status(gateway, NEW), await status(gateway, OLD)) == (404, 404)
        publisher.keys = [jwk(OTHER_RSA, "new")]

        async def is_gone() -> bool:
            return await status(gateway, OLD) == 401

        await eventually("the old key is gone", is_gone)
        assert await status(gateway, NEW) == 404


async def test_keys_that_nobody_has_are_not_asked_for_again_and_again(start: Start) -> None:
    async with published(jwk(RSA, "old")) as publisher:
        gateway = await start(auth_jwks=publisher.url, auth_jwks_cooldown=1000)
        for number in range(20):
            assert await status(gateway, signed(RSA, "RS256", kid=f"k{number}")) == 401
        assert publisher.asked == 1


async def test_many_who_wait_for_a_new_key_ask_once() -> None:
    async with published(jwk(RSA, "old")) as publisher:
        keys = Jwks(publisher.url, refresh=1000, cooldown=1e-9)
        await keys.start()
        publisher.keys, publisher.asked = [jwk(OTHER_RSA, "new")], 0
        publisher.may_answer.clear()
        asking = [asyncio.create_task(keys.find("new", "RS256")) for _ in range(50)]
        await eventually("it is asked", lambda: publisher.asked == 1)
        publisher.may_answer.set()
        found = await asyncio.gather(*asking)
        assert all(key is not None for key in found)
        assert publisher.asked == 1
        await keys.stop()


async def test_who_knows_its_key_does_not_wait_for_a_look_at_others() -> None:
    async with published(jwk(RSA, "old")) as publisher:
        keys = Jwks(publisher.url, refresh=1000, cooldown=1e-9)
        await keys.start()
        publisher.may_answer.clear()
        asking = asyncio.create_task(keys.find("new", "RS256"))
        await eventually("it is asked", lambda: publisher.asked == 2)
        assert await asyncio.wait_for(keys.find("old", "RS256"), 1) is not None
        asking.cancel()
        publisher.may_answer.set()
        await keys.stop()


TOO_LARGE = json.dumps({"keys": [jwk(OTHER_RSA, "new")]}).encode() + b" " * 2**20


@pytest.mark.parametrize("broken", [b"", b"{}", b"[]", b'{"keys": 5}', b"<html>", b"[" * 20_000, b"\xff", TOO_LARGE])
async def test_while_keys_cannot_be_read_the_old_ones_stay(
    start: Start, broken: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with published(jwk(RSA, "old")) as publisher:
        gateway = await start(auth_jwks=publisher.url, auth_jwks_refresh=0.02)
        publisher.body = broken
        await eventually("it is noticed", lambda: "the keys that were read before stay" in caplog.text)
        assert (await status(gateway, OLD), await status(gateway, NEW)) == (404, 401)
        publisher.status = 500
        asked = publisher.asked
        await eventually("it is asked again", lambda: publisher.asked > asked + 1)
        assert await status(gateway, OLD) == 404


@pytest.mark.parametrize("raw", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"])
async def test_who_does_not_speak_http_is_asked_again_all_the_same(start: Start, raw: bytes) -> None:
    async with published(jwk(RSA, "old")) as publisher:
        gateway = await start(auth_jwks=publisher.url, auth_jwks_refresh=0.02)
        publisher.raw = raw
        asked = publisher.asked
        await eventually("it is asked again", lambda: publisher.asked > asked + 2)
        assert await status(gateway, OLD) == 404
        publisher.raw, publisher.keys = None, [jwk(OTHER_RSA, "new")]

        async def is_new() -> bool:
            return await status(gateway, NEW) == 404

        await eventually("the new key is there", is_new)


async def test_nobody_is_followed_elsewhere(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    async with published(jwk(RSA, "old")) as elsewhere, published() as publisher:
        publisher.raw = f"HTTP/1.1 302 Found\r\nLocation: {elsewhere.url}\r\nContent-Length: 0\r\n\r\n".encode()
        gateway = await start(auth_jwks=publisher.url)
        assert "302" in caplog.text
        assert await status(gateway, OLD) == 503
        assert elsewhere.asked == 0


async def test_a_start_without_keys_says_so_and_they_may_come_later(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    async with published(jwk(RSA, "old")) as publisher:
        publisher.status = 503
        gateway = await start(auth_jwks=publisher.url, auth_jwks_cooldown=0.05)
        assert "no token can be checked" in caplog.text
        assert publisher.url in caplog.text
        answer = await gateway("GET", "/v1/stream/none", headers=bearer(OLD))
        assert (answer.status, answer.json["type"], answer.headers["retry-after"]) == (503, "ClusterUnavailable", "1")
        assert (await gateway("GET", "/v1/stream/none")).status == 401
        assert (await gateway("GET", "/readyz")).status == 200
        publisher.status = 200

        async def is_there() -> bool:
            return await status(gateway, OLD) == 404

        await eventually("the keys are there", is_there)


async def test_nobody_there_is_as_good_as_no_keys() -> None:
    keys = Jwks("http://127.0.0.1:1/keys", refresh=1000, cooldown=1000)
    await keys.start()
    with pytest.raises(KeysUnavailable, match="refused"):
        await keys.find("k", "RS256")
    await keys.stop()


@pytest.mark.parametrize("content", [None, "", "{}", '{"keys": []}', json.dumps({"keys": [{"kty": "oct", "k": "eA"}]})])
async def test_a_file_without_keys_is_refused_at_the_start(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "keys.json"
    if content is not None:
        file.write_text(content)
    silo = Silo([], http="127.0.0.1:0", gateway=GatewayOptions(auth_jwks=str(file)))
    with pytest.raises(ValueError, match=str(file)):
        await silo.start()


async def test_a_file_is_read_again(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [jwk(RSA, "old")]}))
    gateway = await start(auth_jwks=str(file), auth_jwks_refresh=0.02)
    file.write_text(json.dumps({"keys": [jwk(OTHER_RSA, "new")]}))

    async def is_new() -> bool:
        return (await status(gateway, NEW), await status(gateway, OLD)) == (404, 401)

    await eventually("the new keys are there", is_new)
