"""The end of a link in good order: both sides say goodbye, and nothing that was on its way stays without an answer."""

import asyncio
from typing import Any

import pytest

from actors.envelope import Reply
from cluster.transport.frame import batch_frame, decode_batch, encode
from cluster.transport.link_pb2 import Bye, Frame
from tests.cluster.transport.conftest import PATIENCE


async def test_goodbye_is_answered_and_answers_are_read_after_it(house: Any) -> None:
    a, at_a = await house.silo("n1.1")
    peer = await house.scripted("n1.1")
    await peer.write(Frame(bye=Bye()))
    await peer.write(Frame(batch=b"\x91\x92\x04\x01"))
    await at_a.until_count(1)
    assert a.link("n9.1") is None, "nothing new is sent to who has said goodbye"
    assert (await peer.read()).WhichOneof("kind") == "bye"
    assert not at_a.closed
    await peer.stream.done_writing()
    await at_a.until(lambda: bool(at_a.closed))
    assert await peer.read() is None


async def test_what_was_on_its_way_when_a_silo_closes_is_answered(house: Any, request_of: Any) -> None:
    """The other side may have sent it before it read the goodbye; it must not have to guess what became of it."""
    a, at_a = await house.silo("n1.1", close_timeout=PATIENCE)
    at_a.echo = True
    peer = await house.scripted("n1.1")
    await peer.write(batch_frame(encode([request_of(6)])))
    assert decode_batch((await peer.read()).batch) == [Reply(6, request_of(6).payload)]
    closing = asyncio.create_task(a.close())
    assert (await peer.read()).WhichOneof("kind") == "bye"
    await peer.write(batch_frame(encode([request_of(7)])))
    answer = await peer.read()
    assert decode_batch(answer.batch) == [Reply(7, request_of(7).payload)]
    await peer.write(Frame(bye=Bye()))
    assert await peer.read() is None
    await closing


async def test_clients_are_sent_away_and_silos_are_not(house: Any, request_of: Any) -> None:
    a, at_a = await house.silo("n1.1")
    at_a.echo = True
    client, at_client = house.client("client.1")
    link = await client.connect_to(house.endpoints["n1.1"])
    silo, _ = await house.silo("n2.1")
    await silo.connect("n1.1")

    a.retire()

    link.send(request_of(1))  # it may have been under way
    await at_client.until_count(1)
    assert client.link("n1.1") is None
    assert not link.closed
    assert silo.link("n1.1") is not None
    with pytest.raises(ConnectionError, match="n1.1 takes no more clients"):
        await client.connect_to(house.endpoints["n1.1"])
    third, _ = await house.silo("n3.1")
    await third.connect("n1.1")


async def test_a_silo_that_closes_refuses_who_dials_it(house: Any, request_of: Any) -> None:
    """A link that opens and ends at once would have taken what was sent on it, for all that its sender knows."""
    a, at_a = await house.silo("n1.1", close_timeout=PATIENCE)
    peer = await house.scripted("n1.1")
    await peer.write(batch_frame(encode([request_of(6)])))
    await at_a.until_count(1)
    closing = asyncio.create_task(a.close())
    assert (await peer.read()).WhichOneof("kind") == "bye"
    silo, _ = await house.silo("n2.1")
    with pytest.raises(ConnectionError, match="n1.1 takes no more links"):
        await silo.connect("n1.1")
    await peer.write(Frame(bye=Bye()))
    await closing


async def test_a_silo_that_ends_as_in_a_crash_says_and_answers_nothing(house: Any, request_of: Any) -> None:
    a, at_a = await house.silo("n1.1")
    at_a.echo = True
    peer = await house.scripted("n1.1")
    await peer.write(batch_frame(encode([request_of(6)])))
    assert decode_batch((await peer.read()).batch) == [Reply(6, request_of(6).payload)]
    await a.close(at_once=True)
    assert await peer.read() is None
