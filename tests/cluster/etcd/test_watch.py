import asyncio
from contextlib import AsyncExitStack

import pytest

from cluster.etcd import (
    Compacted,
    EtcdClient,
    EtcdClosed,
    EtcdServer,
    EventKind,
    HistoryLost,
    Op,
    Watch,
    WatchBatch,
)
from cluster.etcd import etcd_pb2 as pb
from cluster.etcd.connection import Connection
from tests.cluster.etcd.proxy import Proxy
from tests.cluster.etcd.waiting import eventually, keys, started, take


async def test_it_begins_with_a_batch_that_says_from_where(client: EtcdClient) -> None:
    revision = await client.put("/w/0", b"before")
    async with client.watch("/w/", prefix=True) as watch:
        assert await anext(watch) == WatchBatch(revision, [])
        await client.put("/w/1", b"one")
        await client.put("/other", b"")
        await client.delete("/w/1")
        put, deleted = await take(watch, 2)
    assert (put.kind, put.kv.key, put.kv.value, put.kv.mod_revision) == (EventKind.PUT, "/w/1", b"one", revision + 1)
    assert (deleted.kind, deleted.kv.key, deleted.kv.mod_revision) == (EventKind.DELETE, "/w/1", revision + 3)


async def test_from_a_revision_it_replays_history(client: EtcdClient) -> None:
    snapshot = await client.get("/w/", prefix=True)
    for i in range(5):
        await client.put(f"/w/{i}", b"")
    async with client.watch("/w/", prefix=True, start_revision=snapshot.revision + 1) as watch:
        assert await anext(watch) == WatchBatch(snapshot.revision, [])  # and not etcd's own, later revision
        assert keys(await take(watch, 5)) == [f"/w/{i}" for i in range(5)]


async def test_one_key_is_not_a_prefix(client: EtcdClient) -> None:
    async with client.watch("/w") as watch:
        await started(watch)
        await client.put("/w/1", b"")
        await client.put("/w", b"")
        assert keys(await take(watch, 1)) == ["/w"]


async def test_a_negative_revision_is_refused(client: EtcdClient) -> None:
    with pytest.raises(ValueError, match="cannot start at revision -1"):
        client.watch("/w", start_revision=-1)


async def test_nothing_is_lost_or_repeated_over_cuts_and_a_restart(server: EtcdServer, stack: AsyncExitStack) -> None:
    proxy = await stack.enter_async_context(Proxy(server.endpoint))
    writer = await stack.enter_async_context(EtcdClient([server.endpoint]))
    reader = await stack.enter_async_context(EtcdClient([proxy.endpoint]))
    watch = await stack.enter_async_context(reader.watch("/w/", prefix=True))
    await started(watch)

    written = 0

    async def write(count: int) -> list[str]:
        nonlocal written
        names = [f"/w/{i:04}" for i in range(written, written + count)]
        written += count
        for name in names:
            await writer.put(name, b"")
        return names

    first = await write(3)
    assert keys(await take(watch, 3)) == first

    await proxy.cut()
    second = await write(20)
    assert keys(await take(watch, 20)) == second

    await proxy.refuse()
    third = await write(20)
    await server.stop()
    await server.start()
    third += await write(20)
    await proxy.accept()
    assert keys(await take(watch, 40)) == third

    await server.kill()
    await server.start()
    fourth = await write(5)
    assert keys(await take(watch, 5)) == fourth


async def test_a_cut_in_the_middle_of_a_backlog_resumes_after_the_last_event(
    server: EtcdServer, stack: AsyncExitStack
) -> None:
    """etcd's answers to a watch that lags carry the newest revision: resuming from that would skip events."""
    proxy = await stack.enter_async_context(Proxy(server.endpoint))
    writer = await stack.enter_async_context(EtcdClient([server.endpoint]))
    count = 2_500
    names = [f"/w/{i:05}" for i in range(count)]
    for start in range(0, count, 20):
        await asyncio.gather(*(writer.put(name, bytes(400)) for name in names[start : start + 20]))
    history = [kv.key for kv in sorted((await writer.get("/w/", prefix=True)).kvs, key=lambda kv: kv.mod_revision)]

    reader = await stack.enter_async_context(EtcdClient([proxy.endpoint]))
    watch = await stack.enter_async_context(reader.watch("/w/", prefix=True, start_revision=1))
    seen: list[str] = []
    cuts = 0
    async with asyncio.timeout(30):
        while len(seen) < count:
            batch = await anext(watch)
            seen += keys(batch.events)
            if batch.events and cuts < 4:
                cuts += 1
                await proxy.cut()
    assert cuts >= 2, "the backlog came in too few batches to be cut in the middle"
    assert seen == history


