"""Being a member: names, views, leases, and the deadline by which a silo stops on its own."""

import asyncio
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from actors import actor_ref
from actors.errors import ClusterUnavailable
from cluster import Silo
from cluster.clock import SystemClock
from cluster.etcd import EtcdClient, EtcdServer
from cluster.keys import Keys
from cluster.member import Member
from cluster.membership import Membership, MembershipView, NameTaken
from tests.cluster.etcd.proxy import Proxy
from tests.cluster.house import House, calling_from, silo_id
from tests.cluster.house_actors import stalled
from tests.cluster.processes import freeze
from tests.cluster.waiting import answered, eventually

ADDRESS = "counter-n1.a"


def record(silo: str, **fields: object) -> Member:
    made = Member(silo=silo, name=silo.partition(".")[0], endpoint="127.0.0.1:1", types={"session": "balanced"})
    return msgspec.structs.replace(made, **fields)


# -- the pure view -----------------------------------------------------------------------------------------------------


def test_a_snapshot_replaces_the_view() -> None:
    view = MembershipView()
    assert view.on_snapshot(5, {"/c/silos/n1.1": record("n1.1").encode()})
    assert set(view.members) == {"n1.1"}
    assert not view.on_snapshot(6, {"/c/silos/n1.1": record("n1.1").encode()}), "nothing changed"
    assert view.revision == 6
    assert view.on_snapshot(7, {"/c/silos/n2.1": record("n2.1").encode()})
    assert set(view.members) == {"n2.1"}
    assert view.on_snapshot(3, {}), "an etcd that was restored is older, and still right"
    assert (view.members, view.revision) == ({}, 3)


def test_events_come_and_go() -> None:
    view = MembershipView()
    assert view.on_event("/c/silos/n1.1", record("n1.1").encode(), 2)
    assert not view.on_event("/c/silos/n1.1", record("n1.1").encode(), 3), "the same record again"
    assert view.on_event("/c/silos/n1.1", record("n1.1", load=7).encode(), 4)
    assert view.members["n1.1"].load == 7
    assert view.on_event("/c/silos/n1.1", None, 5)
    assert not view.on_event("/c/silos/n1.1", None, 6)
    assert view.members == {}


def test_events_that_are_older_than_the_view_change_nothing() -> None:
    view = MembershipView()
    view.on_snapshot(10, {"/c/silos/n1.1": record("n1.1").encode()})
    assert not view.on_event("/c/silos/n1.1", None, 10)
    assert not view.on_event("/c/silos/n2.1", record("n2.1").encode(), 9)
    assert set(view.members) == {"n1.1"}


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b'{"silo": 5}', b"\xff\x00", b'{"silo": "x.1"}'])
def test_a_record_that_cannot_be_read_is_no_member(junk: bytes, caplog: pytest.LogCaptureFixture) -> None:
    view = MembershipView()
    assert view.on_snapshot(1, {"/c/silos/bad.1": junk, "/c/silos/n1.1": record("n1.1").encode()})
    assert not view.on_event("/c/silos/worse.1", junk, 2)
    assert set(view.members) == {"n1.1"}
    assert "/c/silos/bad.1" in caplog.text
    assert "/c/silos/worse.1" in caplog.text


def test_fields_of_a_later_release_are_ignored() -> None:
    newer = msgspec.json.encode({**msgspec.to_builtins(record("n1.1")), "colour": "blue"})
    assert Member.decode(newer) == record("n1.1")


# -- over etcd ---------------------------------------------------------------------------------------------------------


