"""What the conformance suite does not ask of streams."""

import asyncio
import json
from urllib.parse import quote

import pytest

from actors.ports import Store
from cluster import Silo
from cluster.gateway.streams.names import stream_address, stream_key
from cluster.gateway.streams.stream import Stream
from cluster.gateway.streams.stream_state import Creation, Write
from tests.cluster.waiting import eventually
from tests.gateway.http_client import Gateway

TEXT = {"Content_Type": "text/plain"}
ZERO = f"{0:016d}_{0:016d}"


def store_of(silo: Silo) -> Store:
    return silo.runtime.store


async def test_a_name_that_is_used_again_never_uses_an_offset_again(gateway: Gateway) -> None:
    await gateway.put("s", "old ", **TEXT)
    old = (await gateway.post("s", "old", **TEXT)).next_offset
    await gateway.delete("s")
    assert (await gateway.get("s", f"offset={old}")).status == 404
    new = (await gateway.put("s", "new", **TEXT)).next_offset
    assert new > old
    assert (await gateway.get("s", f"offset={old}")).status == 410
    assert (await gateway.get("s", f"offset={ZERO}")).body == b"new"
    assert (await gateway.get("s", f"offset={new}")).headers["stream-up-to-date"] == "true"


async def test_an_offset_beyond_the_tail_is_refused(gateway: Gateway) -> None:
    await gateway.put("s", "text", **TEXT)
    assert (await gateway.get("s", f"offset={0:016d}_{2:016d}")).status == 400


async def test_a_long_read_comes_in_pages_that_say_where_they_end(gateway: Gateway) -> None:
    await gateway.put("s", "", Content_Type="application/octet-stream")
    pieces = [bytes([number]) * 30_000 for number in range(7)]
    for piece in pieces:
        await gateway.post("s", piece, Content_Type="application/octet-stream")
    body, offset, pages = b"", "-1", 0
    while True:
        page = await gateway.get("s", f"offset={offset}")
        body, offset, pages = body + page.body, page.next_offset, pages + 1
        if "stream-up-to-date" in page.headers:
            break
    assert (body == b"".join(pieces), pages) == (True, 3)
    async with gateway.events("s", "offset=-1") as events:
        found = [await anext(events) for _ in range(6)]
    assert [name for name, _ in found] == ["data", "control"] * 3
    assert [json.loads(data).get("upToDate") for _, data in found[1::2]] == [None, None, True]


@pytest.mark.parametrize("path", ["a/b/c", "über/straße", "a b", "x" * 300, "%", "a%2Fb", "…" * 100])
async def test_every_name_is_a_stream_of_its_own(silo: Silo, gateway: Gateway, path: str) -> None:
    created = await gateway.put(quote(path), path, **TEXT)
    assert created.status == 201
    assert created.headers["location"] == f"http://{gateway.address}/v1/stream/{quote(path)}"
    assert (await gateway.get(quote(path))).body.decode() == path
    assert len(stream_address(path).partition("-")[2]) <= 256


def test_names_have_keys_of_their_own() -> None:
    names = [
        "a/b",
        "a%2Fb",
        "a%252Fb",
        "a b",
        "a%20b",
        "x" * 257,
        "x" * 258,
        "%sha256-" + "0" * 64,
        " ",
        "é",
        "e\u0301",
    ]
    assert len({stream_key(name) for name in names}) == len(names)


# -- forks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failing",
    [
        {"Stream_Fork_Offset": ZERO, "Stream_Fork_Sub_Offset": "99"},
        {"Content_Type": "application/json"},
        {"Stream_Fork_Offset": f"{0:016d}_{9:016d}"},
    ],
)
async def test_a_fork_that_fails_holds_nothing(gateway: Gateway, failing: dict[str, str]) -> None:
    await gateway.put("source", "text", **TEXT)
    refused = await gateway.put("fork", Stream_Forked_From="/v1/stream/source", **failing)
    assert refused.status in (400, 409)
    assert (await gateway.get("fork")).status == 404
    await gateway.delete("source")

    async def is_gone() -> bool:
        return (await gateway.get("source")).status == 404

    await eventually("nothing holds the source", is_gone)


async def test_a_fork_with_a_body_that_is_no_json_holds_nothing(gateway: Gateway) -> None:
    await gateway.put("source", "[1]", Content_Type="application/json")
    assert (await gateway.put("fork", "{", Stream_Forked_From="/v1/stream/source")).status == 400
    await gateway.delete("source")

    async def is_gone() -> bool:
        return (await gateway.get("source")).status == 404

    await eventually("nothing holds the source", is_gone)


async def test_nothing_is_left_when_the_last_fork_of_a_chain_goes(silo: Silo, gateway: Gateway) -> None:
    await gateway.put("a", "a", **TEXT)
    await gateway.put("b", "b", Stream_Forked_From="/v1/stream/a")
    await gateway.put("c", "c", Stream_Forked_From="/v1/stream/b")
    await gateway.delete("a")
    await gateway.delete("b")
    assert (await gateway.get("c")).body == b"abc"
    assert [(await gateway.get(name)).status for name in "ab"] == [410, 410]
    await gateway.delete("c")

    async def all_gone() -> bool:
        return [(await gateway.get(name)).status for name in "abc"] == [404] * 3

    await eventually("the whole chain is gone", all_gone)
    for name in "abc":
        items = await store_of(silo).read(stream_address(name), b"\x81", b"\x82", limit=10)
        assert not items, name