async def test_events_of_one_revision_stay_together_in_fragments(client: EtcdClient) -> None:
    before = (await client.get("/w", prefix=True)).revision
    for i in range(5):  # 1.2 MB a revision, 6 MB at once: etcd sends at most 2 MB in one piece
        await client.txn([], [Op.put(f"/w/{j}", bytes(100_000)) for j in range(12)])
        await client.put(f"/w/small/{i}", b"")
    async with client.watch("/w/", prefix=True, start_revision=before + 1) as watch:
        sizes: dict[int, int] = {}
        batches = 0
        async with asyncio.timeout(30):
            while sum(sizes.values()) < 65:
                batch = await anext(watch)
                batches += bool(batch.events)
                here: dict[int, int] = {}
                for event in batch.events:
                    here[event.kv.mod_revision] = here.get(event.kv.mod_revision, 0) + 1
                assert not here.keys() & sizes.keys(), "a revision was split"
                sizes |= here
    assert list(sizes.values()) == [12, 1] * 5
    assert batches > 1, "etcd did not fragment"


def _response(*revisions: int, fragment: bool) -> pb.WatchResponse:
    events = [pb.Event(kv=pb.KeyValue(key=b"k", mod_revision=revision)) for revision in revisions]
    return pb.WatchResponse(header=pb.ResponseHeader(revision=99), events=events, fragment=fragment)


def test_a_revision_that_a_fragment_splits_is_held_back() -> None:
    connection = Connection([], user=None, password=None, timeout=1.0)
    watch = Watch(connection, "k", prefix=False, start_revision=5)

    def revisions(response: pb.WatchResponse) -> tuple[int, list[int]] | None:
        batch = watch._collect(response)
        return None if batch is None else (batch.revision, [event.kv.mod_revision for event in batch.events])

    assert revisions(_response(5, 6, 6, fragment=True)) == (5, [5])
    assert watch._next == 6, "a cut here must read revision 6 again from its beginning"
    assert revisions(_response(6, fragment=True)) is None
    assert revisions(_response(6, 7, fragment=False)) == (7, [6, 6, 6, 6, 7])
    assert revisions(_response(7, 8, fragment=False)) == (8, [8]), "7 was delivered before"


async def test_compaction_while_away_ends_the_watch(server: EtcdServer, stack: AsyncExitStack) -> None:
    proxy = await stack.enter_async_context(Proxy(server.endpoint))
    writer = await stack.enter_async_context(EtcdClient([server.endpoint]))
    reader = await stack.enter_async_context(EtcdClient([proxy.endpoint]))
    watch = await started(await stack.enter_async_context(reader.watch("/w", prefix=True)))
    await proxy.refuse()
    for _ in range(9):
        await writer.put("/w", b"")
    revision = await writer.put("/w", b"")
    await writer.compact(revision)
    await proxy.accept()
    with pytest.raises(Compacted, match="Read the keys again") as caught:
        await take(watch, 1)
    assert caught.value.compact_revision == revision
    with pytest.raises(Compacted):
        await anext(watch)

    # What the message says works.
    snapshot = await reader.get("/w", prefix=True)
    async with reader.watch("/w", prefix=True, start_revision=snapshot.revision + 1) as again:
        await started(again)
        await writer.put("/w", b"new")
        assert [event.kv.value for event in await take(again, 1)] == [b"new"]


async def test_compaction_under_a_live_watch_does_not_disturb_it(client: EtcdClient) -> None:
    async with client.watch("/w") as watch:
        await started(watch)
        await client.put("/w", b"1")
        await client.compact(await client.put("/w", b"2"))
        await client.put("/w", b"3")
        assert [event.kv.value for event in await take(watch, 3)] == [b"1", b"2", b"3"]


async def test_an_etcd_that_lost_its_data_is_noticed(stack: AsyncExitStack) -> None:
    old = EtcdServer(unsafe_no_fsync=True)
    await stack.enter_async_context(old)
    client = await stack.enter_async_context(EtcdClient([old.endpoint]))
    for _ in range(5):
        await client.put("/w", b"")
    watch = await started(await stack.enter_async_context(client.watch("/w")))
    await old.close()
    new = EtcdServer(client_port=old.client_port, peer_port=old.peer_port, unsafe_no_fsync=True)
    await stack.enter_async_context(new)
    with pytest.raises(HistoryLost, match="lost data or was restored"):
        async with asyncio.timeout(20):
            await anext(watch)


async def test_a_start_beyond_the_next_revision_is_no_wait_without_end(client: EtcdClient) -> None:
    revision = await client.put("/w", b"")
    with pytest.raises(HistoryLost):
        await anext(client.watch("/w", start_revision=revision + 2))