class Town:
    """Memberships of one cluster over one etcd."""

    def __init__(self, server: EtcdServer, stack: AsyncExitStack) -> None:
        self.keys = Keys("town")
        self.lost: list[str] = []
        self._server = server
        self._stack = stack

    async def etcd(self, endpoint: str = "") -> EtcdClient:
        return await self._stack.enter_async_context(EtcdClient([endpoint or self._server.endpoint], timeout=2.0))

    async def proxy(self) -> Proxy:
        return await self._stack.enter_async_context(Proxy(self._server.endpoint))

    async def new(self, *, ttl: int = 2, endpoint: str = "") -> Membership:
        etcd = await self.etcd(endpoint)
        made = Membership(etcd, self.keys, clock=SystemClock(), ttl=ttl, on_lost=lambda: self.lost.append(made.silo))
        self._stack.push_async_callback(made.stop)
        return made

    async def join(self, silo: str, *, ttl: int = 30, endpoint: str = "") -> Membership:
        made = await self.new(ttl=ttl, endpoint=endpoint)
        await made.join(record(silo))
        return made


@pytest.fixture
async def town(own_etcd: EtcdServer) -> AsyncIterator[Town]:
    async with AsyncExitStack() as stack:
        yield Town(own_etcd, stack)


async def sees(membership: Membership, *silos: str) -> None:
    await eventually(f"{membership.silo} sees {silos}", lambda: set(membership.view.members) == set(silos))


async def test_two_silos_with_one_name_are_never_both_members(town: Town) -> None:
    n1 = await town.join("n1.1", ttl=2)
    second = await town.new(ttl=2)
    started = time.monotonic()

    with pytest.raises(NameTaken, match='named "n1" already.*another --name'):
        await second.join(record("n1.2"))

    assert 2 <= time.monotonic() - started < 8, "an earlier incarnation has its TTL to vanish, and not much more"
    assert second.deadline == float("-inf")
    assert set(n1.view.members) == {"n1.1"}
    found = await (await town.etcd()).get(town.keys.silos, prefix=True)
    assert [kv.key for kv in found.kvs] == [town.keys.silo("n1.1")]


async def test_a_name_is_free_again_soon_after_a_crash(town: Town) -> None:
    crashed = await town.join("n1.1", ttl=2)
    await crashed.stop()  # renews no more, says no goodbye
    second = await town.new(ttl=2)
    started = time.monotonic()

    await second.join(record("n1.2"))

    assert time.monotonic() - started < 5
    assert set(second.view.members) == {"n1.2"}


async def test_a_name_is_free_at_once_after_a_farewell(town: Town) -> None:
    first = await town.join("n1.1", ttl=30)
    await first.leave()
    started = time.monotonic()
    await town.join("n1.2")
    assert time.monotonic() - started < 2


async def test_the_watch_goes_on_after_a_restart_of_etcd(town: Town, own_etcd: EtcdServer) -> None:
    n1 = await town.join("n1.1")
    await own_etcd.kill()
    await own_etcd.start()

    n2 = await town.join("n2.1")

    await sees(n1, "n1.1", "n2.1")
    await n2.leave()
    await sees(n1, "n1.1")
    assert town.lost == []


async def test_what_was_compacted_under_the_watch_is_listed_again(town: Town) -> None:
    proxy = await town.proxy()
    n1 = await town.join("n1.1", endpoint=proxy.endpoint)
    n2 = await town.join("n2.1")
    await sees(n1, "n1.1", "n2.1")
    await proxy.refuse()  # n1 hears nothing while members come and go and their history is compacted away
    await n2.leave()
    await town.join("n3.1")
    etcd = await town.etcd()
    await etcd.compact(await etcd.put(f"{town.keys.root}tick", b""))
    assert set(n1.view.members) == {"n1.1", "n2.1"}

    await proxy.accept()

    await sees(n1, "n1.1", "n3.1")
    await town.join("n4.1")
    await sees(n1, "n1.1", "n3.1", "n4.1")
    assert town.lost == []


async def test_an_unreadable_record_is_ignored_by_a_live_view(town: Town) -> None:
    n1 = await town.join("n1.1")
    etcd = await town.etcd()
    await etcd.put(town.keys.silo("bad.1"), b"\xffnonsense")
    await town.join("n2.1")
    await sees(n1, "n1.1", "n2.1")


