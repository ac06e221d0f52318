"""Large messages over a real link."""

from typing import Any

from actors.envelope import End, Item


async def test_64_mib_pass_while_small_ones_come_and_go(house: Any, request_of: Any) -> None:
    a, at_a = await house.silo("n1.1")
    _, at_b = await house.silo("n2.1")
    at_b.echo = True
    link = await a.connect("n2.1")
    size = 64 * 1024 * 1024
    link.send(request_of(0, address="large/1", size=size))
    for number in range(1, 21):
        link.send(request_of(number, address="small/1"))
        await at_a.until_count(number)
    assert at_b.ids == list(range(1, 21)), "20 round trips must fit into the journey of the large one"
    await at_a.until_count(21)
    assert at_b.ids[-1] == 0
    assert len(at_b.envelopes[-1].payload) == size
    assert len(at_a.envelopes[-1].payload) == size


async def test_two_large_ones_share_the_way(house: Any, request_of: Any) -> None:
    a, _ = await house.silo("n1.1")
    _, at_b = await house.silo("n2.1")
    link = await a.connect("n2.1")
    link.send(request_of(0, address="large/1", size=20_000_000))
    link.send(request_of(1, address="large/2", size=2_000_000))
    await at_b.until_count(2)
    assert at_b.ids == [1, 0]


async def test_the_same_address_and_the_same_stream_keep_their_order(house: Any, request_of: Any) -> None:
    a, _ = await house.silo("n1.1")
    _, at_b = await house.silo("n2.1")
    link = await a.connect("n2.1")
    link.send(request_of(0, address="a/1", size=3_000_000))
    link.send(request_of(1, address="a/1"))
    link.send(Item(100, b"0" * 2_000_000))
    link.send(Item(100, b"1"))
    link.send(End(100))
    link.send(request_of(2, address="a/2"))
    await at_b.until_count(6)
    assert [number for number in at_b.ids if number in (0, 1)] == [0, 1]
    stream = [envelope for envelope in at_b.envelopes if envelope.id == 100]
    assert [type(envelope) for envelope in stream] == [Item, Item, End]
    assert len(stream[0].payload) == 2_000_000
    assert at_b.ids[0] == 2
