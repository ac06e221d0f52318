"""Commits without a message: the same gates as those of a turn."""

import asyncio

import pytest

from actors import Actor, Timeout, actor_ref, codec, direct, handler
from actors.activation import Activation
from actors.effects import Effects
from actors.errors import ClusterUnavailable, ConnectionLost
from actors.ports import StoreUnavailable
from actors.records import ChannelItem
from actors.runtime import Runtime
from tests.unit.conftest import Start
from tests.unit.fakes import LeasedDirectory, LoopTime, ScriptedStore, settle, soon

ADDRESS = "ledger-1"


class Ledger(Actor):
    state: list[int]

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    @handler
    async def add(self, number: int) -> list[int]:
        self.state.append(number)
        return self.state

    @handler
    async def wait(self) -> None:
        await self.gate.wait()


async def free(runtime: Runtime) -> Activation:
    """The activation of a ledger that has a 1, and nothing to do."""
    await Ledger.ref("1").add(1)
    found = direct.find_free(runtime, ADDRESS)
    assert found is not None
    return found


def begin(activation: Activation, number: int, *, timeout: float = 30.0) -> "asyncio.Task[None]":
    """Write a number into the ledger and its channel, and begin to commit that."""
    ledger = activation.actor
    assert isinstance(ledger, Ledger)
    ledger.state.append(number)
    effects = Effects()
    effects.items["output"] = [ChannelItem("item", codec.encode(number))]
    return asyncio.create_task(direct.commit(activation, effects, state=True, timeout=timeout))


async def test_it_is_durable_with_the_state_when_it_returns(start: Start) -> None:
    store = ScriptedStore()
    activation = await free(start(Ledger, store=store))
    await soon(begin(activation, 2))
    assert store.state_of(ADDRESS) == [1, 2]
    assert activation.durable_side.channel("output").end == 1


async def test_nothing_is_seen_and_no_turn_begins_before_it_is_durable(start: Start) -> None:
    store = ScriptedStore()
    runtime = start(Ledger, store=store)
    activation = await free(runtime)
    store.hold()
    committing = begin(activation, 2)
    await soon(store.waiting.wait())
    turn = asyncio.create_task(Ledger.ref("1").add(3))
    await settle()
    assert not committing.done()
    assert not turn.done()
    assert activation.actor.state == [1, 2], "the turn has not begun"
    assert activation.durable_side.channel("output").end == 0, "no reader sees it"
    assert direct.find_free(runtime, ADDRESS) is None
    store.let_go()
    await soon(committing)
    assert await soon(turn) == [1, 2, 3]
    assert direct.find_free(runtime, ADDRESS) is not None


async def test_what_the_store_refuses_has_not_happened(start: Start) -> None:
    store = ScriptedStore()
    activation = await free(start(Ledger, store=store))
    store.refusals.append(StoreUnavailable("the disk is full"))
    with pytest.raises(ClusterUnavailable, match="the disk is full"):
        await soon(begin(activation, 2))
    assert await soon(Ledger.ref("1").add(3)) == [1, 3]


async def test_a_higher_epoch_ends_it(start: Start) -> None:
    store = ScriptedStore()
    activation = await free(start(Ledger, store=store))
    await store.open(ADDRESS, activation.epoch + 1)
    with pytest.raises(ConnectionLost):
        await soon(begin(activation, 2))
    assert store.state_of(ADDRESS) == [1]


async def test_nothing_is_said_after_the_lease(start: Start) -> None:
    store, directory = ScriptedStore(), LeasedDirectory(["ledger"])
    runtime = start(Ledger, store=store, directory=directory)
    activation = await free(runtime)
    store.hold()
    committing = begin(activation, 2)
    await soon(store.waiting.wait())
    directory.lease_end = 0.0
    store.let_go()
    with pytest.raises(ConnectionLost, match="lease"):
        await soon(committing)
    assert runtime.activations == {}


async def test_nothing_is_begun_after_the_lease(start: Start) -> None:
    directory = LeasedDirectory(["ledger"])
    runtime = start(Ledger, directory=directory)
    await free(runtime)
    directory.lease_end = 0.0
    assert direct.find_free(runtime, ADDRESS) is None


async def test_an_activation_that_ends_meanwhile_says_nothing(start: Start) -> None:
    store = ScriptedStore()
    runtime = start(Ledger, store=store)
    activation = await free(runtime)
    store.hold()
    committing = begin(activation, 2)
    await soon(store.waiting.wait())
    runtime.stop_acting()
    store.let_go()
    with pytest.raises(ConnectionLost):
        await soon(committing)


async def test_who_waits_no_longer_stops_nothing(start: Start, loop_time: LoopTime) -> None:
    store = ScriptedStore()
    activation = await free(start(Ledger, store=store))
    store.hold()
    late = begin(activation, 2, timeout=5.0)
    await soon(store.waiting.wait())
    await loop_time.jump(6.0)
    with pytest.raises(Timeout, match="did not answer in 5 s"):
        await soon(late)
    turn = asyncio.create_task(Ledger.ref("1").add(3))
    await settle()
    assert activation.actor.state == [1, 2], "the turn waits for the commit all the same"
    store.let_go()
    assert await soon(turn) == [1, 2, 3]

    store.hold()
    cancelled = begin(activation, 4)
    await soon(store.waiting.wait())
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    turn = asyncio.create_task(Ledger.ref("1").add(5))
    await settle()
    assert activation.actor.state == [1, 2, 3, 4]
    store.let_go()
    assert await soon(turn) == [1, 2, 3, 4, 5]
    assert store.state_of(ADDRESS) == [1, 2, 3, 4, 5]


async def test_an_actor_goes_to_sleep_after_it(start: Start) -> None:
    store = ScriptedStore()
    runtime = start(Ledger, store=store)
    activation = await free(runtime)
    store.hold()
    committing = begin(activation, 2)
    await soon(store.waiting.wait())
    activation.request_deactivation()
    await settle()
    assert ADDRESS in runtime.activations
    store.let_go()
    await soon(committing)
    await settle()
    assert ADDRESS not in runtime.activations
    assert await soon(Ledger.ref("1").add(3)) == [1, 2, 3]


async def test_what_runs_waits_or_is_watched_needs_a_message(start: Start) -> None:
    runtime = start(Ledger)
    assert direct.find_free(runtime, ADDRESS) is None, "it is not here"
    activation = await free(runtime)
    waiting = asyncio.create_task(Ledger.ref("1").wait())
    await settle()
    assert direct.find_free(runtime, ADDRESS) is None, "a turn runs"
    activation.actor.gate.set()  # type: ignore[attr-defined]
    await soon(waiting)
    assert direct.find_free(runtime, ADDRESS) is activation

    async def read() -> None:
        async for _ in actor_ref(ADDRESS).channel("$turns").subscribe():
            return

    reading = asyncio.create_task(read())
    await settle()
    assert direct.find_free(runtime, ADDRESS) is None, "somebody is told of turns"
    await Ledger.ref("1").add(2)
    await soon(reading)