async def test_a_revoked_lease_is_noticed_without_waiting_for_its_end(town: Town) -> None:
    n1 = await town.join("n1.1", ttl=60)
    assert n1.member is not None
    await (await town.etcd()).revoke(n1.member.lease)
    await eventually("n1 notices that it is out", lambda: town.lost == ["n1.1"], within=5)
    assert n1.deadline == float("-inf")


async def test_an_etcd_that_forgot_everything_ends_the_membership(town: Town) -> None:
    await town.join("n1.1", ttl=60)
    await (await town.etcd()).delete(town.keys.root, prefix=True)
    await eventually("n1 notices that its record is gone", lambda: town.lost == ["n1.1"], within=5)


async def test_the_deadline_comes_before_etcd_could_let_anyone_else_in(town: Town, own_etcd: EtcdServer) -> None:
    n1 = await town.join("n1.1", ttl=2)
    clock = SystemClock()
    assert n1.deadline <= clock.now() + 2 * 0.9
    frozen = clock.now()
    await freeze(own_etcd)

    await eventually("n1 stops", lambda: town.lost == ["n1.1"], within=5)

    assert clock.now() - frozen < 2, "it acted for longer than its lease can have lived"
    own_etcd.resume()


async def test_changes_of_the_own_record_made_at_once_are_all_kept(town: Town) -> None:
    """A report of the load must not undo the announcement that the silo drains."""
    n1 = await town.join("n1.1")
    n2 = await town.join("n2.1")
    for load in range(1, 20):
        await asyncio.gather(n1.update(load=load), n1.update(draining=load % 2 == 1))
        assert n1.member is not None
        assert (n1.member.load, n1.member.draining) == (load, load % 2 == 1)
    await eventually("n2 sees both", lambda: n2.view.members["n1.1"].load == 19 and n2.view.members["n1.1"].draining)


_wall_clock = time.time


def _moved_clock(by: float) -> Callable[[], float]:
    """A wall clock for everybody but gRPC, which adds it to timeouts that its C code compares with the real one."""

    def moved() -> float:
        caller: str = sys._getframe(1).f_globals["__name__"]
        return _wall_clock() + (0.0 if caller.startswith("grpc.") else by)

    return moved


