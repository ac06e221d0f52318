"""What the two sides of a link make of each other when one of them is newer."""

from typing import Any

import msgspec
import pytest

from actors.envelope import FIRST_ANSWER, Failure, Mode, Request
from cluster.transport import frame
from cluster.transport.frame import MIB
from cluster.transport.incoming import Incoming
from cluster.transport.link_pb2 import ROLE_SILO, Chunk, Frame, Hello, Open

encode = msgspec.msgpack.Encoder().encode


async def answers_on(peer: Any) -> list[Failure]:
    """The next batch that the peer gets, which has failures alone."""
    frame = await peer.read()
    return msgspec.msgpack.decode(frame.batch, type=list[Failure])


@pytest.mark.parametrize(("newest", "oldest", "spoken"), [(1, 1, 1), (2, 1, 2), (frame.VERSION + 7, 1, frame.VERSION)])
async def test_a_link_has_the_newest_version_that_both_sides_speak(
    house: Any, newest: int, oldest: int, spoken: int
) -> None:
    _, at_a = await house.silo("n1.1")
    peer = house.peer("n1.1")
    hello = Hello(version=newest, oldest_version=oldest, cluster="test", id="n9.1", role=ROLE_SILO)
    hello.window, hello.max_payload, hello.nonce = MIB, MIB, bytes(16)
    await peer.write(Frame(hello=hello))
    answer = await peer.read()
    assert (answer.hello.version, answer.hello.oldest_version) == (frame.VERSION, frame.OLDEST_VERSION)
    await peer.write(Frame(open=Open()))
    await peer.write(Frame(batch=b"\x91\x92\x04\x07"))
    await at_a.until_count(1)
    assert at_a.batches[0][0].version == spoken


async def test_both_sides_know_the_version(house: Any, request_of: Any) -> None:
    _, at_b = await house.silo("n2.1")
    a, _ = await house.silo("n1.1")
    link = await a.connect("n2.1")
    link.send(request_of(1))
    await at_b.until_count(1)
    assert (link.version, at_b.batches[0][0].version) == (frame.VERSION, frame.VERSION)


async def test_who_sends_an_unknown_kind_is_told_and_the_rest_of_its_batch_arrives(house: Any) -> None:
    _, at_a = await house.silo("n1.1")
    peer = await house.scripted("n1.1")
    await peer.write(Frame(batch=encode([[4, 7], [FIRST_ANSWER - 1, 21, "whatever"], [4, 8]])))
    await at_a.until_count(2)
    assert at_a.ids == [7, 8]
    (answer,) = await answers_on(peer)
    assert (answer.id, answer.error) == (21, "Rejected")
    assert f"does not know envelopes of kind {FIRST_ANSWER - 1}" in answer.text
    assert not at_a.closed


async def test_an_answer_of_an_unknown_kind_fails_the_call_that_waits_for_it(house: Any) -> None:
    _, at_a = await house.silo("n1.1")
    peer = await house.scripted("n1.1")
    await peer.write(Frame(batch=encode([[4, 7], [FIRST_ANSWER, 21], [4, 8]])))
    await at_a.until_count(3)
    assert [type(envelope).__name__ for envelope in at_a.envelopes] == ["Accepted", "Failure", "Accepted"]
    assert at_a.ids == [7, 21, 8]


async def test_an_unknown_kind_that_is_large_is_answered_too(house: Any) -> None:
    _, at_a = await house.silo("n1.1")
    peer = await house.scripted("n1.1")
    data = encode([FIRST_ANSWER - 1, 21, bytes(1000)])
    await peer.write(Frame(chunk=Chunk(id=1, total=len(data), data=data)))
    assert [answer.id for answer in await answers_on(peer)] == [21]
    assert not at_a.closed


def test_fields_that_a_newer_side_has_added_are_passed_over() -> None:
    incoming = Incoming(window=MIB, max_payload=MIB)
    request = Request(1, "a-1", "", b"\x90", Mode.ASK, 0, "m1")
    fields = [*msgspec.msgpack.decode(encode(request)), {"a field": "of a newer release"}, 7]
    assert incoming.batch(encode([fields, [4, 7, True, "m2", "more"]]))[0] == request


def test_fields_that_an_older_side_does_not_know_have_their_defaults() -> None:
    incoming = Incoming(window=MIB, max_payload=MIB)
    (request,) = incoming.batch(encode([[1, 1, "a-1", "", b"\x90", 0, 0.0, "m1"]]))
    assert request == Request(1, "a-1", "", b"\x90", Mode.ASK, 0, "m1")
