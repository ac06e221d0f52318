"""Random sequences of messages with every ``on_busy``, and of silos that die, against a model of a few lines."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from actors import Actor, Busy, actor_ref
from actors.alone import LonelyDirectory, NoTransport
from actors.ref import ON_BUSY, current_caller
from actors.runtime import Runtime
from actors.settings import Settings
from cluster.clock import SystemClock
from tests.unit.fakes import ScriptedStore, soon, until

Policy = Literal["queue", "reject", "interrupt", "rollback", "steer"]
REF = actor_ref("cell-1")


@dataclass
class Told:
    lines: list[Any] = field(default_factory=list)


class Cell(Actor):
    """Says its message while it runs, waits until it is let go, and remembers what it was told meanwhile."""

    state: Told
    world: ClassVar["World"]

    async def receive(self, message: int) -> None:
        self.state.lines.append(message)
        async for _ in self.stream_step("say", self._say, message, channel="output"):
            pass
        await self.step("wait", self.world.wait, message)
        self.state.lines += [["told", message, other] async for other in self.steering()]

    async def _say(self, message: int) -> AsyncIterator[int]:
        yield message


class World:
    def __init__(self) -> None:
        self.data = ScriptedStore().data
        self.era = 0
        self.at_gate: int | None = None
        self.gate = asyncio.Event()
        Cell.world = self
        self.boot()

    def boot(self) -> None:
        self.era += 1
        self.at_gate = None
        directory = LonelyDirectory(["cell"], era=self.era, name=f"local.{self.era}")
        self.runtime = Runtime(
            [Cell],
            directory=directory,
            transport=NoTransport(),
            store=ScriptedStore(self.data),
            clock=SystemClock(),
            settings=Settings(max_adoptions=1000),
        )
        current_caller.set(self.runtime.outbound)
        self.runtime.spawn(self.runtime.keep_agenda())

    async def crash(self) -> None:
        self.runtime.vanish()
        await self.runtime.close()
        self.boot()

    async def wait(self, message: int) -> None:
        self.at_gate = message
        try:
            await self.gate.wait()
        finally:
            if self.at_gate == message:
                self.at_gate = None

    async def let_go(self) -> None:
        gate, self.gate = self.gate, asyncio.Event()
        gate.set()


class Model:
    """What has to come out."""

    def __init__(self) -> None:
        self.running: int | None = None
        self.waiting: list[tuple[int, int | None]] = []  # with the message whose turn it was handed to
        self.lines: list[Any] = []
        self.said: list[int] = []

    def send(self, message: int, policy: Policy) -> bool:
        if self.running is not None and policy == "reject":
            return False
        self.waiting.append((message, self.running if policy == "steer" else None))
        if self.running is not None and policy in ("interrupt", "rollback"):
            if policy == "rollback":
                self.said.remove(self.running)
            self.running = None
        self._next()
        return True

    def let_go(self) -> None:
        if self.running is not None:
            heard = [message for message, into in self.waiting if into == self.running]
            self.lines += [self.running, *(["told", self.running, message] for message in heard)]
            self.waiting = [(message, into) for message, into in self.waiting if message not in heard]
            self.running = None
            self._next()

    def _next(self) -> None:
        if self.running is None and self.waiting:
            self.running, _ = self.waiting.pop(0)
            self.said.append(self.running)


sends = st.tuples(st.just("send"), st.sampled_from(ON_BUSY), st.booleans())
operations = st.lists(st.one_of(sends, sends, st.just(("let go",)), st.just(("crash",))), max_size=14)


@hypothesis_settings(max_examples=120, deadline=None)
@given(operations)
def test_whatever_comes_has_the_effect_that_its_policy_says(program: list[tuple[Any, ...]]) -> None:
    asyncio.run(run(program))


async def run(program: list[tuple[Any, ...]]) -> None:
    world, model = World(), Model()
    try:
        for number, operation in enumerate([*program, *[("let go",)] * len(program)]):
            await perform(world, model, number, operation)
            await until(lambda: world.at_gate == model.running, f"{operation}: {model.running} runs")
        await check(model)
    finally:
        await world.runtime.close()


async def perform(world: World, model: Model, number: int, operation: tuple[Any, ...]) -> None:
    match operation:
        case ("send", policy, crash):
            taken = model.send(number, policy)
            try:
                await soon(REF.options(on_busy=policy).send(number))
            except Busy:
                assert not taken
            else:
                assert taken
            if crash:  # before anything that follows from it may have become durable
                await world.crash()
        case ("let go",):
            model.let_go()
            await world.let_go()
        case ("crash",):
            await world.crash()


async def check(model: Model) -> None:
    await soon(actor_ref("cell-1").options(on_busy="queue").send(-1))
    Cell.world.gate.set()
    model.send(-1, "queue")
    model.let_go()
    store = Cell.world.runtime.store
    assert isinstance(store, ScriptedStore)
    await until(lambda: (store.state_of("cell-1") or {}).get("lines") == model.lines, f"the state is {model.lines}")
    kept: list[tuple[int, int]] = []
    async for event in REF.channel("output").subscribe():
        if event.kind == "reset":
            kept = [entry for entry in kept if entry[0] < event.data]
        else:
            kept.append((event.offset, event.data))
        if event.kind == "item" and event.data == -1:
            break
    assert [data for _, data in kept] == model.said
