"""Which writes may be repeated, what a caller is told of the others, and that no wait is endless."""

import asyncio
import random
import socket
import time
from contextlib import AsyncExitStack

import grpc
import pytest

from cluster.etcd import (
    Compare,
    EtcdClient,
    EtcdClosed,
    EtcdOutcomeUnknown,
    EtcdServer,
    EtcdUnavailable,
    Op,
)
from cluster.etcd.verdict import Verdict, judge
from tests.cluster.etcd.proxy import Proxy
from tests.cluster.etcd.waiting import eventually


def _refusing() -> str:
    """An endpoint where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


async def test_a_write_whose_answer_is_lost_is_not_repeated(client: EtcdClient, stack: AsyncExitStack) -> None:
    proxy = await stack.enter_async_context(Proxy(client._connection.current.url))
    other = client._connection.current.url
    through = await stack.enter_async_context(EtcdClient([proxy.endpoint, other], timeout=5))
    proxy.swallow_answers()
    proxy.asked.clear()
    writing = asyncio.ensure_future(through.put("/once", b"1"))
    await eventually("etcd has the write", lambda: _exists(client, "/once"))
    await proxy.cut()
    with pytest.raises(EtcdOutcomeUnknown, match=f"{proxy.endpoint}.*may or may not have taken effect"):
        await writing
    (kv,) = (await client.get("/once")).kvs
    assert kv.version == 1
    # The client has moved on to the member that answers.
    assert await through.put("/once", b"2") > 0


async def test_a_write_without_an_answer_ends_in_time(client: EtcdClient, stack: AsyncExitStack) -> None:
    proxy = await stack.enter_async_context(Proxy(client._connection.current.url))
    through = await stack.enter_async_context(EtcdClient([proxy.endpoint], timeout=1))
    proxy.freeze()
    began = time.monotonic()
    with pytest.raises(EtcdOutcomeUnknown, match="no answer in time"):
        await through.put("/once", b"1")
    assert time.monotonic() - began < 2


async def test_a_read_whose_answer_is_lost_is_asked_elsewhere(client: EtcdClient, stack: AsyncExitStack) -> None:
    await client.put("/r", b"1")
    other = client._connection.current.url
    for fault in ("freeze", "cut"):
        proxy = await stack.enter_async_context(Proxy(other))
        through = await stack.enter_async_context(EtcdClient([proxy.endpoint, other], timeout=3))
        proxy.freeze()
        proxy.asked.clear()
        reading = asyncio.ensure_future(through.get("/r"))
        if fault == "cut":
            async with asyncio.timeout(5):
                await proxy.asked.wait()
            await proxy.cut()
        assert [kv.value for kv in (await reading).kvs] == [b"1"]
        assert through._connection.current.url == other


async def test_a_write_goes_on_to_the_next_endpoint_where_none_listens(client: EtcdClient) -> None:
    endpoints = [_refusing(), _refusing(), client._connection.current.url]
    async with EtcdClient(endpoints, timeout=5) as through:
        await through.put("/w", b"1")
        (kv,) = (await client.get("/w")).kvs
        assert kv.version == 1


async def test_a_write_waits_for_an_etcd_that_comes_back(server: EtcdServer) -> None:
    async with EtcdClient([server.endpoint], timeout=15) as client:
        await client.put("/w", b"1")
        await server.stop()
        writing = asyncio.ensure_future(client.put("/w", b"2"))
        await server.start()
        await writing
        (kv,) = (await client.get("/w")).kvs
        assert kv.version == 2


async def test_an_unreachable_etcd_is_told_in_time_with_every_cause(
    shared_server: EtcdServer, stack: AsyncExitStack
) -> None:
    silent = await stack.enter_async_context(Proxy(shared_server.endpoint))
    silent.freeze()
    silent_url = silent.endpoint
    unknown, refusing = "http://no-such-host.invalid:2379", _refusing()
    began = time.monotonic()
    with pytest.raises(EtcdUnavailable) as caught:
        async with EtcdClient([refusing, silent_url, unknown], timeout=2):
            pass
    assert time.monotonic() - began < 3
    message = str(caught.value)
    assert f"{refusing} (" in message
    assert "Connection refused" in message
    assert f"{silent_url} (no connection within" in message
    assert f"{unknown} (" in message
    assert "Start etcd, or correct the endpoints" in message


async def test_a_server_that_talks_nonsense_is_unavailable(stack: AsyncExitStack) -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi" * 20)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
    stack.callback(server.close)
    client = EtcdClient([f"127.0.0.1:{server.sockets[0].getsockname()[1]}"], timeout=1)
    stack.push_async_callback(client.close)
    with pytest.raises(EtcdUnavailable):
        await client.put("/w", b"")
    with pytest.raises(EtcdUnavailable):
        await client.get("/w")


@pytest.mark.parametrize(
    "endpoint",
    ["", "localhost", "http://", "http://localhost", "localhost:0", "localhost:70000", "ftp://a:1", "http://a:1/path",
     "http://u@a:1", "a b:1", "unix:///etcd", ":2379", "http://[::1:2379"],
)  # fmt: skip
async def test_garbage_endpoints_are_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="is not of the form http://host:port"):
        EtcdClient([endpoint])


async def test_other_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one etcd address"):
        EtcdClient([])
    with pytest.raises(ValueError, match="must be a list"):
        EtcdClient("http://localhost:2379")
    with pytest.raises(ValueError, match="timeout must be more than 0"):
        EtcdClient(["localhost:2379"], timeout=0)
    with pytest.raises(ValueError, match="no user"):
        EtcdClient(["localhost:2379"], password="secret")


@pytest.mark.parametrize(
    "endpoint", ["localhost:2379", "http://localhost:2379/", "https://[::1]:2379", "etcd-0.etcd.svc:1"]
)
async def test_sound_endpoints_are_accepted(endpoint: str) -> None:
    EtcdClient([endpoint])


async def test_closing_ends_what_is_under_way(shared_server: EtcdServer, stack: AsyncExitStack) -> None:
    proxy = await stack.enter_async_context(Proxy(shared_server.endpoint))
    client = await stack.enter_async_context(EtcdClient([proxy.endpoint], timeout=30))
    proxy.freeze()
    proxy.asked.clear()
    reading, writing = asyncio.ensure_future(client.get("/r")), asyncio.ensure_future(client.put("/w", b""))
    async with asyncio.timeout(5):
        await proxy.asked.wait()
    await client.close()
    async with asyncio.timeout(5):
        read, write = await asyncio.gather(reading, writing, return_exceptions=True)
    assert isinstance(read, EtcdClosed), read
    assert isinstance(write, EtcdOutcomeUnknown), write
    with pytest.raises(EtcdClosed, match="create a new one"):
        await client.get("/r")


async def test_closing_ends_what_waits_for_a_connection(shared_server: EtcdServer, stack: AsyncExitStack) -> None:
    proxy = await stack.enter_async_context(Proxy(shared_server.endpoint))
    proxy.freeze()
    client = EtcdClient([proxy.endpoint], timeout=30)
    waiting = [
        asyncio.ensure_future(each) for each in (client.get("/r"), client.put("/w", b""), anext(client.watch("/w")))
    ]
    async with asyncio.timeout(5):
        await proxy.asked.wait()
    await client.close()
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [EtcdClosed] * 3, outcomes


async def test_a_caller_can_give_up(shared_server: EtcdServer, stack: AsyncExitStack) -> None:
    proxy = await stack.enter_async_context(Proxy(shared_server.endpoint))
    client = await stack.enter_async_context(EtcdClient([proxy.endpoint], timeout=30))
    proxy.freeze()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await client.get("/r")
    proxy.resume()
    await client.get("/r")


@pytest.mark.parametrize("seed", range(3))
async def test_counting_through_random_cuts_never_counts_twice(
    client: EtcdClient, stack: AsyncExitStack, seed: int
) -> None:
    """Unconditional writes: each version of the key is one write that took effect."""
    rng = random.Random(seed)
    url = client._connection.current.url
    proxies = [await stack.enter_async_context(Proxy(url)) for _ in range(2)]
    through = await stack.enter_async_context(EtcdClient([proxy.endpoint for proxy in proxies], timeout=5))
    done = unknown = 0

    async def cutting() -> None:
        while True:
            await asyncio.sleep(rng.uniform(0, 0.01))
            await rng.choice(proxies).cut()

    cutter = asyncio.ensure_future(cutting())
    stack.callback(cutter.cancel)
    for _ in range(200):
        try:
            await through.put("/counter", b"")
            done += 1
        except EtcdOutcomeUnknown:
            unknown += 1
    (kv,) = (await client.get("/counter")).kvs
    assert done <= kv.version <= done + unknown, (done, kv.version, unknown)
    assert done > 0


async def test_a_conditional_write_is_safe_to_repeat_by_its_caller(client: EtcdClient, stack: AsyncExitStack) -> None:
    proxy = await stack.enter_async_context(Proxy(client._connection.current.url))
    through = await stack.enter_async_context(EtcdClient([proxy.endpoint], timeout=5))
    proxy.swallow_answers()
    claim = asyncio.ensure_future(through.txn([Compare.absent("/claim")], [Op.put("/claim", b"me")]))
    await eventually("etcd has the claim", lambda: _exists(client, "/claim"))
    await proxy.cut()
    proxy.resume()
    with pytest.raises(EtcdOutcomeUnknown):
        await claim
    again = await through.txn([Compare.absent("/claim")], [Op.put("/claim", b"me")], [Op.get("/claim")])
    assert not again.succeeded


async def _exists(client: EtcdClient, key: str) -> bool:
    return bool((await client.get(key)).kvs)


@pytest.mark.parametrize(
    ("code", "details", "verdict"),
    [
        ("UNAVAILABLE", "etcdserver: no leader", Verdict.ELSEWHERE),
        ("RESOURCE_EXHAUSTED", "etcdserver: too many requests", Verdict.ELSEWHERE),
        ("UNAVAILABLE", "etcdserver: leader changed", Verdict.UNKNOWN),
        ("UNAVAILABLE", "etcdserver: request timed out", Verdict.UNKNOWN),
        ("UNAVAILABLE", "etcdserver: server stopped", Verdict.UNKNOWN),
        ("UNAVAILABLE", "Socket closed", Verdict.UNKNOWN),
        ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded", Verdict.UNKNOWN),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", Verdict.UNKNOWN),
        ("CANCELLED", "", Verdict.UNKNOWN),
        ("UNKNOWN", "raft proposal dropped", Verdict.UNKNOWN),
        ("INVALID_ARGUMENT", "etcdserver: duplicate key given in txn request", Verdict.REJECTED),
        ("UNAUTHENTICATED", "etcdserver: invalid auth token", Verdict.REAUTHENTICATE),
        ("INVALID_ARGUMENT", "etcdserver: revision of auth store is old", Verdict.REAUTHENTICATE),
        ("PERMISSION_DENIED", "etcdserver: permission denied", Verdict.DENIED),
    ],
)
def test_only_certain_errors_count_as_certain(code: str, details: str, verdict: Verdict) -> None:
    assert judge(grpc.StatusCode[code], details) is verdict
