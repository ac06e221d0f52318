"""Bytes that no peer of ours would send: they end their own connection and nothing else."""

import asyncio
import contextlib
import random
from typing import Any

import pytest

from cluster.transport.frame import FRAME_BYTES, MIB
from cluster.transport.link_pb2 import Chunk, Credit, Frame, Hello, Open


@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000,
        b"\x00" * 1000,
        b"\x16",
    ],
)
async def test_raw_junk_on_the_port(house: Any, request_of: Any, junk: bytes) -> None:
    a, at_a = await house.silo("n1.1")
    _, at_b = await house.silo("n2.1")
    link = await a.connect("n2.1")
    host, _, port = house.endpoints["n2.1"].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(junk)
    writer.write_eof()
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionError):
            await reader.read()
    writer.close()
    link.send(request_of(1))
    await at_b.until_count(1)
    assert not at_a.closed


HELLO = Hello(version=1, oldest_version=1, cluster="test", id="n9.1", window=MIB, max_payload=MIB, nonce=bytes(16))


def hello(**changes: Any) -> bytes:
    changed = Hello()
    changed.CopyFrom(HELLO)
    for name, value in changes.items():
        setattr(changed, name, value)
    return Frame(hello=changed).SerializeToString()


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"\xff\xff\xff",
        random.Random(1).randbytes(5000),
        Frame(batch=b"\x90").SerializeToString(),
        Frame(open=Open()).SerializeToString(),
        hello(id=""),
        hello(id="x" * 1000),
        hello(nonce=b""),
        hello(window=0),
        hello(version=0),
        hello(version=99, oldest_version=99),
        hello(expected="n3.1"),
    ],
)
async def test_a_bad_first_frame_is_refused(house: Any, first: bytes) -> None:
    a, at_a = await house.silo("n1.1")
    peer = house.peer("n1.1")
    await peer.write(first)
    frame = await peer.read()
    assert frame is not None
    assert frame.refused.text
    assert await peer.read() is None
    assert not a.links
    assert not at_a.closed


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\xff\xff\xff",
        Frame(hello=HELLO).SerializeToString(),
        Frame(open=Open()).SerializeToString(),
        Frame(credit=Credit(bytes=MIB)).SerializeToString(),
        Frame(batch=b"junk").SerializeToString(),
        Frame(batch=b"\x91\x92\x02\x01").SerializeToString(),  # a Reply without its payload
        Frame(batch=b"\x91\x93\x02\xa1x\xc4\x00").SerializeToString(),  # a Reply whose id is text
        Frame(batch=b"\x91\x91\x63").SerializeToString(),  # an unknown tag, and no id
        Frame(batch=b"\x91" * 100_000).SerializeToString(),
        Frame(chunk=Chunk(id=1, data=b"x")).SerializeToString(),
        Frame(chunk=Chunk(id=1, total=1 << 60, data=b"x")).SerializeToString(),
        Frame(chunk=Chunk(id=1, total=1, data=b"\xc1")).SerializeToString(),
        bytes(FRAME_BYTES + 1),
    ],
)
async def test_a_bad_frame_closes_its_link_only(house: Any, request_of: Any, bad: bytes) -> None:
    a, at_a = await house.silo("n1.1")
    b, at_b = await house.silo("n2.1")
    link = await b.connect("n1.1")
    peer = await house.scripted("n1.1")
    await peer.write(Frame(batch=b"\x91\x92\x04\x07"))
    await at_a.until_count(1)
    await peer.write(bad)
    await at_a.until(lambda: bool(at_a.closed))
    assert [closed.peer for closed, _ in at_a.closed] == ["n9.1"]
    assert a.link("n9.1") is None
    link.send(request_of(1))
    await at_a.until_count(2)
    assert not at_b.closed


async def test_a_handler_that_raises_loses_only_its_batch(house: Any, request_of: Any) -> None:
    _, at_b = await house.silo("n2.1")
    original, fail = at_b.on_envelopes, iter([True])

    def failing(source: Any, envelopes: Any) -> None:
        original(source, envelopes)
        if next(fail, False):
            raise RuntimeError("a bug in the handler")

    at_b.on_envelopes = failing
    a, _ = await house.silo("n1.1")
    link = await a.connect("n2.1")
    link.send(request_of(1))
    await at_b.until_count(1)
    link.send(request_of(2))
    await at_b.until_count(2)
    assert not link.closed


async def test_a_dial_that_says_hello_and_no_more_is_dropped(house: Any) -> None:
    a, _ = await house.silo("n1.1", connect_timeout=0.2)
    peer = house.peer("n1.1")
    await peer.write(hello())
    frame = await peer.read()
    assert frame is not None
    assert frame.HasField("hello")
    assert await peer.read() is None
    assert not a.links


async def test_a_dial_that_thinks_better_of_it_leaves_no_trace(house: Any) -> None:
    a, at_a = await house.silo("n1.1")
    peer = house.peer("n1.1")
    await peer.write(hello())
    assert await peer.read() is not None
    await peer.stream.done_writing()
    assert await peer.read() is None
    assert not a.links
    assert not at_a.closed