async def test_two_streams_that_are_forked_from_each_other_are_both_refused(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.gateway.streams.stream.RESERVE_LIMIT", 0.3)
    both = await asyncio.gather(
        gateway.put("x", Stream_Forked_From="/v1/stream/y"), gateway.put("y", Stream_Forked_From="/v1/stream/x")
    )
    assert all(response.status in (404, 503) for response in both), both
    assert (await gateway.put("z", Stream_Forked_From="/v1/stream/z")).status == 404


async def test_a_fork_of_a_fork_reads_through_its_ancestors_in_json(gateway: Gateway) -> None:
    json_type = {"Content_Type": "application/json"}
    await gateway.put("a", "[1,2]", **json_type)
    middle = (await gateway.post("a", "[3]", **json_type)).next_offset
    await gateway.post("a", "[4]", **json_type)
    await gateway.put("b", Stream_Forked_From="/v1/stream/a", Stream_Fork_Offset=middle)
    await gateway.post("b", "[5]", **json_type)
    await gateway.put("c", "[[6]]", Stream_Forked_From="/v1/stream/b")
    assert (await gateway.get("c")).json == [1, 2, 3, 5, [6]]
    assert (await gateway.get("c", f"offset={middle}")).json == [5, [6]]
    await gateway.put("d", Stream_Forked_From="/v1/stream/c", Stream_Fork_Offset=ZERO, Stream_Fork_Sub_Offset="1")
    assert (await gateway.get("d")).json == [1]


# -- lifetime --------------------------------------------------------------------------------------------------


async def test_what_has_expired_is_erased_without_anybody_asking(silo: Silo, gateway: Gateway) -> None:
    await gateway.put("s", "text", Stream_TTL="1", **TEXT)
    address = stream_address("s")

    async def is_erased() -> bool:
        return await store_of(silo).state(address) is None

    await eventually("its rows are gone from the store", is_erased)
    assert (await gateway.put("s", "anew", **TEXT)).status == 201


async def test_a_name_whose_stream_has_just_expired_can_be_used_at_once(gateway: Gateway) -> None:
    await gateway.put("s", "old", Stream_Expires_At="2001-01-01T00:00:00Z", **TEXT)
    assert (await gateway.put("s", "new", **TEXT)).status == 201
    assert (await gateway.get("s")).body == b"new"


# -- live reads ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forked", [False, True])
async def test_live_readers_are_told_when_the_stream_is_deleted(gateway: Gateway, forked: bool) -> None:
    await gateway.put("s", "text", **TEXT)
    if forked:
        await gateway.put("fork", Stream_Forked_From="/v1/stream/s")
    tail = (await gateway.get("s")).next_offset
    async with gateway.events("s", f"offset={tail}") as events:
        assert await anext(events)
        await gateway.delete("s")
        async with asyncio.timeout(10):
            assert [event async for event in events] == []


async def test_leaving_silos_let_live_readers_go(silo: Silo, gateway: Gateway) -> None:
    await gateway.put("s", "text", **TEXT)
    async with gateway.events("s", "offset=now") as events:
        assert (await anext(events))[0] == "control"
        stopping = asyncio.create_task(silo.stop())
        async with asyncio.timeout(10):
            assert [event async for event in events] == []
        await stopping


async def test_appends_that_are_sent_again_by_the_runtime_are_appended_once(silo: Silo) -> None:
    """The id of a message makes a repeat of it harmless, also without producer headers."""
    stream = Stream.ref("s").options(idempotency_key="k")
    await Stream.ref("s").create(Creation("s", content_type="text/plain"))
    write = Write(b"once", "text/plain")
    for [outcome] in [await stream.append([write]), await stream.append([write])]:
        assert outcome.next == 1


async def test_producers_that_come_and_go_leave_the_stream_small(silo: Silo, gateway: Gateway) -> None:
    await gateway.put("s", "", Content_Type="text/plain")

    async def write(number: int) -> int:
        producer = {"Producer_Id": f"{number}{'x' * 900}", "Producer_Epoch": "0", "Producer_Seq": "0"}
        return (await gateway.post("s", f"{number},", Content_Type="text/plain", **producer)).status

    assert {await write(number) for number in range(150)} == {200}
    assert {await write(number) for number in range(150)} == {204}  # they are known all the same
    silo.runtime.activations[stream_address("s")].request_deactivation()
    assert {await write(number) for number in (0, 75, 149)} == {204}
    state = await silo.runtime.store.state(stream_address("s"))
    assert state is not None
    assert len(state) < 2000
    assert (await gateway.get("s")).body == b"".join(b"%d," % number for number in range(150))
