"""An actor that two versions of its code host at the same time, of which only the newer one knows all of its state."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from actors import Actor, ActorError, handler, state_delta
from actors.records import DELTA
from tests.simulation.history import History, Op
from tests.simulation.store import SharedStore
from tests.simulation.subjects import Ledger, Log, Stage

DEED = "deed-a"
OLD, NEW = "1", "2"
"""The versions of the code."""


class Deed(Ledger, persist="turn", idle_timeout=0.7):
    """As the old code knows it."""

    @handler
    async def draw_up(self, op: str, pause: float) -> list[int]:
        """A turn with a step in the middle."""
        await self.step("think", asyncio.sleep, pause)
        return self._add(op)


@dataclass
class Signed(Log):
    signatures: list[str] = field(default_factory=list)


class NewDeed(Deed, type="deed", persist="turn", idle_timeout=0.7):
    """As the new code knows it: everything is signed."""

    state: Signed  # pyright: ignore[reportIncompatibleVariableOverride]  # as users do in a new version

    def _add(self, op: str) -> list[int]:
        self.state.signatures.append(op)
        return super()._add(op)

    @handler
    async def witness(self, op: str) -> list[int]:
        """The old code has no such handler."""
        return self._add(op)


class Versions:
    """Which version of the code each silo of a run has: the same for all, or one that is drawn at every start."""

    def __init__(self, seed: random.Random, *, mixed: bool) -> None:
        self.mixed = mixed
        self._random = seed
        self._over = False

    def draw(self) -> str:
        """The version of a silo that starts now."""
        if not self.mixed:
            return ""
        return NEW if self._over or self._random.random() < 0.4 else OLD

    def finish(self) -> None:
        """The upgrade comes to its end: silos start with the new version only."""
        self._over = True

    @staticmethod
    def deed(version: str) -> type[Actor]:
        """What the code of that version has for a deed."""
        return NewDeed if version == NEW else Deed


class Notary:
    """One client's dealings with the deed."""

    def __init__(self, stage: Stage, client: str, seed: random.Random) -> None:
        self.stage = stage
        self.client = client
        self.random = seed

    async def sign(self) -> None:
        """One call, or several at once, which must be processed in this order."""
        dice = self.random
        calls = []
        for _ in range(dice.choice((1, 1, 3))):
            handler = dice.choice(("append", "jot", "count", "draw_up", "draw_up", "rest", "witness"))
            calls.append(asyncio.create_task(self._call(handler)))
            await asyncio.sleep(dice.random() * 0.01)
        await asyncio.gather(*calls)

    async def _call(self, handler: str) -> None:
        dice, now = self.random, self.stage.history.loop.time()
        appends = handler not in ("count", "rest")
        op = Op(self.stage.next_id("n"), self.client, DEED, handler, "ask", now, timeout=4.0, appends=appends)
        op.planned_failure = handler == "witness"  # where no silo has the new code
        pause = dice.choice((0.0, 0.02, 0.3))
        arguments: Sequence[object] = {
            "append": (op.id, pause, False), "draw_up": (op.id, pause), "jot": (op.id,), "witness": (op.id,),
        }.get(handler, ())  # fmt: skip
        with suppress(ActorError):
            await self.stage.call(op, *arguments)


class SignatureCheck:
    """What only the new code knows of a state stays there, whoever commits."""

    def __init__(self, history: History, store: SharedStore) -> None:
        self.history = history
        self.store = store
        self.signatures: list[str] = []

    def on_commit(self, process: str) -> None:
        """The deed's state has changed in the store."""
        deltas = self.store.rows(DEED, DELTA).values()
        state = msgspec.msgpack.decode(state_delta.apply(self.store.data.records[DEED].state or b"", deltas)[1:])
        found = state.get("signatures", [])
        if found[: len(self.signatures)] != self.signatures:
            self.history.violate(
                "older code drops nothing", process, address=DEED,
                expected=f"the {len(self.signatures)} signatures before, {self.signatures[-3:]} last",
                actual=f"{len(found)} signatures, {found[-3:]} last",
            )  # fmt: skip
        self.signatures = found
