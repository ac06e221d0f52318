import random

import pytest

from cluster.etcd import (
    Compare,
    DeleteResult,
    EtcdClient,
    EtcdRejected,
    KeyValue,
    LeaseNotFound,
    Op,
    PutResult,
    RangeResult,
    Relation,
    TxnResult,
)
from cluster.etcd import etcd_pb2 as pb
from cluster.etcd.kv import end_of
from cluster.etcd.method import Method


async def test_put_get_delete(client: EtcdClient) -> None:
    created = await client.put("/a", b"one")
    changed = await client.put("/a", b"two")
    assert changed == created + 1
    assert await client.get("/a") == RangeResult(changed, [KeyValue("/a", b"two", created, changed, 2, 0)])
    assert await client.delete("/a") == 1
    assert await client.delete("/a") == 0
    assert await client.get("/a") == RangeResult(changed + 1, [])


async def test_prefix_takes_what_begins_so_and_nothing_else(client: EtcdClient) -> None:
    names = ["/p", "/p/", "/p/1", "/p/\U0010ffff", "/p0", "/q/1"]
    for name in names:
        await client.put(name, b"")
    assert [kv.key for kv in (await client.get("/p/", prefix=True)).kvs] == names[1:4]
    assert [kv.key for kv in (await client.get("", prefix=True)).kvs] == names
    assert await client.delete("/p/", prefix=True) == 3
    assert [kv.key for kv in (await client.get("", prefix=True)).kvs] == ["/p", "/p0", "/q/1"]


def test_the_end_of_a_prefix() -> None:
    assert end_of("a", prefix=False) == b""
    assert end_of("ab", prefix=True) == b"ac"
    assert end_of("a\udcff\udcff", prefix=True) == b"b"
    assert end_of("\udcff", prefix=True) == b"\0"
    assert end_of("", prefix=True) == b"\0"


async def test_keys_of_others_that_are_not_utf8_survive(client: EtcdClient) -> None:
    name = b"/raw/\xff\xfe".decode("utf-8", "surrogateescape")
    await client.put(name, b"\xff")
    (kv,) = (await client.get("/raw/", prefix=True)).kvs
    assert (kv.key, kv.value) == (name, b"\xff")
    assert await client.delete(kv.key) == 1


async def test_an_empty_key_is_refused_before_etcd_sees_it(client: EtcdClient) -> None:
    for attempt in (client.get(""), client.put("", b""), client.delete("")):
        with pytest.raises(ValueError, match="must not be empty"):
            await attempt


async def test_conditions(client: EtcdClient) -> None:
    lease = await client.grant(60)
    await client.put("/c", b"first")
    revision = await client.put("/c", b"m", lease=lease.id)
    (kv,) = (await client.get("/c")).kvs

    async def holds(*conditions: Compare) -> bool:
        return (await client.txn(conditions, [])).succeeded

    assert await holds(Compare.exists("/c"), Compare.absent("/none"))
    assert not await holds(Compare.absent("/c"))
    assert not await holds(Compare.exists("/none"))
    assert not await holds(Compare.value("/none", b""))

    true_of_two: dict[Relation, int] = {"==": 2, "!=": 3, "<": 3, ">": 1}
    for relation, other in true_of_two.items():
        offset = other - 2
        assert await holds(
            Compare.create_revision("/c", kv.create_revision + offset, relation=relation),
            Compare.mod_revision("/c", revision + offset, relation=relation),
            Compare.version("/c", other, relation=relation),
            Compare.value("/c", bytes([ord("m") + offset]), relation=relation),
            Compare.lease("/c", lease.id + offset, relation=relation),
        ), relation
    for wrong in (
        Compare.create_revision("/c", revision),
        Compare.mod_revision("/c", kv.create_revision),
        Compare.version("/c", 1),
        Compare.value("/c", b"n"),
        Compare.lease("/c", 0),
    ):
        assert not await holds(wrong), wrong.message


async def test_transaction_branches_and_results(client: EtcdClient) -> None:
    await client.put("/t/old", b"1")
    then = [Op.put("/t/new", b"2"), Op.get("/t/", prefix=True), Op.delete("/t/o", prefix=True)]
    orelse = [Op.get("/t/new")]
    first = await client.txn([Compare.absent("/t/new")], then, orelse)
    assert first.succeeded
    put, got, deleted = first.responses
    assert put == PutResult(first.revision)
    assert isinstance(got, RangeResult)
    assert [kv.key for kv in got.kvs] == ["/t/new", "/t/old"]
    assert deleted == DeleteResult(first.revision, 1)

    await client.put("/t/new", b"3")
    second = await client.txn([Compare.absent("/t/new")], then, orelse)
    assert not second.succeeded
    (got,) = second.responses
    assert isinstance(got, RangeResult)
    assert [kv.value for kv in got.kvs] == [b"3"]


