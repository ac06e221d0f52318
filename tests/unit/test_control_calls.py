"""Control calls that fail while no turn runs: what they changed does not stay."""

import asyncio
from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from actors import Actor, ActorFailed, actor_ref, handler
from tests.unit.conftest import Start
from tests.unit.fakes import ScriptedStore, settle, soon


@dataclass
class Board:
    notes: list[str] = field(default_factory=list)


class Desk(Actor):
    state: Board
    gate: ClassVar[asyncio.Event]
    reached: ClassVar[asyncio.Event]

    @handler
    async def add(self, note: str) -> None:
        self.state.notes.append(note)

    @handler(control=True)
    async def scribble(self, note: str, fails: bool = False) -> None:
        self.state.notes.append(note)
        if fails:
            raise ValueError(note)

    @handler(control=True)
    async def scribble_slowly(self, note: str, fails: bool = False) -> None:
        self.state.notes.append(note)
        self.reached.set()
        await self.gate.wait()
        if fails:
            raise ValueError(note)

    @handler
    async def notes(self) -> list[str]:
        return self.state.notes


DESK = actor_ref("desk-1")


@pytest.fixture
async def desk(start: Start, store: ScriptedStore) -> ScriptedStore:
    Desk.gate, Desk.reached = asyncio.Event(), asyncio.Event()
    start(Desk, store=store)
    return store


async def test_a_control_call_that_fails_between_turns_changes_nothing(desk: ScriptedStore) -> None:
    await soon(DESK.add("kept"))
    with pytest.raises(ActorFailed, match="torn"):
        await soon(DESK.scribble("torn", fails=True))
    assert await soon(DESK.notes()) == ["kept"]
    await soon(DESK.add("more"))
    assert desk.state_of("desk-1") == {"notes": ["kept", "more"]}


async def test_a_control_call_that_fails_after_its_turn_undoes_what_it_did_since_then(desk: ScriptedStore) -> None:
    call = asyncio.ensure_future(DESK.scribble_slowly("with the turn", fails=True))
    await soon(Desk.reached.wait())
    await soon(DESK.add("turn"))
    Desk.gate.set()
    with pytest.raises(ActorFailed):
        await soon(call)
    assert await soon(DESK.notes()) == ["with the turn", "turn"]


async def test_one_that_fails_while_another_one_is_being_stored_undoes_itself_only(desk: ScriptedStore) -> None:
    desk.hold()
    kept = asyncio.ensure_future(DESK.scribble("kept"))
    await soon(desk.waiting.wait())
    torn = asyncio.ensure_future(DESK.scribble("torn", fails=True))
    await settle()
    desk.let_go()
    await soon(kept)
    with pytest.raises(ActorFailed, match="torn"):
        await soon(torn)
    assert desk.state_of("desk-1")["notes"] == await soon(DESK.notes()) == ["kept"]


async def test_what_another_control_call_had_changed_is_not_lost_silently(desk: ScriptedStore) -> None:
    await soon(DESK.add("kept"))
    other = asyncio.ensure_future(DESK.scribble_slowly("undone"))
    await soon(Desk.reached.wait())
    with pytest.raises(ActorFailed, match="torn"):
        await soon(DESK.scribble("torn", fails=True))
    Desk.gate.set()
    with pytest.raises(ActorFailed, match="scribble failed meanwhile"):
        await soon(other)
    assert await soon(DESK.notes()) == ["kept"]
