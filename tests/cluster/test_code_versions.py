"""Two versions of a user's code side by side: where actors begin, what older code may take, and what it must not."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from actors import (
    Actor,
    ClusterUnavailable,
    UnknownActorType,
    UnknownHandler,
    actor_ref,
    handler,
)
from actors.ports import Route
from actors.records import WRITTEN_BY
from actors.release import RELEASE
from actors.settings import Settings
from cluster.testing import TestCluster
from tests.cluster.processes import ROOT, Processes
from tests.cluster.waiting import eventually

OLD, NEW = 0, 1
"""The indexes of the first two silos."""


@dataclass
class Line:
    text: str = ""


@dataclass
class Notes:
    lines: list[Line] = field(default_factory=list)


class Book(Actor, type="book"):
    """The first version."""

    state: Notes

    @handler
    async def add(self, text: str) -> int:
        self.state.lines.append(Line(text))
        return len(self.state.lines)

    @handler
    async def version(self) -> str:
        return "1"

    @handler
    async def nap(self) -> None:
        self.deactivate()

    @handler
    async def plan(self, name: str) -> str:
        return f"no plan for {name}"

    @handler
    async def stay(self, name: str) -> str:
        return await stay(name)


@dataclass
class NewLine:
    text: str = ""
    author: str = "unknown"


@dataclass
class NewNotes:
    lines: list[NewLine] = field(default_factory=list)


class NewBook(Book, type="book"):
    """The second version: its lines have an author, and it can do more."""

    state: NewNotes  # type: ignore[assignment]

    @handler
    async def add(self, text: str) -> int:
        self.state.lines.append(NewLine(text, "anna"))
        return len(self.state.lines)

    @handler
    async def version(self) -> str:
        return "2"

    @handler
    async def authors(self) -> list[str]:
        return [line.author for line in self.state.lines]

    @handler
    async def each(self) -> AsyncIterator[str]:
        for line in self.state.lines:
            yield line.author

    @handler
    async def plan(self, name: str) -> str:
        made: str = await self.step("plan", _plan)
        await self.wait_for(name)
        return made

    @handler
    async def stay_longer(self, name: str) -> str:
        return await stay(name)


async def stay(name: str) -> str:
    """Run until the test says so."""
    running[name] = asyncio.Event()
    begun[name].set()
    await running[name].wait()
    return name


async def _plan() -> str:
    return "a plan"


class Shelf(Actor, type="shelf", persist="deactivation"):
    state: Notes

    @handler
    async def add(self, text: str) -> int:
        self.state.lines.append(Line(text))
        return len(self.state.lines)

    @handler
    async def nap(self) -> None:
        self.deactivate()


class NewShelf(Shelf, type="shelf", persist="deactivation"):
    state: NewNotes  # type: ignore[assignment]

    @handler
    async def add(self, text: str) -> int:
        self.state.lines.append(NewLine(text, "anna"))
        return len(self.state.lines)

    @handler
    async def authors(self) -> list[str]:
        return [line.author for line in self.state.lines]


class Fresh(Actor):
    """Only the second version has it."""

    @handler
    async def version(self) -> str:
        return "2"


running: dict[str, asyncio.Event] = {}
begun: dict[str, asyncio.Event] = {}

V1: Sequence[type[Actor]] = (Book, Shelf)
V2: Sequence[type[Actor]] = (NewBook, NewShelf, Fresh)
SHORT = Settings(delivery_timeout=1.5)


@asynccontextmanager
async def side_by_side(settings: Settings = SHORT) -> AsyncIterator[TestCluster]:
    """A silo with the first version, and one with the second."""
    async with TestCluster(V1, version="1", settings=settings) as cluster:
        await cluster.add(actors=V2, version="2")
        yield cluster


async def asleep(cluster: TestCluster, address: str) -> None:
    await eventually(f"{address} sleeps", lambda: cluster.where(address) is None)


async def stored_version(cluster: TestCluster, address: str) -> bytes | None:
    store = await cluster.open_store()
    rows = await store.read(address, WRITTEN_BY, WRITTEN_BY + b"\0", limit=1)
    return rows[0][1] if rows else None


def why_left(cluster: TestCluster, address: str) -> str:
    """Why the old silo does not take the address."""
    return cluster.silos[OLD].runtime.abstention._why[address][1]


# -- where actors begin ------------------------------------------------------------------------------------------------


async def test_what_begins_anew_begins_on_the_newest_and_what_lives_stays() -> None:
    async with TestCluster(V1, version="1") as cluster:
        before = [Book.ref(f"before-{number}") for number in range(10)]
        assert [await book.add("x") for book in before] == [1] * 10
        await cluster.add(actors=V2, version="2")
        assert [await book.version() for book in before] == ["1"] * 10
        after = [Book.ref(f"after-{number}") for number in range(20)]
        assert [await book.version() for book in after] == ["2"] * 20
        await before[0].nap()
        await asleep(cluster, before[0].address)
        assert await before[0].version() == "2"
        assert await before[0].add("y") == 2, "it reads what the old code has stored"


async def test_a_type_that_only_the_new_code_has_is_reached_through_every_silo() -> None:
    async with side_by_side() as cluster:
        assert await actor_ref("fresh-1").version() == "2"
        assert cluster.where("fresh-1") == NEW
        with pytest.raises(UnknownActorType, match="older"):
            await actor_ref("older-1").version()


async def test_an_old_silo_claims_nothing_that_newer_ones_host() -> None:
    """Whoever asks it to: a silo whose view of the members is behind, or itself for what was handed on."""
    async with side_by_side() as cluster:
        with pytest.raises(ClusterUnavailable, match=r"version '1' of the code and leaves it to n2\."):
            await cluster.silos[OLD].runtime.claims.own("book-1")
        assert cluster.where("book-1") is None
        assert (await cluster.silos[NEW].runtime.claims.own("book-1")).silo.startswith("n2.")


async def test_an_entry_that_an_old_silo_has_left_behind_leads_nobody_astray() -> None:
    async with side_by_side() as cluster:
        old = cluster.silos[OLD].runtime.directory.silo
        cluster.table.owners["book-1"] = Route(old, cluster.table.next_revision())
        assert await actor_ref("book-1").version() == "2"
        assert cluster.where("book-1") == NEW


async def test_an_old_silo_tells_who_asks_it_where_an_actor_lives() -> None:
    async with TestCluster(V1, version="1", silos=2) as cluster:
        book = actor_ref("book-1")
        await book.add("x")
        owner = cluster.table.owners["book-1"]
        await cluster.add(actors=V2, version="2")
        other = cluster.silos[1 - (cluster.where("book-1") or 0)]
        assert (await other.runtime.claims.own("book-1")).silo == owner.silo


# -- handlers that only the new code has -------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["ask", "send", "stream"])
async def test_a_call_that_only_newer_code_understands_takes_the_actor_there(way: str) -> None:
    async with TestCluster(V1, version="1") as cluster:
        book = actor_ref("book-1")
        assert await book.add("x") == 1
        await cluster.add(actors=V2, version="2")
        if way == "ask":
            assert await book.authors() == ["unknown"]
        elif way == "stream":
            assert [author async for author in book.each.stream()] == ["unknown"]
        else:
            await book.authors.send()
            await eventually("it has moved", lambda: cluster.where("book-1") == NEW)
        assert cluster.where("book-1") == NEW
        assert await book.add("y") == 2


async def test_it_waits_for_the_running_turn_and_order_is_kept() -> None:
    async with TestCluster(V1, version="1") as cluster:
        book = actor_ref("book-1")
        begun["order"] = asyncio.Event()
        staying = asyncio.create_task(book.stay("order"))
        await begun["order"].wait()
        await cluster.add(actors=V2, version="2")
        calls = [asyncio.create_task(call) for call in (book.add("a"), book.authors(), book.add("b"))]
        await eventually(
            "all of them wait", lambda: cluster.silos[OLD].runtime.activations["book-1"].waiting == len(calls)
        )
        assert not any(call.done() for call in calls)
        running["order"].set()
        assert await staying == "order"
        assert await asyncio.gather(*calls) == [1, ["anna"], 2]


async def test_without_newer_code_it_is_unknown() -> None:
    async with TestCluster(V1, version="1", silos=2) as cluster:
        book = actor_ref("book-1")
        await book.add("x")
        with pytest.raises(UnknownHandler, match=r"book-1: Book has no handler 'authors' \(known: add, "):
            await book.authors()
        assert cluster.where("book-1") is not None


async def test_an_actor_that_would_lose_its_memory_stays_and_the_error_says_where_to() -> None:
    async with TestCluster(V1, version="1") as cluster:
        shelf = actor_ref("shelf-1")
        assert await shelf.add("x") == 1
        await cluster.add(actors=V2, version="2")
        with pytest.raises(UnknownHandler, match=r"on n1\.\w+, with version '1' .* n2\.\w+ may know it"):
            await shelf.authors()
        assert await shelf.add("y") == 2
        assert cluster.where("shelf-1") == OLD


# -- what newer code has written ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_name", ["book", "shelf"])
async def test_older_code_never_drops_a_field_that_newer_code_has_written(type_name: str) -> None:
    async with side_by_side() as cluster:
        notes = actor_ref(f"{type_name}-1")
        await notes.add("x")
        await notes.nap()
        await asleep(cluster, notes.address)
        assert await stored_version(cluster, notes.address) == b"\x91\xa12"

        await cluster.stop(NEW)
        with pytest.raises(ClusterUnavailable, match=r"'2' of the code has .*field state\.lines\[0\]\.author"):
            await notes.options(timeout=20).add("lost?")

        await cluster.add(actors=V2, version="2.1")
        assert await notes.authors() == ["anna"]
        assert await notes.add("y") == 2


async def test_calls_wait_for_the_newer_silo_to_come_back() -> None:
    async with side_by_side(Settings(delivery_timeout=60.0)) as cluster:
        book = actor_ref("book-1")
        await book.add("x")
        await cluster.kill(NEW)
        waiting = [asyncio.create_task(call) for call in (book.add("y"), book.authors(), book.add("z"))]
        abstention = cluster.silos[OLD].runtime.abstention
        await eventually("the old silo has found that it is too old", lambda: "book-1" in abstention._why)
        assert not any(call.done() for call in waiting)
        await cluster.add(actors=V2, version="2")
        assert await asyncio.gather(*waiting) == [2, ["anna", "anna"], 3]


async def test_an_operator_may_give_up_what_only_newer_code_knows(caplog: pytest.LogCaptureFixture) -> None:
    async with side_by_side(Settings(allow_downgrade=True)) as cluster:
        book = actor_ref("book-1")
        await book.add("x")
        await cluster.kill(NEW)
        with caplog.at_level(logging.WARNING):
            assert await book.add("y") == 2
        assert "book-1: version '2' of the code has written it, and n1." in caplog.text
        assert "without the field state.lines[0].author" in caplog.text
        assert await stored_version(cluster, "book-1") == b"\x91\xa11", "from now on it is the old code's"


async def test_older_code_goes_on_with_what_it_can_read_without_a_loss(caplog: pytest.LogCaptureFixture) -> None:
    async with TestCluster(V1, version="1", settings=SHORT) as cluster:
        await cluster.add(actors=V1, version="2")
        book = actor_ref("book-1")
        assert await book.add("x") == 1
        await cluster.kill(NEW)
        with caplog.at_level(logging.WARNING):
            assert await book.add("y") == 2
        assert "it is taken, because it can be read without a loss" in caplog.text


async def test_a_turn_that_newer_code_has_begun_is_not_parked_by_older_code() -> None:
    async with side_by_side(Settings(delivery_timeout=60.0)) as cluster:
        book = actor_ref("book-1")
        planning = asyncio.create_task(book.options(timeout=100).plan("go"))
        activations = cluster.silos[NEW].runtime.activations
        await eventually("it waits", lambda: "book-1" in activations and bool(activations["book-1"].durable_side.wait))
        await cluster.kill(NEW)
        abstention = cluster.silos[OLD].runtime.abstention
        await eventually("the old silo leaves it alone", lambda: "book-1" in abstention._why)
        assert "does not know the steps of a turn that has begun" in why_left(cluster, "book-1")
        await cluster.add(actors=V2, version="2")
        await book.signal("go", None)
        assert await planning == "a plan"


async def test_what_was_accepted_goes_on_by_itself_when_newer_code_comes_back() -> None:
    """Nobody calls: the old silo had opened the actor, and must not keep others from seeing to it."""
    async with side_by_side() as cluster:
        book = actor_ref("book-1")
        begun["accepted"] = asyncio.Event()
        await book.stay_longer.send("accepted")
        await begun["accepted"].wait()
        await book.add.send("after it")
        await cluster.kill(NEW)
        await eventually("the old silo leaves it alone", lambda: "book-1" in cluster.silos[OLD].runtime.abstention._why)
        assert "does not know the handler 'stay_longer' of a waiting message" in why_left(cluster, "book-1")
        begun["accepted"].clear()
        store = await cluster.open_store()
        assert await store.state("book-1") is None
        await cluster.add(actors=V2, version="2")
        async with asyncio.timeout(15):
            await begun["accepted"].wait()
        running["accepted"].set()

        async def is_done() -> bool:
            return b"after it" in (await store.state("book-1") or b"")

        await eventually("the message behind it has run", is_done)


async def test_a_state_that_older_code_cannot_read_at_all_waits_too() -> None:
    class Odd(Actor, type="book"):
        state: OddNotes

        @handler
        async def add(self, text: str) -> int:
            raise AssertionError(text)

    async with TestCluster([Odd], version="1", settings=SHORT) as cluster:
        await cluster.add(actors=V2, version="2")
        book = actor_ref("book-1")
        await book.add("x")
        await cluster.kill(NEW)
        with pytest.raises(
            ClusterUnavailable, match=r"does not know the state \(book-1: the stored state does not fit"
        ):
            await book.options(timeout=20).add("y")


@dataclass
class OddNotes:
    lines: int = 0


async def test_without_versions_nothing_is_stored_of_them() -> None:
    async with TestCluster(V1) as cluster:
        await Book.ref("1").add("x")
        assert await stored_version(cluster, "book-1") is None


async def test_an_actor_that_was_deleted_is_nobodys() -> None:
    async with side_by_side() as cluster:
        book = actor_ref("book-1")
        await book.add("x")
        await book.delete()
        await asleep_or_new(cluster, book.address)
        await cluster.stop(NEW)
        assert await book.add("y") == 1


async def asleep_or_new(cluster: TestCluster, address: str) -> None:
    """Return when the activation that has deleted the actor is gone, or a fresh one there."""
    activations = cluster.silos[NEW].runtime.activations
    await eventually("it is gone", lambda: address not in activations or not activations[address].busy)


# -- for operators -----------------------------------------------------------------------------------------------------


async def test_ps_tells_the_version_of_the_code_and_the_release(processes: Processes) -> None:
    silo = processes.silo("n1", env={"SILO_VERSION": "2024.7"})
    grpc = (await silo.ready())[0]["grpc"]
    listed = await processes.run("ps", "--connect", grpc)
    header, row = (re.split(r"  +", line.strip()) for line in listed.out.splitlines())
    told = dict(zip(header, row, strict=True))
    assert (told["VERSION"], told["RELEASE"], told["STATUS"]) == ("2024.7", RELEASE, "up")


async def test_a_version_that_makes_none_is_refused_at_the_start(processes: Processes) -> None:
    ended = await processes.silo("n1", env={"SILO_VERSION": " 2"}).ended()
    assert ended.status == 2
    assert "the version of the code ' 2' must be one line" in ended.err


async def test_the_example_of_the_documentation_runs(processes: Processes, tmp_path: Path) -> None:
    (example,) = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "docs/upgrading.md").read_text(), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "upgrade_example.py").write_text(example)
    ended = await processes.start(module="upgrade_example", cwd=tmp_path).ended(within=40)
    assert (ended.status, ended.out) == (0, "1\n2\n3\n"), ended.err