async def test_a_hundred_nested_transactions_succeed_and_fail_alone(client: EtcdClient) -> None:
    taken = set(random.Random(1).sample(range(100), 30))
    for i in taken:
        await client.put(f"/claim/{i}", b"other")
    claims = [
        Op.txn(
            [Compare.absent(f"/claim/{i}")],
            [Op.put(f"/claim/{i}", b"mine")],
            [Op.get(f"/claim/{i}")],
        )
        for i in range(100)
    ]
    result = await client.txn([Compare.absent("/gone")], claims)
    assert result.succeeded
    for i, nested in enumerate(result.responses):
        assert isinstance(nested, TxnResult)
        assert nested.revision == result.revision
        assert nested.succeeded == (i not in taken), i
        (answer,) = nested.responses
        if i in taken:
            assert isinstance(answer, RangeResult)
            assert [kv.value for kv in answer.kvs] == [b"other"]
        else:
            assert answer == PutResult(result.revision)
    owners = {kv.key: kv.value for kv in (await client.get("/claim/", prefix=True)).kvs}
    assert owners == {f"/claim/{i}": b"other" if i in taken else b"mine" for i in range(100)}


async def test_nested_conditions_see_the_state_before_the_transaction(client: EtcdClient) -> None:
    result = await client.txn([], [Op.put("/x", b""), Op.txn([Compare.absent("/x")], [Op.get("/x")])])
    nested = result.responses[1]
    assert isinstance(nested, TxnResult)
    assert nested.succeeded


async def test_what_etcd_refuses_says_why_and_takes_no_effect(client: EtcdClient) -> None:
    with pytest.raises(EtcdRejected, match="duplicate key"):
        await client.txn([], [Op.put("/d", b"1"), Op.put("/d", b"2")])
    with pytest.raises(EtcdRejected, match="too many operations"):
        await client.txn([], [Op.put(f"/d/{i}", b"") for i in range(129)])
    for size in (1_600_000, 4_000_000):  # refused by etcd, and by its gRPC
        with pytest.raises(EtcdRejected, match="--max-request-bytes"):
            await client.put("/d", bytes(size))
    with pytest.raises(LeaseNotFound, match="grant a new one"):
        await client.put("/d", b"", lease=12345)
    assert (await client.get("/d", prefix=True)).kvs == []


async def test_large_ranges_come_whole_and_from_one_revision(client: EtcdClient) -> None:
    sizes = [30_000] * 100 + [10] * 1_400 + [500_000] * 8  # 7 MB: over gRPC's usual 4 MiB
    for start in range(0, len(sizes), 25):
        chunk = range(start, min(start + 25, len(sizes)))
        await client.txn([], [Op.put(f"/big/{i:05}", bytes(sizes[i])) for i in chunk if sizes[i] < 100_000])
        for i in chunk:
            if sizes[i] >= 100_000:
                await client.put(f"/big/{i:05}", bytes(sizes[i]))
    before = await client.get("/big/", prefix=True)
    assert [len(kv.value) for kv in before.kvs] == sizes

    pages = 0
    read = client._connection.read

    async def disturbed(
        method: Method[pb.RangeRequest, pb.RangeResponse], request: pb.RangeRequest, *, leader: bool = True
    ) -> pb.RangeResponse:
        nonlocal pages
        pages += 1
        assert request.limit > 0
        answer = await read(method, request, leader=leader)
        if pages == 1:
            await client.delete(f"/big/{len(sizes) - 1:05}")
            await client.put("/big/99999", b"new")
        return answer

    client._connection.read = disturbed  # type: ignore[method-assign, assignment]
    assert await client.get("/big/", prefix=True) == before
    assert pages > 2


async def test_a_compaction_under_a_paged_read_starts_it_again(client: EtcdClient) -> None:
    for start in range(0, 1_200, 100):
        await client.txn([], [Op.put(f"/many/{i:05}", b"") for i in range(start, start + 100)])
    read = client._connection.read
    compacted = 0

    async def disturbed(
        method: Method[pb.RangeRequest, pb.RangeResponse], request: pb.RangeRequest, *, leader: bool = True
    ) -> pb.RangeResponse:
        nonlocal compacted
        answer = await read(method, request, leader=leader)
        if not compacted:
            compacted = await client.put("/many/99999", b"")
            await client.compact(compacted)
        return answer

    client._connection.read = disturbed  # type: ignore[method-assign, assignment]
    result = await client.get("/many/", prefix=True)
    assert result.revision == compacted
    assert len(result.kvs) == 1_201


async def test_serializable_reads_answer_too(client: EtcdClient) -> None:
    revision = await client.put("/s", b"1")
    result = await client.get("/s", serializable=True)
    assert (result.revision, [kv.value for kv in result.kvs]) == (revision, [b"1"])