async def test_a_jump_of_the_wall_clock_changes_nothing(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    n1 = await town.join("n1.1", ttl=2)
    left = n1.deadline - SystemClock().now()
    for jump in (10 * 86_400, -10 * 86_400):
        monkeypatch.setattr(time, "time", _moved_clock(jump))
        before = n1.deadline
        assert n1.deadline - SystemClock().now() <= left + 0.1
        await eventually("the lease is renewed", lambda before=before: n1.deadline > before, within=5)
        await town.join(f"n{2 + (jump < 0)}.1")
    await sees(n1, "n1.1", "n2.1", "n3.1")
    assert town.lost == []


# -- what a silo does about it -----------------------------------------------------------------------------------------


async def test_a_silo_stops_by_its_own_clock_while_etcd_is_frozen_and_rejoins(own_house: House) -> None:
    """Guards the self-stop deadline: with it at infinity the silo goes on while etcd sleeps."""
    (n1,) = await own_house.start("n1")
    with calling_from(n1):
        assert await actor_ref(ADDRESS).add(5) == 5
        running = asyncio.create_task(actor_ref(ADDRESS).add_slowly(100))
        await eventually("the turn runs", actor_ref(ADDRESS).is_slow)
        incarnation, frozen = silo_id(n1), time.monotonic()
        await freeze(own_house.server)

        await eventually("n1 stops", lambda: not n1.ready, within=5)

        assert time.monotonic() - frozen < 2, "the lease had ended before the silo stopped"
        await eventually("its activations are dropped", lambda: not n1.runtime.activations, within=1)
        with pytest.raises(ClusterUnavailable, match=ADDRESS):
            await actor_ref(ADDRESS).options(timeout=0.3).add(1)
        assert not running.done()
        assert not n1.ready
        own_house.server.resume()

        await eventually("n1 serves again", lambda: n1.ready)
        assert silo_id(n1) != incarnation
        await eventually("the turn runs again", actor_ref(ADDRESS).is_slow)
        assert await actor_ref(ADDRESS).value() == 5, "the turn had not ended when the silo stopped"
        await actor_ref(ADDRESS).finish()
        assert await running == 105, "it takes effect once, for a caller who has waited"
        assert await actor_ref(ADDRESS).add(1) == 106


async def test_a_silo_whose_loop_stalled_stops_before_the_next_effect(house: House) -> None:
    """Guards the check of the deadline before a commit: once it has stood still for the TTL nothing is renewed."""
    (n1,) = await house.start("n1", lease_ttl=2)
    with calling_from(n1):
        assert await actor_ref(ADDRESS).add(5) == 5
        incarnation = silo_id(n1)

        stalled.clear()
        assert await actor_ref(ADDRESS).options(timeout=20).add_and_stall(100, 4.5) == 105, "it took effect twice"

        assert [*stalled.values()] == [2], "it took effect after the deadline, and so was not run again"
        assert await actor_ref(ADDRESS).value() == 105
    assert silo_id(n1) != incarnation


async def test_a_wiped_etcd_is_noticed_and_joined_again(own_house: House) -> None:
    n1, n2 = await own_house.start("n1", "n2")
    with calling_from(n2):
        assert await actor_ref(ADDRESS).add(7) == 7
    before = {silo_id(n1), silo_id(n2)}
    etcd = await own_house.etcd()

    await etcd.delete("", prefix=True)

    await eventually(
        "both rejoin",
        lambda: n1.ready and n2.ready and not {silo_id(n1), silo_id(n2)} & before,
    )
    await own_house.acquainted(n1, n2)
    with calling_from(n2):
        value, _ = await answered("the actor answers with its state", actor_ref(ADDRESS).add, within=10)
    assert value == 8


async def test_an_etcd_that_was_restored_from_a_backup_ends_what_it_forgot(own_house: House, tmp_path: Path) -> None:
    """The lease is in the backup, the claims made since are not: others could claim the same actors."""
    n1 = own_house.new("n1", lease_ttl=10)
    await n1.start()
    server, data = own_house.server, tmp_path / "etcd" / "data"
    await server.stop()
    shutil.copytree(data, tmp_path / "backup")
    await server.start()
    with calling_from(n1):
        value, _ = await answered("the claim that the backup lacks", actor_ref(ADDRESS).add, within=15)
        assert value == 1
        for number in range(30):  # revisions that the backup lacks
            await actor_ref(f"counter-n1.{number}").add()
        incarnation = silo_id(n1)
        await server.stop()
        shutil.rmtree(data)
        shutil.copytree(tmp_path / "backup", data)
        await server.start()

        # The next answer of etcd is older than what this silo has seen already.
        await answered("another actor", actor_ref("counter-n1.next").options(timeout=2).add, within=15)
        await eventually("n1 starts anew", lambda: n1.ready and silo_id(n1) != incarnation, within=20)

        value, _ = await answered("the actor answers with its state", actor_ref(ADDRESS).add, within=10)
    assert value == 2


async def test_a_silo_name_that_is_taken_is_said(house: House) -> None:
    await house.start("n1", lease_ttl=2)
    second = house.new("n1", lease_ttl=2)
    with pytest.raises(NameTaken, match='"n1"'):
        await second.start()
    assert second.stopped.is_set()


async def test_a_crashed_silo_can_be_restarted_under_its_name(house: House) -> None:
    (first,) = await house.start("n1", lease_ttl=2)
    with calling_from(first):
        await actor_ref(ADDRESS).add(3)
    await first.abort()
    started = time.monotonic()

    again: Silo = house.new("n1", lease_ttl=2)
    await again.start()

    assert time.monotonic() - started < 6
    with calling_from(again):
        assert await actor_ref(ADDRESS).add(1) == 4
