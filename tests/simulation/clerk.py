"""An actor whose turns wait for signals, and those who send it some: earlier, later, or never."""

import asyncio
import random
from contextlib import suppress

from actors import ActorError, Interrupted, handler
from actors.records import INTERRUPT, JOURNAL, MESSAGE, SIGNAL, Pending, Waiting, journal_rows, message_rows
from tests.simulation.durable_work import Awaited
from tests.simulation.history import Op
from tests.simulation.loop import SKEW
from tests.simulation.store import SharedStore
from tests.simulation.subjects import STAGE, Ledger, Stage

CLERKS = ["clerk-a", "clerk-b"]
"""The turns of the second one are interrupted now and then."""
NAMES = ("yes", "no")
LATE, STOPPED = "late", "stopped"


class Clerk(Ledger, persist="turn", idle_timeout=1.0):
    """Waits for decisions of others."""

    @handler
    async def decide(self, op: str, waits: list[tuple[str, float | None]], pause: float, catches: bool) -> list[int]:
        """Wait for signals, one after another; a wait without a timeout ends with its signal only."""
        STAGE.get().history.ran(op, self.address, (self.epoch, self.life))
        found: list[str] = []
        try:
            for number, (name, timeout) in enumerate(waits):
                found.append(await self._wait(op, number, name, timeout))
                if pause:
                    await asyncio.sleep(pause)
        except Interrupted:
            if not catches:
                raise
            found.append(STOPPED)
        for number, value in enumerate(found):
            self.state.entries.append(f"{op}={number}={value}")
        return self._add(op)

    async def _wait(self, op: str, number: int, name: str, timeout: float | None) -> str:
        history, clock = STAGE.get().history, self._activation.runtime.clock
        awaited = history.work.awaited.setdefault((op, number), Awaited(self.address, name, timeout, clock.time()))
        try:
            value: str = await self.wait_for(name, timeout=timeout)
        except TimeoutError:
            value = LATE
            if timeout is None or clock.time() < awaited.since + timeout - SKEW:
                history.violate(
                    "a timeout is not early", op, address=self.address, expected=f"{awaited} to go on",
                    actual=f"TimeoutError at {clock.time()}",
                )  # fmt: skip
        if awaited.value not in (None, value):
            history.violate(
                "a wait that is over keeps its outcome", op, address=self.address, expected=str(awaited.value),
                actual=f"wait {number} for {name!r} returned {value}",
            )  # fmt: skip
        awaited.value = value
        return value


class Visitor:
    """One client's dealings with the clerks."""

    def __init__(self, stage: Stage, client: str, seed: random.Random) -> None:
        self.stage = stage
        self.client = client
        self.random = seed

    async def visit(self) -> None:
        """A signal, a question that waits for some, or an interrupt."""
        dice, address = self.random, self.random.choice(CLERKS)
        what = dice.random()
        if what < 0.45:
            await send_signal(self.stage, self.client, address, dice.choice(NAMES))
        elif what < 0.55 and address == CLERKS[1]:
            await self._call(self._op(address, "interrupt", "interrupt", appends=False))
        else:
            await self._decide(address)

    async def _decide(self, address: str) -> None:
        dice, ask = self.random, address == CLERKS[1] or self.random.random() < 0.4
        waits = [
            (dice.choice(NAMES), dice.choice((None, 0.0, 0.1, 0.8, 2.5, 4.0))) for _ in range(dice.choice((1, 1, 1, 2)))
        ]
        op = self._op(address, "decide", "ask" if ask else "send", timeout=dice.choice((0.2, 1.0, 4.0)) if ask else 4.0)
        op.planned_failure = ask
        await self._call(op, op.id, waits, dice.choice((0.0, 0.0, 0.02, 0.3)), dice.random() < 0.5)

    def _op(self, address: str, handler: str, mode: str, *, timeout: float = 4.0, appends: bool = True) -> Op:
        id, now = self.stage.next_id(handler[0]), self.stage.history.loop.time()
        return Op(id, self.client, address, handler, mode, now, timeout=timeout, appends=appends)

    async def _call(self, op: Op, *args: object) -> None:
        with suppress(ActorError):
            await self.stage.call(op, *args)


async def send_signal(stage: Stage, client: str, address: str, name: str) -> None:
    """One signal, whose value is the id of the call."""
    op = Op(
        stage.next_id("s"), client, address, "signal", "signal", stage.history.loop.time(), timeout=4.0, appends=False
    )
    stage.history.work.signals[op.id] = name
    with suppress(ActorError):
        await stage.call(op, name, op.id)


async def relieve(stage: Stage, client: str, store: SharedStore) -> None:
    """Signal everything that is waited for, until nothing is."""
    while True:
        await asyncio.sleep(0.3)
        for address in CLERKS:
            for _, name, _ in waiting(store, address):
                if not store.rows(address, signal_key(name)):
                    await send_signal(stage, client, address, name)


def waiting(store: SharedStore, address: str) -> list[tuple[str, str, float]]:
    """The messages there that wait for a signal, as the store has it: id, what for, until when."""
    found = []
    for key, value in store.rows(address, MESSAGE).items():
        row = message_rows.decode(value)
        if not isinstance(row, Pending):
            continue
        for path, journaled in store.rows(address, JOURNAL + key[1:]).items():
            wait = journal_rows.decode(journaled)
            if isinstance(wait, Waiting):
                found.append((row.request.message_id, wait_name(path), wait.deadline))
    return found


def wait_name(key: bytes) -> str:
    """What the wait is for whose journal row has this key."""
    return key[17:].decode().lstrip("\x1d").partition(":")[0]


def signal_key(name: str) -> bytes:
    """What the keys of its rows begin with."""
    return SIGNAL + name.encode() + b"\0"


def rests_until(store: SharedStore, address: str) -> float | None:
    """Until when nothing there has to be done because the turn that runs waits; None if it does not."""
    for message_id, name, deadline in waiting(store, address):
        stopped = store.rows(address, INTERRUPT + message_id.encode())
        if not stopped and not store.rows(address, signal_key(name)):
            return deadline
    return None
