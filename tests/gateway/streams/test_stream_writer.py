"""Appends that go straight to the actor: the same as by message, also where the activation is lost under them."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from actors.alone import LonelyDirectory, NoTransport
from actors.errors import ClusterUnavailable
from actors.ports import StoreUnavailable
from actors.ref import current_caller
from actors.runtime import Runtime
from cluster.clock import SystemClock
from cluster.gateway.streams.entries import read_entries
from cluster.gateway.streams.index import StreamIndex
from cluster.gateway.streams.names import stream_address
from cluster.gateway.streams.stream import Stream
from cluster.gateway.streams.stream_state import Appended, Creation, Fork, View, Write
from cluster.gateway.streams.stream_writer import StreamWriter
from tests.unit.fakes import ScriptedStore, settle, soon

ADDRESS = stream_address("s")


@pytest.fixture
def store() -> ScriptedStore:
    return ScriptedStore()


@pytest.fixture
async def runtime(store: ScriptedStore) -> AsyncIterator[Runtime]:
    """With an empty stream of text at "s"."""
    runtime = Runtime(
        [Stream, StreamIndex],
        directory=LonelyDirectory(["durable_stream", "stream_index"], era=1, name="local.1"),
        transport=NoTransport(),
        store=store,
        clock=SystemClock(),
    )
    current_caller.set(runtime.outbound)
    await Stream.ref("s").create(Creation("s", content_type="text/plain"))
    yield runtime
    await runtime.close()


def text(body: str, *, close: bool = False) -> Write:
    return Write(body.encode(), "text/plain", close=close)


async def view() -> View:
    found = (await Stream.ref("s").look(use=False)).view
    assert found is not None
    return found


async def read(store: ScriptedStore) -> list[bytes]:
    seen = await view()
    return await read_entries(store, seen.segments, 0, seen.next)


async def append(*writes: Write) -> list[Appended]:
    return await StreamWriter("s").append(list(writes))


async def begin(store: ScriptedStore, *writes: Write) -> "asyncio.Task[list[Appended]]":
    """An append whose commit is on its way to the store."""
    store.hold()
    appending = asyncio.create_task(append(*writes))
    await soon(store.waiting.wait())
    return appending


async def fall_asleep(runtime: Runtime) -> None:
    runtime.activations[ADDRESS].request_deactivation()
    await settle()
    assert ADDRESS not in runtime.activations


async def test_an_append_is_one_commit_and_needs_no_message(runtime: Runtime, store: ScriptedStore) -> None:
    before = len(store.commits)
    assert [outcome.next for outcome in await append(text("a"), text("b"))] == [1, 2]
    [commit] = store.commits[before:]
    assert commit.state is None, "the log alone says where the stream ends"
    assert len(commit.put) == 3, "two entries, and where the channel ends"
    assert commit.drop == []


async def test_nobody_is_answered_before_it_is_durable(runtime: Runtime, store: ScriptedStore) -> None:
    appending = await begin(store, text("a"))
    looking = asyncio.create_task(view())
    await settle()
    assert not appending.done()
    assert not looking.done(), "who looks meanwhile must not hear of it"
    store.let_go()
    assert [outcome.code for outcome in await soon(appending)] == ["ok"]
    assert (await soon(looking)).next == 1


async def test_an_activation_that_is_lost_behind_the_commit(runtime: Runtime, store: ScriptedStore) -> None:
    appending = await begin(store, text("a"), text("b"))
    runtime.stop_acting()
    store.let_go()
    assert [outcome.next for outcome in await soon(appending)] == [1, 2]
    assert await read(store) == [b"a", b"b"], "once, though whoever committed it was gone when it was"


async def test_an_activation_that_is_lost_before_the_commit(runtime: Runtime, store: ScriptedStore) -> None:
    await store.open(ADDRESS, runtime.activations[ADDRESS].epoch + 1)  # somebody else has the stream
    assert [outcome.next for outcome in await soon(append(text("a"), text("b")))] == [1, 2]
    assert await read(store) == [b"a", b"b"]


async def test_what_the_store_refuses_is_not_there(runtime: Runtime, store: ScriptedStore) -> None:
    store.refusals.append(StoreUnavailable("the disk is full"))
    with pytest.raises(ClusterUnavailable, match="the disk is full"):
        await append(Write(b"a", "text/plain", producer=("p", 0, 0)))
    outcomes = await append(Write(b"b", "text/plain", producer=("p", 0, 0)))
    assert [(outcome.code, outcome.next) for outcome in outcomes] == [("ok", 1)]
    assert await read(store) == [b"b"]


async def test_producers_are_known_again_after_sleep(runtime: Runtime) -> None:
    first, second = (Write(b"a", "text/plain", producer=("p", 0, seq)) for seq in (0, 1))
    assert [outcome.code for outcome in await append(first)] == ["ok"]
    assert [outcome.code for outcome in await append(first, second)] == ["duplicate", "ok"]
    await fall_asleep(runtime)
    assert [outcome.code for outcome in await append(second)] == ["duplicate"]
    assert [outcome.code for outcome in await append(first, second)] == ["duplicate", "duplicate"]


@pytest.mark.parametrize("last", ["b", ""])
async def test_the_end_is_known_again_after_sleep(runtime: Runtime, store: ScriptedStore, last: str) -> None:
    await append(text("a"))
    await fall_asleep(runtime)
    assert (await view()).next == 1
    [outcome] = await append(Write(last.encode(), "text/plain", close=True))
    assert (outcome.next, outcome.closed) == (1 + len(last), True)
    await fall_asleep(runtime)
    seen = await view()
    assert (seen.next, seen.closed) == (1 + len(last), True)
    assert [outcome.code for outcome in await append(text("c"))] == ["closed"]
    assert await read(store) == [b"a", b"b"][: 1 + len(last)]


async def test_a_stream_that_its_forks_keep_ends_where_it_did(runtime: Runtime, store: ScriptedStore) -> None:
    await append(text("a"), text("b"))
    made = await Stream.ref("fork").create(Creation("fork", fork=Fork(ADDRESS, None)))
    assert made.view is not None
    await StreamWriter("fork").append([text("c")])
    await Stream.ref("s").remove()
    await fall_asleep(runtime)
    assert [outcome.code for outcome in await append(text("d"))] == ["gone"]
    forked = (await Stream.ref("fork").look(use=False)).view
    assert forked is not None
    assert await read_entries(store, forked.segments, 0, forked.next) == [b"a", b"b", b"c"]
    stream = runtime.activations[ADDRESS].actor
    assert isinstance(stream, Stream)
    assert stream.state.next == stream._end_position() == 2


async def test_order_is_kept_between_both_ways(runtime: Runtime, store: ScriptedStore) -> None:
    appending = await begin(store, text("a"))
    by_message = asyncio.create_task(append(text("b")))  # the activation is not free
    await settle()
    store.let_go()
    assert [outcome.next for outcome in await soon(appending)] == [1]
    assert [outcome.next for outcome in await soon(by_message)] == [2]
    assert await read(store) == [b"a", b"b"]
