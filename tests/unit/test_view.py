"""Read-only calls: what they see, and that an attempt to change anything is an error of theirs alone."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import pytest

from actors import Actor, ActorFailed, actor_ref, handler
from tests.unit.conftest import Start
from tests.unit.fakes import ScriptedStore, soon

REF = actor_ref("shelf-1")


@dataclass
class Books:
    titles: list[str] = field(default_factory=list)
    tags: set[int] = field(default_factory=set)


class Shelf(Actor):
    state: Books
    reached: ClassVar[asyncio.Event]
    go: ClassVar[asyncio.Event]

    def __init__(self) -> None:
        self.looked = 0
        self.cache: dict[str, int] = {}

    async def receive(self, title: str) -> int:
        self.state.titles.append(title)
        self.state.tags = set(range(100))  # in a set that was larger once, its members have another order
        self.state.tags -= set(range(100)) - {1, 64}
        return len(self.state.titles)

    @handler(readonly=True)
    async def titles(self) -> list[str]:
        return self.state.titles

    @handler(readonly=True)
    async def slowly(self) -> list[str]:
        self.reached.set()
        await self.go.wait()
        return self.state.titles

    @handler(readonly=True)
    async def append(self) -> None:
        self.state.titles.append("sneaked in")

    @handler(readonly=True)
    async def append_slowly(self) -> None:
        await asyncio.sleep(0)
        self.state.titles.append("sneaked in")

    @handler(readonly=True)
    async def append_unsendable(self) -> None:
        self.state.titles.append(object())  # type: ignore[arg-type]

    @handler(readonly=True)
    async def replace(self) -> None:
        self.state = Books()

    @handler(readonly=True)
    async def count(self) -> None:
        self.looked += 1

    @handler(readonly=True)
    async def items(self) -> AsyncIterator[str]:
        yield "one"
        self.state.titles.clear()

    @handler(readonly=True)
    async def send_away(self) -> None:
        await actor_ref("shelf-2").send("x")

    @handler(readonly=True)
    async def say(self) -> None:
        await self.publish("x")

    @handler(readonly=True)
    async def set_reminder(self) -> None:
        await self.remind("x", 1)

    @handler(readonly=True)
    async def harmless(self) -> Any:
        self.cache["x"] = self.cache.get("x", 0) + 1
        return self.cache["x"], self.number, await actor_ref("shelf-2").titles()

    @cached_property
    def number(self) -> int:
        return len(self.state.titles)


@pytest.fixture(autouse=True)
async def shelf(start: Start) -> None:
    Shelf.reached, Shelf.go = asyncio.Event(), asyncio.Event()
    start(Shelf, store=ScriptedStore())
    for title in ("a", "b", "c"):
        await soon(REF.ask(title))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("append", "change self.state"),
        ("append_slowly", "change self.state"),
        ("append_unsendable", "change self.state"),
        ("replace", "change self.state"),
        ("count", "change self.looked"),
        ("send_away", "send"),
        ("say", "publish"),
        ("set_reminder", "set reminders"),
    ],
)
async def test_an_attempt_to_change_anything_is_an_error(name: str, what: str) -> None:
    with pytest.raises(ActorFailed, match=f"a readonly handler cannot {what}"):
        await soon(getattr(REF, name)())
    assert await soon(REF.titles()) == ["a", "b", "c"]
    assert await soon(REF.ask("d")) == 4


async def test_a_stream_that_changes_anything_ends_with_an_error() -> None:
    items = REF.items.stream()
    assert await soon(anext(items)) == "one"
    with pytest.raises(ActorFailed, match="cannot change self.state"):
        await soon(anext(items))


async def test_what_a_turn_commits_meanwhile_is_no_change_of_theirs() -> None:
    reading = asyncio.ensure_future(REF.slowly())
    await soon(Shelf.reached.wait())
    await soon(REF.ask("d"))
    Shelf.go.set()
    assert await soon(reading) == ["a", "b", "c"]


async def test_what_is_looked_up_or_kept_for_later_is_no_change() -> None:
    assert await soon(REF.harmless()) == (1, 3, [])
    assert await soon(REF.harmless()) == (2, 3, [])
