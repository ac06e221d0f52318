"""``TestCluster``, in tests like those that a user of the package writes for the actors of a ticket desk."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from actors import Actor, actor_ref, handler
from actors.errors import ClusterUnavailable
from actors.settings import Settings
from cluster.testing import TestCluster
from tests.cluster.waiting import eventually


@dataclass
class Ticket:
    texts: list[str] = field(default_factory=list)
    escalated: bool = False


class Desk:
    """The world outside: what a test looks at to see what was really done, and where it lets things wait."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.reached: list[str] = []
        self.gate = asyncio.Event()

    async def draft(self, text: str) -> str:
        """An expensive call of a model."""
        self.calls.append(text)
        return text.upper()

    async def words(self, text: str) -> AsyncIterator[str]:
        """A model that streams, and stops to think in the middle."""
        words = text.split()
        for number, word in enumerate(words):
            if number == len(words) // 2:
                await self.wait("half way")
            self.calls.append(word)
            yield word

    async def wait(self, where: str) -> None:
        self.reached.append(where)
        await self.gate.wait()


desk: Desk


@pytest.fixture(autouse=True)
async def _new_desk() -> None:
    global desk
    desk = Desk()


class Support(Actor, type="ticket"):
    """What is tested here: an actor like a user's."""

    state: Ticket

    @handler
    async def answer(self, text: str) -> str:
        draft: str = await self.step("draft", desk.draft, text)
        await desk.wait("drafted")
        self.state.texts.append(draft)
        await actor_ref("archive-all").keep.send(self.key, draft)
        return draft

    @handler
    async def dictate(self, text: str) -> int:
        stream = self.stream_step("words", desk.words, text, resume=self._rest, channel="output")
        words = [word async for word in stream]
        self.state.texts.append(" ".join(words))
        return len(words)

    def _rest(self, words: list[str], text: str) -> AsyncIterator[str]:
        return desk.words(" ".join(text.split()[len(words) :]))

    @handler
    async def escalate_in(self, seconds: float) -> None:
        await self.remind("escalate", after=seconds)

    async def on_reminder(self, name: str) -> None:
        desk.calls.append(name)
        self.state.escalated = True

    @handler(readonly=True)
    async def read(self) -> Ticket:
        return self.state


class Archive(Actor):
    state: dict[str, str]

    @handler
    async def keep(self, key: str, text: str) -> None:
        assert key not in self.state, "it came twice"
        self.state[key] = text

    @handler(readonly=True)
    async def kept(self) -> dict[str, str]:
        return self.state


def index_of(cluster: TestCluster, address: str) -> int:
    index = cluster.where(address)
    assert index is not None, f"{address} is not active"
    return index


async def test_an_actor_answers() -> None:
    desk.gate.set()
    async with TestCluster(actors=[Support, Archive]):
        assert await Support.ref("1").answer("hello") == "HELLO"
        assert (await Support.ref("1").read()).texts == ["HELLO"]


async def test_a_caller_does_not_notice_that_the_silo_is_killed_in_the_middle_of_a_turn() -> None:
    """The step that was over is not run again, and what the turn sends is sent once."""
    async with TestCluster(actors=[Support, Archive], silos=3) as cluster:
        answer = asyncio.create_task(Support.ref("1").answer("hello"))
        await eventually("the draft is made", lambda: desk.reached == ["drafted"])
        await cluster.kill(index_of(cluster, "ticket-1"))
        await eventually("the turn runs again", lambda: desk.reached == ["drafted", "drafted"])
        desk.gate.set()

        assert await answer == "HELLO"
        assert desk.calls == ["hello"], "the model was asked again"
        assert (await Support.ref("1").read()).texts == ["HELLO"]
        await eventually("the archive has it", lambda: _archived({"1": "HELLO"}))


async def _archived(wanted: dict[str, str]) -> bool:
    found: dict[str, str] = await Archive.ref("all").kept()
    return found == wanted


async def test_a_reader_of_the_channel_does_not_notice_it_either() -> None:
    text = "one two three four five six"
    async with TestCluster(actors=[Support, Archive], silos=2) as cluster:
        session = Support.ref("1")
        dictating = asyncio.create_task(session.dictate(text))
        seen: list[tuple[int, str]] = []

        async def read() -> None:
            async for event in actor_ref("ticket-1").channel().subscribe():
                seen.append((event.offset, event.data))
                if len(seen) == 6:
                    return

        reading = asyncio.create_task(read())
        await eventually("half of it is read", lambda: len(seen) == 3)
        await cluster.kill(index_of(cluster, "ticket-1"))
        desk.gate.set()
        async with asyncio.timeout(15):
            await reading
        assert await dictating == 6
        assert seen == [*enumerate(text.split())]
        assert desk.calls == text.split(), "a word was paid for twice, or never"


async def test_a_stopped_silo_hands_its_actors_on() -> None:
    desk.gate.set()
    async with TestCluster(actors=[Support, Archive], silos=2) as cluster:
        await Support.ref("1").answer("one")
        first = index_of(cluster, "ticket-1")
        await cluster.stop(first)
        await Support.ref("1").answer("two")
        assert index_of(cluster, "ticket-1") == 1 - first
        assert (await Support.ref("1").read()).texts == ["ONE", "TWO"]


async def test_a_silo_that_is_added_takes_over_when_the_others_are_gone() -> None:
    desk.gate.set()
    async with TestCluster(actors=[Support, Archive]) as cluster:
        await Support.ref("1").answer("one")
        await cluster.add()
        await cluster.kill(0)
        await Support.ref("1").answer("two")
        assert (await Support.ref("1").read()).texts == ["ONE", "TWO"]


async def test_a_reminder_fires_on_another_silo() -> None:
    async with TestCluster(actors=[Support, Archive], silos=2) as cluster:
        await Support.ref("1").escalate_in(1.0)
        await cluster.kill(index_of(cluster, "ticket-1"))
        await eventually("it fires, though nobody calls", lambda: desk.calls == ["escalate"])
        assert (await Support.ref("1").read()).escalated


async def test_what_a_cluster_has_stored_the_next_one_finds(tmp_path: Path) -> None:
    desk.gate.set()
    url = f"sqlite:///{tmp_path}/desk.db"
    for count in (1, 2):
        async with TestCluster(actors=[Support, Archive], silos=2, store=url):
            await Support.ref("1").dictate("a b")
            assert (await Support.ref("1").read()).texts == ["a b"] * count


async def test_the_memory_of_one_cluster_is_its_own() -> None:
    desk.gate.set()
    for _ in range(2):
        async with TestCluster(actors=[Support, Archive]):
            await Support.ref("1").dictate("a b")
            assert (await Support.ref("1").read()).texts == ["a b"]


async def test_without_any_silo_calls_end_in_time() -> None:
    async with TestCluster(actors=[Support], settings=Settings(delivery_timeout=0.3)) as cluster:
        await cluster.kill(0)
        with pytest.raises(ClusterUnavailable, match="ticket-1"):
            await Support.ref("1").read()


async def test_at_least_one_silo_is_needed() -> None:
    with pytest.raises(ValueError, match="at least one silo"):
        TestCluster(actors=[Support], silos=0)
