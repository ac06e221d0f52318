"""Opening, using and losing links between two transports."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from actors.envelope import Reply
from actors.ports import Transport
from cluster.transport import Credentials, GrpcTransport, LinkRefused, WrongCluster, WrongSilo
from tests.cluster.waiting import eventually

_conforms: Callable[..., Transport] = GrpcTransport  # a type checker compares the two


async def test_envelopes_arrive_in_order_and_in_batches(house: Any, request_of: Any) -> None:
    a, replies = await house.silo("n1.1")
    _, requests = await house.silo("n2.1")
    requests.echo = True
    link = await a.connect("n2.1")
    for number in range(5000):
        link.send(request_of(number))
    await replies.until_count(5000)
    assert requests.ids == list(range(5000))
    assert replies.ids == list(range(5000))
    assert len(requests.batches) < 100, "what was queued together must leave together"
    assert all(isinstance(reply, Reply) for reply in replies.envelopes)


async def test_both_sides_use_the_one_link(house: Any, request_of: Any) -> None:
    a, at_a = await house.silo("n1.1")
    b, at_b = await house.silo("n2.1")
    link = await a.connect("n2.1")
    assert a.link("n2.1") is link
    assert await a.connect("n2.1") is link
    assert link.peer == "n2.1"
    assert link.trusted
    link.send(request_of(1))
    await at_b.until_count(1)
    back = b.link("n1.1")
    assert back is at_b.batches[0][0]
    assert await b.connect("n1.1") is back
    assert len(b.links) == 1
    back.send(request_of(2))
    await at_a.until_count(1)


async def test_concurrent_connects_share_one_dial(house: Any) -> None:
    a, _ = await house.silo("n1.1")
    b, _ = await house.silo("n2.1")
    links = await asyncio.gather(*(a.connect("n2.1") for _ in range(50)))
    assert len(set(links)) == 1
    assert len(a.links) == 1
    await a.close()
    await eventually("the other side has ended it, too", lambda: not b.links)


async def test_a_cancelled_connect_leaves_the_dial_to_the_others(house: Any) -> None:
    a, _ = await house.silo("n1.1")
    await house.silo("n2.1")
    first, second = asyncio.create_task(a.connect("n2.1")), asyncio.create_task(a.connect("n2.1"))
    await asyncio.sleep(0)
    first.cancel()
    assert not (await second).closed
    assert first.cancelled()


async def test_simultaneous_dials_leave_each_sender_on_its_first_link(house: Any, request_of: Any) -> None:
    for attempt in range(5):
        a, at_a = await house.silo(f"a{attempt}.1")
        b, at_b = await house.silo(f"b{attempt}.1")
        from_a, from_b = await asyncio.gather(a.connect(b.name), b.connect(a.name))
        for number in range(100):
            from_a.send(request_of(number))
            from_b.send(request_of(number))
            await asyncio.sleep(0)
            assert a.link(b.name) is from_a
            assert b.link(a.name) is from_b
        await asyncio.gather(at_a.until_count(100), at_b.until_count(100))
        assert at_a.ids == at_b.ids == list(range(100))
        assert not at_a.closed
        assert not at_b.closed


async def test_a_client_finds_out_whom_it_dialled_and_gets_answers(house: Any, request_of: Any) -> None:
    silo, at_silo = await house.silo("n1.7")
    at_silo.echo = True
    client, at_client = house.client("client-x")
    link = await client.connect_to(house.endpoints["n1.7"])
    assert link.peer == "n1.7"
    link.send(request_of(1))
    await at_client.until_count(1)
    assert at_silo.batches[0][0].peer == "client-x"
    assert silo.link("client-x") is at_silo.batches[0][0]
    again = await client.connect_to(house.endpoints["n1.7"])
    assert again is link
    assert await client.connect("n1.7") is link
    assert len(silo.links) == 1


async def test_after_a_close_a_new_link_is_dialled(house: Any, request_of: Any) -> None:
    a, at_a = await house.silo("n1.1")
    b, _ = await house.silo("n2.1")
    old = await a.connect("n2.1")
    await b.close()
    await at_a.until(lambda: bool(at_a.closed))
    assert old.closed
    assert at_a.closed == [(old, [])]
    assert a.link("n2.1") is None
    old.send(request_of(1))
    with pytest.raises(ConnectionRefusedError, match="n2.1"):
        await a.connect("n2.1")
    _, at_b = await house.silo("n2.1")
    new = await a.connect("n2.1")
    new.send(request_of(2))
    await at_b.until_count(1)
    assert at_b.ids == [2]
    assert len(at_a.closed) == 1


async def test_close_sends_what_is_queued(house: Any, request_of: Any) -> None:
    a, at_a = await house.silo("n1.1")
    b, at_b = await house.silo("n2.1")
    link = await a.connect("n2.1")
    link.send(request_of(0, address="large/1", size=8_000_000))
    for number in range(1, 3000):
        link.send(request_of(number))
    await a.close()
    await at_b.until_count(3000)
    assert sorted(at_b.ids) == list(range(3000))
    assert at_a.closed == [(link, [])]
    await at_b.until(lambda: bool(at_b.closed))
    with pytest.raises(ConnectionError, match="closing"):
        await a.connect("n2.1")
    # The accepting side flushes as well.
    c, at_c = house.client("client-x")
    (await c.connect("n2.1")).send(request_of(1))
    await at_b.until_count(3001)
    for number in range(3000):
        b.link("client-x").send(Reply(number, b""))
    await b.close()
    assert at_c.ids == list(range(3000))


async def test_an_unknown_silo_is_a_connection_error(house: Any) -> None:
    a, _ = await house.silo("n1.1")
    with pytest.raises(ConnectionError, match="n3.1: its endpoint is not known"):
        await a.connect("n3.1")
    with pytest.raises(ConnectionError, match="itself"):
        await a.connect("n1.1")


async def test_a_reused_port_is_noticed(house: Any, caplog: pytest.LogCaptureFixture) -> None:
    a, at_a = await house.silo("n1.1")
    await house.silo("n2.2")
    house.endpoints["n2.1"] = house.endpoints["n2.2"]
    with pytest.raises(WrongSilo, match="'n2.2' listens here, not 'n2.1'"):
        await a.connect("n2.1")
    assert sum("'n2.2' listens here" in record.message for record in caplog.records) == 1
    assert not (await a.connect("n2.2")).closed
    assert not at_a.closed


async def test_another_cluster_is_refused(house: Any) -> None:
    a, _ = await house.silo("n1.1", cluster="blue")
    await house.silo("n2.1", cluster="green")
    with pytest.raises(WrongCluster, match="'green'.*'blue'"):
        await a.connect("n2.1")
    with pytest.raises(WrongCluster):
        await a.connect_to(house.endpoints["n2.1"])


async def test_an_id_that_dials_itself_is_refused(house: Any) -> None:
    await house.silo("n1.1")
    twin, _ = house.client("n1.1")
    with pytest.raises(LinkRefused):
        await twin.connect_to(house.endpoints["n1.1"])


async def test_a_silent_endpoint_is_given_up_in_time(house: Any) -> None:
    server = socket.create_server(("127.0.0.1", 0))  # nobody accepts
    host, port = server.getsockname()
    a, _ = await house.silo("n1.1", connect_timeout=0.3)
    house.endpoints["n2.1"] = f"{host}:{port}"
    with pytest.raises(ConnectionError, match="n2.1"):
        await a.connect("n2.1")
    closing = asyncio.create_task(a.connect("n2.1"))
    await asyncio.sleep(0)
    await a.close()
    with pytest.raises(ConnectionError):
        await closing
    server.close()


async def test_nobody_waits_for_an_answer_of_a_silo_that_is_gone(house: Any) -> None:
    """A host that vanished refuses nothing. That its lease has ended is news enough."""
    with socket.create_server(("127.0.0.1", 0)) as server:  # nobody accepts
        host, port = server.getsockname()
        a, _ = await house.silo("n1.1", connect_timeout=3600)
        house.endpoints["n2.1"] = f"{host}:{port}"
        dialling = [asyncio.create_task(a.connect("n2.1")) for _ in range(2)]
        await asyncio.sleep(0)
        dialling[0].cancel()
        a.give_up("n2.1", "its lease has ended")
        with pytest.raises(asyncio.CancelledError):
            await dialling[0]
        with pytest.raises(ConnectionError, match=r"n2\.1: it is no longer a member"):
            await dialling[1]


async def test_listening(house: Any, request_of: Any) -> None:
    a, _ = house.client("n1.1")
    with pytest.raises(ValueError, match="credentials"):
        await a.listen("0.0.0.0:0")
    bound = await a.listen("127.0.0.1:0")
    with pytest.raises(RuntimeError):
        await a.listen("127.0.0.1:0")
    b, _ = house.client("n2.1")
    with pytest.raises(OSError, match=bound):
        await b.listen(bound)
    c, at_c = house.client("n3.1", insecure=True)
    port = (await c.listen("0.0.0.0:0")).rpartition(":")[2]
    link = await b.connect_to(f"127.0.0.1:{port}")
    assert link.trusted
    link.send(request_of(1))
    await at_c.until_count(1)
    assert not at_c.batches[0][0].trusted
    with pytest.raises(ValueError, match="window"):
        GrpcTransport(
            name="x", cluster="c", handler=at_c, endpoints=lambda _: None, credentials=Credentials(), window=1000
        )
