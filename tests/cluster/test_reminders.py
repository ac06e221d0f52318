"""Reminders: they fire on time or as soon as a silo is there, once, wherever; those that wait cost nothing."""

import asyncio
import sqlite3
import time
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar, NamedTuple

import msgspec
import pytest

from actors import Actor, actor_ref, handler
from actors.ports import Commit, Due, Opened, Store
from actors.records import Reminder, encode
from cluster import Client, Silo, connect
from cluster.store import open_store
from tests.cluster.durable_actors import Alarm, noted
from tests.cluster.house import House, calling_from
from tests.cluster.house_actors import silo_of
from tests.cluster.processes import Cluster
from tests.cluster.waiting import eventually

APP = "tests.cluster.durable_actors"
MANY = 20_000


class Fired(NamedTuple):
    """A line of the file in which an alarm notes its reminders."""

    name: str
    id: str
    """The same for all firings of one reminder."""
    due: float
    silo: str


def fired(folder: Path, key: str, name: str = "") -> list[Fired]:
    found = []
    for line in noted(folder, f"{key}.alarm"):
        what, message_id, silo = line.split()
        number, _, due = message_id.partition("@")
        found.append(Fired(what, number, float(due), silo))
    return [it for it in found if name in ("", it.name)]


async def fires(folder: Path, key: str, name: str = "", *, times: int = 1) -> None:
    """Return when the reminder was noted so often."""
    await eventually(f"{name} of {key} fires", lambda: len(fired(folder, key, name)) >= times)


async def test_what_fell_due_while_every_silo_was_down_fires_when_one_is_back(cluster: Cluster) -> None:
    """Nobody calls the actor. The ticks that were missed are made up for by one, and the others go on in their step."""
    silos = await cluster.start("n1", "n2", app=APP)
    async with connect(etcd=cluster.etcd, cluster=cluster.name):
        alarm = actor_ref("alarm-n1.a")
        await alarm.set("once", 3.0)
        await alarm.set("ticks", 2.0, 0.25)
        await alarm.set("cancelled", 3.0)
        await alarm.cancel("cancelled")
    for silo in silos:
        await silo.kill()
    assert not fired(cluster.folder, "n1.a"), "the machine was too slow to kill the silos in time"
    past_due = time.time() + 3.0
    await eventually("all of it is past due", lambda: time.time() > past_due)

    back = time.time()
    await cluster.start("n2", app=APP)

    await fires(cluster.folder, "n1.a", "once")
    await fires(cluster.folder, "n1.a", "ticks", times=4)
    ticks = fired(cluster.folder, "n1.a", "ticks")
    assert len({tick.id for tick in ticks}) == 1
    assert ticks[0].due < back <= ticks[1].due, "missed ticks were made up for one by one"
    dues = [tick.due for tick in ticks]
    assert dues == sorted(set(dues)), "a tick fired twice"
    assert all((due - dues[0]) % 0.25 == pytest.approx(0, abs=1e-3) or (due - dues[0]) % 0.25 > 0.249 for due in dues)
    async with connect(etcd=cluster.etcd, cluster=cluster.name):
        told = await alarm.options(timeout=20).fired()
        assert told.count("once") == len(fired(cluster.folder, "n1.a", "once")) == 1
        assert "cancelled" not in told
        await alarm.cancel("ticks")
        seen = len(await alarm.fired())
        await alarm.set("last", 0.6)
        await fires(cluster.folder, "n1.a", "last")
        assert (await alarm.fired())[seen:] == ["last"]


async def test_a_sleeping_actor_is_woken_and_goes_to_sleep_again(cluster: Cluster) -> None:
    await cluster.start("n1", app=APP)
    async with connect(etcd=cluster.etcd, cluster=cluster.name) as client:
        alarm = actor_ref("alarm-n1.a")
        await alarm.set("once", 2.0)
        await eventually("it is asleep", lambda: _sleeps(client, "alarm-n1.a"))
        assert not fired(cluster.folder, "n1.a"), "the machine was too slow to see it asleep in time"
        await fires(cluster.folder, "n1.a")
        await eventually("it is asleep", lambda: _sleeps(client, "alarm-n1.a"))
        assert cluster.actor(alarm.address)[1] is None
        assert await alarm.fired() == ["once"]
        assert len(fired(cluster.folder, "n1.a")) == 1


async def _sleeps(client: Client, address: str) -> bool:
    return address not in await client.placements()


async def test_reminders_of_a_killed_host_fire_elsewhere_on_time(cluster: Cluster) -> None:
    """Of actors that are awake, of one that sleeps, and of one whose reminder comes long after the takeover."""
    n1, _ = await cluster.start("n1", "n2", app=APP)
    async with connect(etcd=cluster.etcd, cluster=cluster.name) as client:
        for key, after in (("n1.soon", 3.0), ("n1.later", 6.0)):
            await actor_ref(f"register-{key}").remind_me("due", after)
        await actor_ref("alarm-n1.asleep").set("due", 6.0)
        await eventually("it is asleep", lambda: _sleeps(client, "alarm-n1.asleep"))
        await n1.kill()
        for key in ("n1.soon", "n1.later"):
            register = actor_ref(f"register-{key}").options(timeout=20)
            await eventually(f"the reminder of {key} fires on n2", lambda: _entered(cluster, f"register-{key}"))  # noqa: B023
            assert (await register.read()).entries == ["due on n2"]
            assert await register.where() == "n2"
        await fires(cluster.folder, "n1.asleep")
        assert [it.silo for it in fired(cluster.folder, "n1.asleep")] == ["n2"]


