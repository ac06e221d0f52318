"""A peer that does not keep up: bounded memory, refusals, recovery, and what is reported as unsent."""

from typing import Any

import pytest

from actors.envelope import Reply
from actors.errors import MailboxFull
from cluster.transport.frame import KIB, MIB, decode_batch
from cluster.transport.link_pb2 import Credit, Frame


async def test_a_peer_that_returns_no_credit_fills_the_queue_up_to_its_bound(house: Any, request_of: Any) -> None:
    a, at_a = await house.silo("n1.1", max_queued=4 * MIB)
    peer = await house.scripted("n1.1", window=MIB)
    await peer.write(Frame(batch=b"\x91\x92\x04\x01"))  # Accepted(1): from here on the link is known
    await at_a.until_count(1)
    link = a.link("n9.1")
    sent = 0
    with pytest.raises(MailboxFull, match="n9.1"):
        for sent in range(100_000):
            link.send(request_of(sent, size=KIB))
    assert 4 * MIB < link.waiting_bytes < 5 * MIB
    link.send(Reply(1, b"never refused"))

    arrived = 0
    received: list[int] = []
    while arrived + 300 * KIB < MIB:
        frame = await peer.read()
        assert frame is not None
        arrived += len(frame.batch)
        received += [envelope.id for envelope in decode_batch(frame.batch) if not isinstance(envelope, Reply)]
    assert arrived <= MIB
    while len(received) < sent:
        await peer.write(Frame(credit=Credit(bytes=arrived)))
        arrived = 0
        while arrived < MIB // 2 and len(received) < sent:
            frame = await peer.read()
            assert frame is not None
            arrived += len(frame.batch)
            received += [envelope.id for envelope in decode_batch(frame.batch) if not isinstance(envelope, Reply)]
    assert received == list(range(sent))
    link.send(request_of(sent))


async def test_what_never_left_is_reported_in_order(house: Any, request_of: Any) -> None:
    a, at_a = await house.silo("n1.1")
    peer = await house.scripted("n1.1", window=MIB)
    await peer.write(Frame(batch=b"\x91\x92\x04\x01"))
    await at_a.until_count(1)
    link = a.link("n9.1")
    link.send(request_of(0, address="large/1", size=3 * MIB))
    link.send(request_of(1, address="large/1"))
    for number in range(2, 3000):
        link.send(request_of(number, size=KIB))
    received: list[int] = []
    arrived = 0
    while arrived + 300 * KIB < MIB:
        frame = await peer.read()
        assert frame is not None
        if frame.HasField("batch"):
            received += [envelope.id for envelope in decode_batch(frame.batch)]
            arrived += len(frame.batch)
        else:
            arrived += len(frame.chunk.data)
    await peer.hang_up()
    await at_a.until(lambda: bool(at_a.closed))
    [(closed, unsent)] = at_a.closed
    assert closed is link
    unsent_ids = [envelope.id for envelope in unsent]
    assert unsent_ids[:2] == [0, 1]
    assert unsent_ids == sorted(unsent_ids)
    assert not set(received) & set(unsent_ids)
    link.send(request_of(9999))
    assert len(at_a.closed) == 1


async def test_more_than_the_credit_closes_the_link(house: Any) -> None:
    _, at_a = await house.silo("n1.1", window=64 * KIB)
    peer = await house.scripted("n1.1")
    await peer.write(Frame(batch=bytes(65 * KIB)))
    await at_a.until(lambda: bool(at_a.closed))
    assert "credit" in at_a.closed[0][0].reason
    while await peer.read() is not None:
        pass
