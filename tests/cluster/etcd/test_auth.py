import asyncio
import json
import re
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from cluster.etcd import EtcdAuthFailed, EtcdClient, EtcdPermissionDenied, EtcdServer
from tests.cluster.etcd.proxy import Proxy
from tests.cluster.etcd.waiting import MonotonicClock, eventually, started, take


def _post(server: EtcdServer, path: str, body: dict[str, object], *, token: str = "") -> dict[str, str]:
    """One call to etcd's JSON gateway, for what the client has no use for."""
    headers = {"Authorization": token} if token else {}
    request = urllib.request.Request(f"{server.endpoint}/v3/{path}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return dict(json.load(answer))


def _enable(server: EtcdServer) -> None:
    """root may do everything, "app" only what begins with /app/."""
    _post(server, "auth/user/add", {"name": "root", "password": "r"})
    _post(server, "auth/role/add", {"name": "root"})
    _post(server, "auth/user/grant", {"user": "root", "role": "root"})
    _post(server, "auth/user/add", {"name": "app", "password": "a"})
    _post(server, "auth/role/add", {"name": "app"})
    permission = {"permType": "READWRITE", "key": "L2FwcC8=", "range_end": "L2FwcDA="}
    _post(server, "auth/role/grant", {"name": "app", "perm": permission})
    _post(server, "auth/user/grant", {"user": "app", "role": "app"})
    _post(server, "auth/enable", {})


@pytest.fixture
async def guarded() -> AsyncIterator[EtcdServer]:
    """An etcd with users, whose tokens expire after a second without use."""
    args = ["--auth-token-ttl=1", "--log-level=debug", "--bcrypt-cost=4"]
    async with EtcdServer(unsafe_no_fsync=True, args=args) as server:
        await asyncio.to_thread(_enable, server)
        yield server


async def _expired(server: EtcdServer, client: EtcdClient) -> None:
    """Return when etcd has dropped the client's token. Only its log tells: asking would prolong the token."""
    token = client._connection._token
    assert token is not None
    deleted = re.compile(rf"deleted a simple token.*{re.escape(token)}")
    await eventually("the token expires", lambda: deleted.search(server.log.read_text(errors="replace")) is not None)


async def test_credentials_are_checked_when_connecting(guarded: EtcdServer) -> None:
    async with EtcdClient([guarded.endpoint], user="root", password="r") as client:
        await client.put("/anything", b"")
    with pytest.raises(EtcdAuthFailed, match="Check the password of user 'root'"):
        await EtcdClient([guarded.endpoint], user="root", password="wrong").connect()
    with pytest.raises(EtcdAuthFailed, match="Check the password of user 'nobody'"):
        await EtcdClient([guarded.endpoint], user="nobody", password="x").connect()
    with pytest.raises(EtcdAuthFailed, match="wants a user and password"):
        await EtcdClient([guarded.endpoint]).connect()


async def test_a_user_without_the_right_is_told_so(guarded: EtcdServer) -> None:
    async with EtcdClient([guarded.endpoint], user="app", password="a") as client:
        await client.put("/app/1", b"")
        for attempt in (client.put("/other", b""), client.get("/other"), client.get("", prefix=True)):
            with pytest.raises(EtcdPermissionDenied, match="Grant user 'app' a role"):
                await attempt
        with pytest.raises(EtcdPermissionDenied):
            await anext(client.watch("/other"))
        await client.put("/app/2", b"")


async def test_an_expired_token_is_renewed_for_a_request(guarded: EtcdServer) -> None:
    async with EtcdClient([guarded.endpoint], user="app", password="a") as client:
        for _ in range(2):
            await client.put("/app/1", b"")
            await _expired(guarded, client)
        results = await asyncio.gather(*(client.get("/app/1") for _ in range(10)))
        assert {result.kvs[0].version for result in results} == {2}


async def test_an_expired_token_is_renewed_for_a_watch_and_a_keep_alive(
    guarded: EtcdServer, stack: AsyncExitStack
) -> None:
    proxy = await stack.enter_async_context(Proxy(guarded.endpoint))
    client = await stack.enter_async_context(EtcdClient([proxy.endpoint], user="app", password="a"))
    root = await stack.enter_async_context(EtcdClient([guarded.endpoint], user="root", password="r"))
    clock = MonotonicClock()
    keep_alive = client.keep_alive(await client.grant(3), clock=clock)
    await keep_alive.wait_confirmed()
    watch = await started(await stack.enter_async_context(client.watch("/app/", prefix=True)))
    await _expired(guarded, client)
    await root.put("/app/1", b"")
    await take(watch, 1)

    await proxy.cut()  # both come back with the expired token
    cut = keep_alive.deadline
    await root.put("/app/2", b"")
    assert [event.kv.key for event in await take(watch, 1)] == ["/app/2"]
    await eventually("the keep-alive is confirmed again", lambda: keep_alive.deadline > cut)
    assert clock.now() < cut


async def test_tokens_that_a_restart_forgot_are_renewed(guarded: EtcdServer, stack: AsyncExitStack) -> None:
    client = await stack.enter_async_context(EtcdClient([guarded.endpoint], user="app", password="a", timeout=10))
    watch = await started(await stack.enter_async_context(client.watch("/app/", prefix=True)))
    await guarded.kill()
    await guarded.start()
    await client.put("/app/1", b"")
    assert [event.kv.key for event in await take(watch, 1)] == ["/app/1"]


async def test_a_user_is_fine_where_nobody_asks_and_used_when_somebody_does(server: EtcdServer) -> None:
    async with EtcdClient([server.endpoint], user="app", password="a") as client:
        await client.put("/app/1", b"")
        await asyncio.to_thread(_enable, server)
        await client.put("/app/1", b"")
        with pytest.raises(EtcdPermissionDenied):
            await client.put("/other", b"")