def _entered(cluster: Cluster, address: str) -> bool:
    """Whether the actor's state says so; it is not asked, because that would wake it up."""
    return b"due" in (cluster.state(address) or b"")


# -- many that wait ----------------------------------------------------------------------------------------------------


async def sleepers(store: Store, file: Path, pattern: str) -> None:
    """Make as many actors as there may be, each like the one at ``pattern``: asleep, with a reminder far away."""
    with sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True) as connection:
        id_, wake = connection.execute("SELECT id, wake FROM actors WHERE address = ?", (pattern,)).fetchone()
        records = dict(connection.execute("SELECT key, value FROM records WHERE actor = ?", (id_,)).fetchall())
    connection.close()
    assert wake > time.time() + 3600
    assert records

    async def sleeper(number: int) -> None:
        address = f"alarm-sleeper.{number}"
        await store.open(address, 1)
        await store.commit(Commit(address=address, epoch=1, put=records, wake=wake, asleep=True))

    for first in range(0, MANY, 1000):
        await asyncio.gather(*(sleeper(number) for number in range(first, first + 1000)))


async def test_many_reminders_that_wait_take_no_memory_of_a_silo(cluster: Cluster) -> None:
    (n1,) = await cluster.start("n1", app=APP)
    store = await open_store(cluster.store_url)
    async with connect(etcd=cluster.etcd, cluster=cluster.name) as client:
        await actor_ref("alarm-pattern").set("far", 86_400.0)
        await actor_ref("alarm-warm").set("up", 0.0)
        await fires(cluster.folder, "warm")
        await eventually("both are asleep", lambda: _nobody_active(client))
        before = n1.resident

        await sleepers(store, cluster.file, "alarm-pattern")
        await actor_ref("alarm-due").set("due", 1.0)
        await fires(cluster.folder, "due")
        await eventually("it is asleep again", lambda: _nobody_active(client))

        grown = n1.resident - before
        assert grown < 8 * 2**20, f"{grown / 2**20:.1f} MiB for {MANY} reminders"
    await store.close()


async def _nobody_active(client: Client) -> bool:
    return not await client.placements()


class CountingStore:
    """Counts what a silo reads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.looks = 0
        self.due_rows: list[str] = []
        self.opened: list[str] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def due(self, before: float, *, hosts: Collection[str], after: Due | None = None, limit: int) -> list[Due]:
        found = await self._store.due(before, hosts=hosts, after=after, limit=limit)
        self.looks += 1
        self.due_rows += [due.address for due in found]
        return found

    async def open(self, address: str, epoch: int, host: str = "") -> Opened:
        self.opened.append(address)
        return await self._store.open(address, epoch, host)


async def test_one_that_is_due_is_found_among_many_without_reading_them(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_FOLDER", str(tmp_path))
    (n1,) = await house.start("n1", actors=[Alarm])
    store = await house.store()
    with calling_from(n1):
        await actor_ref("alarm-pattern").set("far", 86_400.0)
        await eventually("it is asleep", lambda: not n1.runtime.activations)
        await sleepers(store, tmp_path / "state.db", "alarm-pattern")
        counting = count_reads(n1)
        await eventually("the silo has looked", lambda: counting.looks >= 2)
        assert (counting.due_rows, counting.opened) == ([], [])

        # One of the many falls due, without a silo having been told.
        due = "alarm-sleeper.777"
        await store.open(due, 2)
        reminder = dict(await store.read(due, b"\x04", b"\x05", limit=10))
        assert len(reminder) == 1
        await store.commit(Commit(address=due, epoch=2, put=_due_now(reminder), wake=time.time(), asleep=True))

        await fires(tmp_path, "sleeper.777", "far")
        await eventually("it is asleep again", lambda: not n1.runtime.activations)
        assert counting.opened == [due]
        assert set(counting.due_rows) == {due}
        assert len(fired(tmp_path, "sleeper.777")) == 1


def count_reads(silo: Silo) -> CountingStore:
    counting = CountingStore(silo.runtime.store)
    silo.runtime.store = counting  # type: ignore[assignment]
    return counting


def _due_now(reminder: dict[bytes, bytes]) -> dict[bytes, bytes]:
    ((key, value),) = reminder.items()
    row = msgspec.msgpack.decode(value, type=Reminder)
    return {key: encode(msgspec.structs.replace(row, due=time.time()))}


class Gpu(Actor, placement="labels:gpu=1", idle_timeout=0.2):
    fired: ClassVar[list[str]] = []

    @handler
    async def set(self, after: float) -> None:
        await self.remind("x", after=after)

    async def on_reminder(self, name: str) -> None:
        Gpu.fired.append(silo_of(self))


async def test_an_actor_is_woken_where_its_placement_wants_it(house: House) -> None:
    n1 = (await house.start("n1", actors=[Gpu], labels={"gpu": "1"}))[0]
    await house.start("n2", "n3", actors=[Gpu])
    Gpu.fired.clear()
    with calling_from(n1):
        await asyncio.gather(*(actor_ref(f"gpu-{number}").set(2.0) for number in range(20)))
    await eventually("all fire", lambda: len(Gpu.fired) == 20)
    assert set(Gpu.fired) == {"n1"}, Gpu.fired