async def test_a_step_abandoned_while_it_asks_the_quorum_asks_again(
    client: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = await client.put("/w", b"")
    watch = client.watch("/w", start_revision=revision + 2)
    asking = asyncio.Event()

    async def never(*_: object) -> None:
        asking.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(client._connection, "read", never)
        step = asyncio.ensure_future(anext(watch))
        async with asyncio.timeout(5):
            await asking.wait()
        step.cancel()
        await asyncio.wait({step})
    with pytest.raises(HistoryLost):
        async with asyncio.timeout(5):
            await anext(watch)


async def test_another_cluster_behind_the_same_address_is_noticed(stack: AsyncExitStack) -> None:
    old = await stack.enter_async_context(EtcdServer(unsafe_no_fsync=True))
    client = await stack.enter_async_context(EtcdClient([old.endpoint]))
    watch = await started(await stack.enter_async_context(client.watch("/w")))
    await old.stop()
    new = EtcdServer(client_port=old.client_port, unsafe_no_fsync=True)
    await stack.enter_async_context(new)
    with pytest.raises(HistoryLost, match="now lead to etcd cluster"):
        async with asyncio.timeout(20):
            await anext(watch)


async def test_an_abandoned_step_loses_nothing(client: EtcdClient) -> None:
    async with client.watch("/w") as watch:
        await started(watch)

        async def write() -> None:
            for i in range(100):
                await client.put("/w", str(i).encode())

        writing = asyncio.ensure_future(write())
        values: list[bytes] = []
        abandoned = 0
        while len(values) < 100:
            step = asyncio.ensure_future(anext(watch))
            await asyncio.wait({step}, timeout=0.0005)
            if not step.done():
                step.cancel()
                abandoned += 1
            outcome = (await asyncio.gather(step, return_exceptions=True))[0]
            if isinstance(outcome, WatchBatch):
                values += [event.kv.value for event in outcome.events]
            else:
                assert isinstance(outcome, asyncio.CancelledError)
        await writing
    assert values == [str(i).encode() for i in range(100)]
    assert abandoned


async def test_nobody_reading_means_nobody_buffering(shared_server: EtcdServer, stack: AsyncExitStack) -> None:
    proxy = await stack.enter_async_context(Proxy(shared_server.endpoint))
    writer = await stack.enter_async_context(EtcdClient([shared_server.endpoint]))
    reader = await stack.enter_async_context(EtcdClient([proxy.endpoint]))
    watch = await started(await stack.enter_async_context(reader.watch("/big")))
    value = bytes(1_000_000)
    for _ in range(40):
        await writer.put("/big", value)

    last = -1

    async def quiet() -> bool:
        nonlocal last
        before, last = last, proxy.answered_bytes
        await asyncio.sleep(0.2)  # a stretch in which nothing arrives is what is looked for
        return last == before

    await eventually("etcd stops sending", quiet)
    assert proxy.answered_bytes < 20_000_000
    assert len(await take(watch, 40)) == 40
    await writer.delete("/big")


async def test_closing_ends_a_pending_step(client: EtcdClient) -> None:
    watch = await started(client.watch("/w"))
    step = asyncio.ensure_future(anext(watch))
    await eventually("the step waits", lambda: watch._stream is not None and watch._stream._reading is not None)
    await watch.aclose()
    with pytest.raises(StopAsyncIteration):
        await step
    with pytest.raises(StopAsyncIteration):
        await anext(watch)


async def test_closing_the_client_ends_a_pending_step(shared_server: EtcdServer) -> None:
    client = EtcdClient([shared_server.endpoint])
    watch = await started(client.watch("/w"))
    step = asyncio.ensure_future(anext(watch))
    await eventually("the step waits", lambda: watch._stream is not None and watch._stream._reading is not None)
    await client.close()
    with pytest.raises(EtcdClosed):
        async with asyncio.timeout(5):
            await step
    with pytest.raises(EtcdClosed):
        await anext(watch)


async def test_progress_advances_the_revision_while_nothing_happens(stack: AsyncExitStack) -> None:
    server = EtcdServer(unsafe_no_fsync=True, args=["--experimental-watch-progress-notify-interval=200ms"])
    await stack.enter_async_context(server)
    client = await stack.enter_async_context(EtcdClient([server.endpoint]))
    watch = await started(await stack.enter_async_context(client.watch("/w")))
    revision = 0
    for _ in range(5):
        revision = await client.put("/other", b"")
    async with asyncio.timeout(20):
        async for batch in watch:
            assert batch.events == []
            if batch.revision == revision:
                break
