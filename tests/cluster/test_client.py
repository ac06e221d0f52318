"""Clients: how they find silos, who lets them in, and what they do when their silo dies."""

import asyncio
import time

import pytest

from actors import actor_ref
from actors.errors import ActorError, ClusterUnavailable, NotAuthorized, UnknownActorType
from actors.settings import Settings
from cluster import Client, Credentials, Silo, connect
from cluster.etcd.server import free_ports
from tests.cluster.house import House
from tests.cluster.house_actors import ACTORS, Counter, Diary
from tests.cluster.waiting import eventually


async def test_through_one_silo_all_actors_are_reached(house: House) -> None:
    n1, _, _ = await house.start("n1", "n2", "n3")
    async with connect(n1.grpc, cluster=house.cluster):
        for name in ("n1", "n2", "n3"):
            ref = actor_ref(f"counter-{name}.a")
            assert await ref.where() == name
            assert await ref.add(2) == 2
            receipt = await ref.add.send(3)
            assert receipt.message_id
            await eventually("the one-way message ran", lambda ref=ref: _is(ref.value(), 5))


async def _is(call: object, wanted: object) -> bool:
    return await call == wanted  # type: ignore[misc, no-any-return]


async def test_found_in_etcd(house: House) -> None:
    await house.start("n1", "n2")
    async with connect(etcd=house.server.endpoint, cluster=house.cluster) as client:
        assert await actor_ref("counter-n2.a").where() == "n2"
        assert sorted(member.name for member in await client.members()) == ["n1", "n2"]
        assert await client.placements() == {"counter-n2.a": "n2"}
        assert await client.placements("diary") == {}


async def test_a_record_that_cannot_be_read_hinders_no_client(house: House) -> None:
    await house.start("n1")
    etcd = await house.etcd()
    await etcd.put(house.keys.silo("bad.1"), b"\xffnonsense")
    async with connect(etcd=house.server.endpoint, cluster=house.cluster) as client:
        assert await actor_ref("counter-n1.a").add() == 1
        assert [member.name for member in await client.members()] == ["n1"]
        assert await client.placements() == {"counter-n1.a": "n1"}


async def test_the_first_endpoint_that_answers_is_used(house: House) -> None:
    (n1,) = await house.start("n1")
    nobody = f"127.0.0.1:{free_ports(1)[0]}"
    async with connect([nobody, n1.grpc], cluster=house.cluster):
        assert await actor_ref("counter-n1.a").add() == 1


@pytest.mark.parametrize("by_etcd", [False, True])
async def test_when_its_silo_dies_it_moves_to_another(house: House, by_etcd: bool) -> None:
    n1, n2 = await house.start("n1", "n2", lease_ttl=2)
    first = connect([n1.grpc, n2.grpc], cluster=house.cluster)
    client = connect(etcd=house.server.endpoint, cluster=house.cluster) if by_etcd else first
    async with client:
        assert await actor_ref("counter-n1.a").add(3) == 3
        assert await actor_ref("counter-n2.a").add(4) == 4
        busy = {name: asyncio.create_task(actor_ref(f"counter-{name}.busy").add_slowly(1)) for name in ("n1", "n2")}
        await eventually("both turns run", lambda: _busy(n1, "counter-n1.busy") and _busy(n2, "counter-n2.busy"))
        gateway, other = _gateway(client, n1, n2)

        await gateway.abort()

        held = {"n1": 3, "n2": 4}
        assert await actor_ref(f"counter-{other.name}.a").options(timeout=8).add() == held[other.name] + 1
        started = time.monotonic()
        assert await actor_ref(f"counter-{gateway.name}.a").options(timeout=8).add() == held[gateway.name] + 1
        took = time.monotonic() - started
        assert took < 2 + 3, f"{took:.1f} s with a lease of 2 s"
        # Both went through the silo that died. One turn runs undisturbed, the other runs again: each once, as is seen
        # from what the next call finds.
        for name, task in busy.items():
            ref = actor_ref(f"counter-{name}.busy").options(timeout=8)
            await eventually(f"the turn runs on {other.name}", lambda name=name: _busy(other, f"counter-{name}.busy"))
            await eventually("it has come to its gate", ref.is_slow)
            await ref.finish()
            assert await task == 1
            assert await ref.add() == 2


def _busy(silo: Silo, address: str) -> bool:
    found = silo.runtime.activations.get(address)
    return found is not None and found.busy


def _gateway(client: Client, *silos: Silo) -> tuple[Silo, Silo]:
    assert client._transport is not None
    peer = client._transport.links[0].peer
    first, second = silos
    return (first, second) if first.runtime.directory.silo == peer else (second, first)


async def test_it_knows_other_silos_than_the_one_that_it_was_given(house: House) -> None:
    (n1,) = await house.start("n1")
    async with connect(n1.grpc, cluster=house.cluster) as client:
        (n2,) = await house.start("n2")
        await eventually("the client knows n2", lambda: n2.grpc in client._others)
        await n1.abort()
        assert await actor_ref("counter-n2.a").options(timeout=30).add() == 1


async def test_nothing_listens() -> None:
    nobody = [f"127.0.0.1:{port}" for port in free_ports(2)]
    started = time.monotonic()
    with pytest.raises(ClusterUnavailable, match=f"cannot connect.*{nobody[0]}.*{nobody[1]}"):
        await connect(nobody).__aenter__()
    assert time.monotonic() - started < 8


