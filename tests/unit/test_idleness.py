"""Idle actors go to sleep, and wake up with what they had stored."""

import asyncio

from actors import Actor, actor_ref, handler
from tests.unit.conftest import Start
from tests.unit.fakes import LoopTime, ScriptedStore, settle, soon


def sleeper(log: list[str], gate: asyncio.Event | None = None, idle_timeout: float = 100) -> type[Actor]:
    class Sleeper(Actor, idle_timeout=idle_timeout):
        state: dict[str, int]

        async def on_activate(self) -> None:
            log.append("activate")

        async def on_deactivate(self, reason: str) -> None:
            log.append(reason)

        async def receive(self, message: object) -> int:
            self.state["n"] = self.state.get("n", 0) + 1
            return self.state["n"]

        @handler
        async def work(self) -> str:
            assert gate is not None
            await gate.wait()
            return "worked"

        @handler(readonly=True)
        async def watch(self) -> str:
            assert gate is not None
            await gate.wait()
            return "watched"

    return Sleeper


async def test_an_idle_actor_goes_to_sleep_and_comes_back_with_its_state(
    loop_time: LoopTime, start: Start, store: ScriptedStore
) -> None:
    log: list[str] = []
    runtime = start(sleeper(log), store=store)
    assert await soon(actor_ref("sleeper-1").ask()) == 1
    await loop_time.jump(120)
    assert log == ["activate", "idle"]
    assert not runtime.activations
    assert await soon(actor_ref("sleeper-1").ask()) == 2
    assert log == ["activate", "idle", "activate"]


async def test_an_actor_is_not_put_to_sleep_before_its_time(loop_time: LoopTime, start: Start) -> None:
    log: list[str] = []
    start(sleeper(log))
    for _ in range(10):
        await soon(actor_ref("sleeper-1").ask())
        await loop_time.jump(60)
    assert log == ["activate"]
    await loop_time.jump(60)
    assert log == ["activate", "idle"]


async def test_a_running_turn_keeps_its_actor_awake(loop_time: LoopTime, start: Start) -> None:
    log: list[str] = []
    gate = asyncio.Event()
    start(sleeper(log, gate))
    turn = asyncio.ensure_future(actor_ref("sleeper-1").options(timeout=None).work())
    await settle()
    for _ in range(5):
        await loop_time.jump(120)
    assert log == ["activate"]
    gate.set()
    assert await soon(turn) == "worked"
    await loop_time.jump(60)
    assert log == ["activate"], "the time counts from the end of the turn"
    await loop_time.jump(200)
    assert log == ["activate", "idle"]


async def test_a_readonly_call_keeps_its_actor_awake(loop_time: LoopTime, start: Start) -> None:
    log: list[str] = []
    gate = asyncio.Event()
    start(sleeper(log, gate))
    watching = asyncio.ensure_future(actor_ref("sleeper-1").options(timeout=None).watch())
    await settle()
    await loop_time.jump(500)
    assert log == ["activate"]
    gate.set()
    assert await soon(watching) == "watched"


async def test_an_infinite_idle_timeout_never_ends(loop_time: LoopTime, start: Start) -> None:
    log: list[str] = []
    start(sleeper(log, idle_timeout=float("inf")))
    await soon(actor_ref("sleeper-1").ask())
    await loop_time.jump(1e9)
    assert log == ["activate"]


async def test_many_idle_actors_sleep_and_the_busy_one_stays(loop_time: LoopTime, start: Start) -> None:
    runtime = start(sleeper([]))
    for n in range(50):
        await soon(actor_ref(f"sleeper-{n}").ask())
    await loop_time.jump(70)
    await soon(actor_ref("sleeper-7").ask())
    await loop_time.jump(50)
    assert list(runtime.activations) == ["sleeper-7"]


async def test_each_class_has_its_own_idle_timeout(loop_time: LoopTime, start: Start) -> None:
    class Brief(Actor, idle_timeout=1):
        async def receive(self, message: object) -> None: ...

    class Long(Actor, idle_timeout=1000):
        async def receive(self, message: object) -> None: ...

    runtime = start(Brief, Long)
    await soon(actor_ref("brief-1").ask())
    await soon(actor_ref("long-1").ask())
    await loop_time.jump(10)
    assert list(runtime.activations) == ["long-1"]


async def test_a_closed_runtime_puts_nothing_to_sleep(loop_time: LoopTime, start: Start) -> None:
    log: list[str] = []
    runtime = start(sleeper(log))
    await soon(actor_ref("sleeper-1").ask())
    await runtime.close()
    await loop_time.jump(1000)
    assert log == ["activate"]
