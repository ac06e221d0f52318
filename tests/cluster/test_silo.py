"""One silo: alone on its file, as a member, what it refuses to start with, and how it ends."""

import asyncio
import re
import socket
import time
from pathlib import Path

import pytest

from actors import Actor, actor_ref
from actors.errors import ActorError, UnknownActorType
from cluster import Credentials, Silo, connect
from cluster.directory import StoreMismatch
from cluster.etcd import EtcdServer, EtcdUnavailable
from cluster.etcd.server import free_ports
from cluster.listen_address import advertised
from cluster.store import StoreInUse
from tests.cluster.house import House, calling_from, membership_of
from tests.cluster.house_actors import ACTORS, Counter, Diary
from tests.cluster.processes import freeze
from tests.cluster.waiting import answered, eventually

# -- alone -------------------------------------------------------------------------------------------------------------


async def test_alone_on_a_file_its_state_survives_a_restart(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/alone.db"
    async with Silo(ACTORS, store=store):
        assert await Counter.ref("1").add(3) == 3
        assert await Diary.ref("1").add(4) == 4
    async with Silo(ACTORS, store=store):
        assert await Counter.ref("1").add(1) == 4
        assert await Diary.ref("1").add(1) == 5


async def test_alone_on_a_file_its_turns_survive_a_crash(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/alone.db"
    silo = Silo(ACTORS, store=store)
    await silo.start()
    assert await Counter.ref("1").add(3) == 3
    assert await Diary.ref("1").add(4) == 4
    await silo.abort()
    async with Silo(ACTORS, store=store):
        assert await Counter.ref("1").add(1) == 4
        assert await Diary.ref("1").add(1) == 1, 'persist="deactivation" promises nothing after a crash'


async def test_two_silos_alone_on_one_file_are_refused(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/alone.db"
    async with Silo(ACTORS, store=store):
        with pytest.raises(StoreInUse, match=re.escape(str(tmp_path))):
            await Silo(ACTORS, store=store).start()
        assert await Counter.ref("1").add() == 1
    async with Silo(ACTORS, store=store):
        assert await Counter.ref("1").add() == 2


async def test_a_silo_alone_cannot_use_the_file_of_a_cluster(house: House) -> None:
    (n1,) = await house.start("n1")
    with pytest.raises(StoreInUse):
        await Silo(ACTORS, store=house.store_url).start()
    with calling_from(n1):
        assert await actor_ref("counter-n1.a").add() == 1


async def test_a_cluster_cannot_use_the_file_of_a_silo_alone(house: House) -> None:
    async with Silo(ACTORS, store=house.store_url):
        with pytest.raises(StoreInUse, match="embedded silo"):
            await house.new("n1").start()
    await house.new("n1").start()


async def test_a_file_that_was_used_alone_can_move_into_a_cluster_and_back(house: House) -> None:
    """Both count epochs in their own way; neither may find itself fenced out by the other."""
    address = "counter-n1.a"
    for rounds in range(2):
        async with Silo(ACTORS, store=house.store_url):
            for step in range(3):
                assert await actor_ref(address).add() == rounds * 5 + step + 1
                await actor_ref(address).sleep()
        member = house.new(f"n{rounds}")
        async with member:
            assert await actor_ref(address).add() == rounds * 5 + 4
            await actor_ref(address).sleep()
            assert await actor_ref(address).add() == rounds * 5 + 5


async def test_unknown_types_are_refused_with_the_known_ones_also_alone() -> None:
    async with Silo([Counter, Diary]):
        with pytest.raises(UnknownActorType, match=r"known types: counter, diary"):
            await actor_ref("tale-1").ask("hello")


# -- what it refuses to start with -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", " n1", "a/b", "a.b"])
def test_names_that_cannot_be_ones(name: str) -> None:
    if name == "":
        assert Silo(name="").name  # one is made up
        return
    with pytest.raises(ValueError, match="the silo name"):
        Silo(name=name)


def test_two_classes_with_one_type_are_refused() -> None:
    def other() -> type[Actor]:
        class Counter(Actor): ...

        return Counter

    async def start() -> None:
        await Silo([Counter, other()]).start()

    with pytest.raises(ValueError, match='same actor type "counter"'):
        asyncio.run(start())


async def test_off_loopback_without_credentials_is_refused() -> None:
    silo = Silo(ACTORS, listen="0.0.0.0:0")
    with pytest.raises(ValueError, match="without credentials"):
        await silo.start()
    assert not silo.ready


async def test_off_loopback_with_a_token_or_by_insistence_is_not() -> None:
    for options in ({"credentials": Credentials(token="t")}, {"insecure": True}):
        silo = Silo(ACTORS, listen="0.0.0.0:0", **options)
        await silo.start()
        assert silo.ready
        assert not silo.grpc.startswith("0.0.0.0"), "others cannot reach that address"
        await silo.stop()


async def test_what_it_advertises(house: House) -> None:
    n1 = house.new("n1", advertise="silo.example")
    await n1.start()
    n2 = house.new("n2", advertise="silo.example:7")
    await n2.start()
    port = n1._listen.rpartition(":")[2]
    assert (n1.grpc, n2.grpc) == (f"silo.example:{port}", "silo.example:7")
    await eventually("both are seen", lambda: {m.endpoint for m in n2.members} == {n1.grpc, n2.grpc})


async def test_a_port_in_use_is_said_and_everything_undone(house: House) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        for silo in (house.new("n1", listen=where), house.new("n1", http=where)):
            with pytest.raises(OSError, match=f"cannot listen on {where}"):
                await silo.start()
            assert silo.stopped.is_set()
    await house.new("n1").start()  # neither name nor file are held


@pytest.mark.parametrize("http", ["8080", "localhost:", "localhost:http", "127.0.0.1:99999", "127.0.0.1:-1"])
async def test_an_http_address_that_cannot_be_one(http: str) -> None:
    with pytest.raises(ValueError, match=f"{http}.*host:port"):
        await Silo(ACTORS, http=http).start()


async def test_a_store_of_its_own_is_refused_in_a_cluster(house: House, tmp_path: Path) -> None:
    (n1,) = await house.start("n1")
    for store in ("memory:", f"sqlite:///{tmp_path}/other.db"):
        stranger = house.new("n2", store=store)
        with pytest.raises(StoreMismatch, match="all silos must share one store"):
            await stranger.start()
    assert [member.name for member in n1.members] == ["n1"]


async def test_an_etcd_that_is_away_is_waited_for_and_given_up(caplog: pytest.LogCaptureFixture) -> None:
    silo = Silo(ACTORS, etcd=f"http://127.0.0.1:{free_ports(1)[0]}", etcd_timeout=1.0)
    started = time.monotonic()
    with pytest.raises(EtcdUnavailable):
        await silo.start()
    assert 1 <= time.monotonic() - started < 15
    assert "waiting for etcd" in caplog.text


async def test_it_starts_when_etcd_comes(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    server = EtcdServer(tmp_path / "etcd", client_port=port, unsafe_no_fsync=True)
    silo = Silo(ACTORS, etcd=server.endpoint, store=f"sqlite:///{tmp_path}/s.db", etcd_timeout=20)
    starting = asyncio.create_task(silo.start())
    await asyncio.sleep(0)
    async with server:
        await starting
        assert silo.ready
        await silo.stop()


async def test_health_is_told_before_it_is_ready(tmp_path: Path) -> None:
    silo = Silo(ACTORS, etcd=f"http://127.0.0.1:{free_ports(1)[0]}", etcd_timeout=30, http="127.0.0.1:0")
    starting = asyncio.create_task(silo.start())
    await eventually("it listens", lambda: silo.http is not None)
    assert silo.http is not None
    assert await status_of(silo.http, "/healthz") == 200
    assert await status_of(silo.http, "/readyz") == 503
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting


async def status_of(where: str, path: str) -> int:
    host, _, port = where.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    line = await reader.readline()
    writer.close()
    return int(line.split()[1])


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_stopping_stores_releases_and_leaves(house: House) -> None:
    n1, n2 = await house.start("n1", "n2")
    with calling_from(n1):
        assert await actor_ref("diary-n1.a").add(4) == 4
        assert await actor_ref("counter-n1.a").add(5) == 5
    started = time.monotonic()

    await n1.stop()

    assert time.monotonic() - started < 3
    await eventually("n2 is alone", lambda: [member.name for member in n2.members] == ["n2"], within=1)
    with calling_from(n2):
        assert await actor_ref("diary-n1.a").add(1) == 5
        assert await actor_ref("diary-n1.a").where() == "n2"
        assert await actor_ref("counter-n1.a").add(1) == 6
    etcd = await house.etcd()
    found = await etcd.get(house.keys.actors, prefix=True)
    assert {kv.value.decode().partition(".")[0] for kv in found.kvs} == {"n2"}


async def test_while_it_drains_it_takes_nothing_new_and_others_do(house: House) -> None:
    n1, n2 = await house.start("n1", "n2")
    with calling_from(n2):
        blocked = asyncio.create_task(actor_ref("counter-n1.busy").add_slowly(1))
        await eventually("the turn runs", actor_ref("counter-n1.busy").is_slow)
        stopping = asyncio.create_task(n1.stop())
        await eventually("it is announced", lambda: any(m.draining for m in n2.members))
        assert not n1.ready
        assert await actor_ref("counter-n1.new").where() == "n2"
        await actor_ref("counter-n1.busy").finish()
        assert await blocked == 1, "a turn that was running has its time to end"
        await stopping
        assert await actor_ref("counter-n1.busy").where() == "n2"
        assert await actor_ref("counter-n1.busy").value() == 1


async def test_a_turn_that_does_not_end_is_dropped_after_the_limit(house: House) -> None:
    (n1,) = await house.start("n1", drain_limit=0.3)
    with calling_from(n1):
        blocked = asyncio.create_task(actor_ref("counter-n1.busy").add_slowly(1))
        await eventually("the turn runs", actor_ref("counter-n1.busy").is_slow)
        started = time.monotonic()
        await n1.stop()
        assert 0.3 <= time.monotonic() - started < 4
        with pytest.raises(ActorError):
            await blocked


async def test_stopping_while_etcd_is_frozen_still_stores_everything(own_house: House) -> None:
    """The lease lives on for a while: long enough to store, too short to wait for an answer of etcd first."""
    (n1,) = await own_house.start("n1", lease_ttl=2)
    with calling_from(n1):
        assert await actor_ref("diary-n1.a").add(4) == 4
        await freeze(own_house.server)
        started = time.monotonic()

        await n1.stop()

    took = time.monotonic() - started
    own_house.server.resume()
    assert took < 20
    again = own_house.new("n1", lease_ttl=2)
    await again.start()
    with calling_from(again):
        assert await actor_ref("diary-n1.a").add(1) == 5


async def test_stopping_twice_and_at_once_is_one_stop(house: House) -> None:
    (n1,) = await house.start("n1")
    await asyncio.gather(n1.stop(), n1.stop())
    await n1.stop()
    assert n1.stopped.is_set()


async def test_stopping_while_it_rejoins(own_house: House) -> None:
    (n1,) = await own_house.start("n1")
    await freeze(own_house.server)
    await eventually("it is out", lambda: not n1.ready, within=5)
    started = time.monotonic()
    await n1.stop()
    own_house.server.resume()
    assert time.monotonic() - started < 20


async def test_the_load_is_reported_and_draining_survives_that(house: House) -> None:
    n1, n2 = await house.start("n1", "n2")
    with calling_from(n2):
        for number in range(5):
            await actor_ref(f"counter-n1.{number}").add()
    await eventually("n2 hears of it", lambda: any(m.name == "n1" and m.load == 5 for m in n2.members), within=6)
    await membership_of(n1).update(draining=True)
    with calling_from(n1):
        await answered("one more", actor_ref("counter-n2.0").add, within=5)
    await eventually("n2 hears of that", lambda: any(m.name == "n1" and m.draining for m in n2.members))


async def test_clients_of_a_silo_without_etcd_can_ask_it_who_is_there() -> None:
    async with Silo([Counter], name="n1") as n1, connect(n1.grpc) as client:
        await actor_ref("counter-1").add()
        assert [(member.name, member.endpoint) for member in await client.members()] == [("n1", n1.grpc)]
        assert await client.placements() == {"counter-1": "n1"}
        assert await client.placements("echo") == {}


@pytest.mark.parametrize(
    ("bound", "advertise", "expected"),
    [
        ("127.0.0.2:7400", None, "127.0.0.2:7400"),
        ("0.0.0.0:7400", None, "127.0.0.1:7400"),  # where it faces an etcd on loopback
        ("[::]:7400", None, "127.0.0.1:7400"),
        ("0.0.0.0:7400", "h1", "h1:7400"),
        ("0.0.0.0:7400", "h1:17400", "h1:17400"),
    ],
)
def test_what_a_silo_tells_others_to_call(bound: str, advertise: str | None, expected: str) -> None:
    assert advertised(bound, advertise, ["http://127.0.0.1:2379"]) == expected