async def test_etcd_does_not_answer() -> None:
    started = time.monotonic()
    with pytest.raises(ClusterUnavailable, match="etcd did not answer"):
        await connect(etcd=f"http://127.0.0.1:{free_ports(1)[0]}").__aenter__()
    assert time.monotonic() - started < 10


async def test_a_cluster_without_silos(house: House) -> None:
    with pytest.raises(ClusterUnavailable, match=house.cluster):
        await connect(etcd=house.server.endpoint, cluster=house.cluster).__aenter__()


async def test_something_else_listens() -> None:
    async def shrug(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(shrug, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        started = time.monotonic()
        with pytest.raises(ClusterUnavailable, match="cannot connect"):
            await connect(f"127.0.0.1:{port}").__aenter__()
        assert time.monotonic() - started < 8


async def test_calls_after_every_silo_is_gone_fail_in_time(house: House) -> None:
    (n1,) = await house.start("n1")
    settings = Settings(delivery_timeout=1.0)
    async with connect(n1.grpc, cluster=house.cluster, settings=settings):
        assert await actor_ref("counter-n1.a").add() == 1
        await n1.stop()
        started = time.monotonic()
        with pytest.raises(ActorError):
            await actor_ref("counter-n1.a").add()
        with pytest.raises(ClusterUnavailable, match="counter-n1.a"):
            await actor_ref("counter-n1.a").add()
        with pytest.raises(ClusterUnavailable, match="counter-n1.a"):
            await actor_ref("counter-n1.a").options(timeout=0.5).add()
        assert time.monotonic() - started < 15


async def test_tokens(house: House) -> None:
    silo = house.new("n1", credentials=Credentials(token="right"))
    await silo.start()
    async with connect(silo.grpc, cluster=house.cluster, token="right"):
        assert await actor_ref("counter-n1.a").add() == 1
    for options in ({"token": "wrong"}, {}):
        started = time.monotonic()
        with pytest.raises(NotAuthorized):
            await connect(silo.grpc, cluster=house.cluster, **options).__aenter__()  # type: ignore[arg-type]
        assert time.monotonic() - started < 5
    async with connect(silo.grpc, cluster=house.cluster, token="right"):
        assert await actor_ref("counter-n1.a").add() == 2


async def test_a_silo_with_another_token_joins_but_reaches_nobody(house: House) -> None:
    """Membership is etcd's to give; without the token no link is opened and nothing runs."""
    n1 = house.new("n1", credentials=Credentials(token="right"))
    n2 = house.new("n2", credentials=Credentials(token="wrong"))
    await n1.start()
    await n2.start()
    await house.acquainted(n1, n2)
    async with connect(n2.grpc, cluster=house.cluster, token="wrong"):
        with pytest.raises(NotAuthorized):
            await actor_ref("counter-n1.a").options(timeout=3).add()
    assert not n1.runtime.activations


async def test_a_token_and_credentials_are_one_too_many() -> None:
    with pytest.raises(ValueError, match="token or credentials"):
        connect("127.0.0.1:1", token="x", credentials=Credentials(token="x"))


async def test_the_wrong_cluster(house: House) -> None:
    (n1,) = await house.start("n1")
    with pytest.raises(ClusterUnavailable, match=house.cluster):
        await connect(n1.grpc, cluster="elsewhere").__aenter__()


@pytest.mark.parametrize("endpoint", ["", "localhost", "http://127.0.0.1:7400", "127.0.0.1:", ":7400", "h:p"])
def test_endpoints_that_cannot_be_ones(endpoint: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        connect(endpoint)


async def test_endpoints_or_etcd() -> None:
    for wrong in ({}, {"endpoints": "127.0.0.1:1", "etcd": "http://127.0.0.1:2"}):
        with pytest.raises(ValueError, match="endpoints"):
            connect(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="etcd endpoint"):
        await connect(etcd="ftp://nowhere").__aenter__()


async def test_unknown_types_are_refused_with_the_types_of_all_members(house: House) -> None:
    (n1,) = await house.start("n1", actors=[Counter])
    await house.start("n2", actors=[Diary])
    async with connect(n1.grpc, cluster=house.cluster):
        with pytest.raises(UnknownActorType, match=r"tale-1.*known types: counter, diary"):
            await actor_ref("tale-1").ask("hello")
        assert await actor_ref("diary-n1.a").add() == 1, "n1 does not host it, n2 does"
        assert await actor_ref("diary-n1.a").where() == "n2"


async def test_leaving_the_block_ends_what_is_under_way(house: House) -> None:
    (n1,) = await house.start("n1")
    async with connect(n1.grpc, cluster=house.cluster):
        call = asyncio.create_task(actor_ref("counter-n1.a").add_slowly(1))
        await eventually("the turn runs", lambda: _busy(n1, "counter-n1.a"))
    with pytest.raises(ActorError):
        await call
    assert _busy(n1, "counter-n1.a"), "a client that goes away stops nothing"


async def test_many_clients_of_one_silo(house: House) -> None:
    (n1,) = await house.start("n1")
    assert len(ACTORS) > 1

    async def use(number: int) -> int:
        async with connect(n1.grpc, cluster=house.cluster):
            return sum([await actor_ref(f"counter-n1.{number}").add() for _ in range(5)])

    assert await asyncio.gather(*map(use, range(10))) == [15] * 10
