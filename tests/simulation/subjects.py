"""The actors of the workload: each keeps the ids of the calls that it has applied, in order."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from actors import Actor, ActorError, actor_ref, handler
from tests.simulation.durable_work import Burst
from tests.simulation.history import History, Op
from tests.simulation.loop import PROCESS, Process

DURABLE = ("author", "brief", "clerk", "deed", "fragile", "ledger", "pupil", "scrap")
STORED = (*DURABLE, "diary")


def kind_of(address: str) -> str:
    """The type of the address."""
    return address.partition("-")[0]


class Planned(Exception):
    """A failure that the workload asked for."""


class Stage:
    """What actors and clients reach of the simulation."""

    def __init__(self, history: History, seed: random.Random) -> None:
        self.history = history
        self.random = seed
        self.favourite = seed.choice(("ledger-a", "ledger-b", "tally-a", "diary-a"))
        self.fragile = 0.0  # how often on_activate of a Fragile fails
        self.callers: dict[str, Process] = {}
        self.left: dict[str, tuple[int, list[str]]] = {}  # what those had that went in good order, and their life
        self._serial = 0
        self._lives = 0
        self.running: set[tuple[str, int, str]] = set()  # (address, life, op) of the turns that wait for others

    def next_life(self) -> int:
        """For an actor that wakes up: later ones have higher numbers."""
        self._lives += 1
        return self._lives

    def next_id(self, kind: str) -> str:
        self._serial += 1
        return f"{kind}{self._serial}"

    async def call(self, op: Op, *args: object) -> Any:
        """Make the call and record how it ended; raises what the caller got."""
        ref = actor_ref(op.address).options(timeout=op.timeout)
        if op.keyed:
            ref = ref.options(idempotency_key=op.effect)
        if op.on_busy is not None:
            ref = ref.options(on_busy=op.on_busy)
        self.history.begin(op)
        self.callers[op.id] = PROCESS.get()
        try:
            if op.mode == "stream":
                await self._read(op, ref, args)
                result = None
            elif op.mode == "send":
                result = await getattr(ref, op.handler).send(*args)
            elif op.mode == "publish":
                result = None
                await ref.channel().publish(op.id)
            elif op.mode == "interrupt":
                result = None
                await ref.interrupt(op.id)
            elif op.mode == "signal":
                result = None
                name, value = args
                await ref.signal(str(name), value)
            elif op.mode == "delete":
                result = None
                await ref.delete()
            else:
                result = await getattr(ref, op.handler)(*args)
                if isinstance(result, list) and len(result) == 3 and all(isinstance(n, int) for n in result):
                    op.position = (result[0], result[1], result[2])
        except asyncio.CancelledError:
            op.outcome = "unknown"  # the calling turn was ended
            self.history.end(op)
            raise
        except Exception as error:
            self.history.end(op, error)
            raise
        self.history.end(op)
        return result

    async def _read(self, op: Op, ref: Any, args: tuple[object, ...]) -> None:
        leave_at = self.random.randrange(op.count) if op.count and self.random.random() < 0.2 else -1
        items = getattr(ref, op.handler).stream(*args)
        try:
            async for item in items:
                op.items.append(item)
                if item == leave_at:
                    op.left = True
                    break
        finally:
            await items.aclose()


STAGE: ContextVar[Stage] = ContextVar("stage")


@dataclass
class Log:
    entries: list[str] = field(default_factory=list)


class Ledger(Actor, persist="turn", idle_timeout=1.5):
    """Durable after each turn."""

    state: Log
    life = 0

    @property
    def epoch(self) -> int:
        return self._activation.epoch

    async def on_activate(self) -> None:
        self.life = STAGE.get().next_life()
        STAGE.get().history.note(f"is active (epoch {self.epoch}, {self._count()} entries)", address=self.address)

    async def on_deactivate(self, reason: str) -> None:
        STAGE.get().history.note(f"goes to sleep: {reason} (epoch {self.epoch})", address=self.address)

    def _count(self) -> int:
        return len(self.state.entries)

    def _position(self) -> list[int]:
        return [self.epoch, self.life, self._count()]

    def _add(self, op: str) -> list[int]:
        STAGE.get().history.ran(op, self.address, (self.epoch, self.life))
        self.state.entries.append(op)
        return self._position()

    @handler
    async def append(self, op: str, pause: float, fail: bool) -> list[int]:
        found = self._add(op)
        if pause:
            await asyncio.sleep(pause)
        if fail:
            raise Planned(op)
        return found

    @handler
    async def jot(self, op: str) -> list[int]:
        """Cannot suspend, so it runs without a task."""
        return self._add(op)

    @handler
    async def count(self) -> list[int]:
        return self._position()

    @handler(control=True)
    async def glance(self) -> list[int]:
        return self._position()

    @handler(readonly=True)
    async def peek(self) -> list[int]:
        return self._position()

    @handler
    async def entries(self) -> list[str]:
        return self.state.entries

    @handler
    async def rest(self) -> None:
        self.deactivate()

    @handler
    async def items(self, op: str, count: int, pause: float) -> AsyncIterator[int]:
        self._add(op)
        for number in range(count):
            if pause:
                await asyncio.sleep(pause)
            yield number

    @handler
    async def forward(self, op: str, path: list[str], ancestors: list[tuple[str, str]], pause: float) -> list[int]:
        """Append, and let the next ones on the path do the same while this turn waits. Fails if they fail."""
        stage = STAGE.get()
        if any((self.address, self.life, call) in stage.running for _, call in ancestors):
            stage.history.violate(
                "a cycle cannot run", op, address=self.address, expected="CallCycle",
                actual=f"it runs inside a turn that waits for it: {ancestors}",
            )  # fmt: skip
        found = self._add(op)
        if pause:
            await asyncio.sleep(pause)
        if path:
            above = (*ancestors, (self.address, op))
            running = (self.address, self.life, op)
            stage.running.add(running)
            deeper = Op(
                f"{op}.", f"{self.address}@{self.epoch}", path[0], "forward", "ask", stage.history.loop.time(),
                timeout=3.0, ancestors=above,
            )  # fmt: skip
            try:
                await stage.call(deeper, deeper.id, path[1:], above, pause)
            except ActorError as error:
                raise Planned(f"{deeper.id}: {type(error).__name__}") from None
            finally:
                stage.running.discard(running)
        return found

    @handler
    async def burst(self, op: str, target: str, count: int, pause: float) -> list[int]:
        """Send a few messages to another actor, one after another, from within a turn.

        Those of a durable turn leave with its commit.
        """
        found = self._add(op)
        stage = STAGE.get()
        if kind_of(self.address) in DURABLE:
            stage.history.work.bursts[op] = Burst(self.address, target, count)
            for number in range(count):
                await actor_ref(target).jot.send(f"{op}/{number}")
            if pause:
                await asyncio.sleep(pause)
            return found
        for number in range(count):
            sent = Op(
                f"{op}/{number}", f"{self.address}@{self.epoch}", target, "jot", "send", stage.history.loop.time(),
                timeout=3.0,
            )  # fmt: skip
            try:
                await stage.call(sent, sent.id)
            except ActorError:
                break
        return found


class Fragile(Ledger, persist="turn", idle_timeout=0.7):
    """Its on_activate fails while the stage says so."""

    async def on_activate(self) -> None:
        self.life = STAGE.get().next_life()
        await asyncio.sleep(0.01)
        if STAGE.get().random.random() < STAGE.get().fragile:
            STAGE.get().history.note("on_activate fails, as planned", address=self.address)
            raise Planned("on_activate")


class Tally(Ledger, persist="never", idle_timeout=1.5, placement="hash", carries=("came_from",)):
    """In memory only. It rests by going elsewhere."""

    came_from = -1

    async def on_activate(self) -> None:
        await super().on_activate()
        left = STAGE.get().left.get(self.address)
        if (self.came_from, self.state.entries) not in (left, (-1, [])):
            STAGE.get().history.violate(
                "what moves is as it was left", "", address=self.address, expected=str(left),
                actual=f"{self.came_from, self.state.entries}",
            )  # fmt: skip

    async def on_deactivate(self, reason: str) -> None:
        await super().on_deactivate(reason)
        self.came_from = self.life
        STAGE.get().left[self.address] = (self.life, list(self.state.entries))

    @handler
    async def rest(self) -> None:
        self.migrate()


class Diary(Ledger, persist="deactivation", idle_timeout=1.0, placement="random"):
    """Stored when it goes to sleep."""
