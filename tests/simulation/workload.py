"""What the clients do all the time: calls of every kind to a handful of actors."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress

from actors import ActorError
from actors.ref import OnBusy
from tests.simulation.brief import BRIEF
from tests.simulation.brief import CHANNELS as BRIEF_CHANNELS
from tests.simulation.clerk import Visitor
from tests.simulation.deed import Notary
from tests.simulation.history import Op
from tests.simulation.pupil import PUPIL
from tests.simulation.subjects import DURABLE, Stage, kind_of

ADDRESSES = [
    "ledger-a", "ledger-b", "ledger-c", "author-a", "author-b", "fragile-a", "tally-a", "tally-b", "diary-a", "diary-b",
]  # fmt: skip
AUTHORS = ["author-a", "author-b"]
SCRAP = "scrap-a"


class Workload:
    """One client's sessions. All calls of a client come from one sender."""

    def __init__(
        self,
        stage: Stage,
        client: str,
        seed: random.Random,
        *,
        pace: float,
        only: Sequence[str] = (),
        among: Sequence[str] = (),
        signs: bool = False,
    ) -> None:
        self.stage = stage
        self.client = client
        self.random = seed
        self.pace = pace
        self.running = True
        self.finished = False
        self.open: set[asyncio.Task[None]] = set()
        self.periodic: dict[str, str] = {}  # reminders that are to be cancelled, and where
        count = seed.randint(3, len(ADDRESSES))
        self.addresses = sorted(seed.sample(ADDRESSES, count)) if not only else among or ADDRESSES[:5:2]
        self.weights = [seed.random() * (not only or kind.__name__ in only) for kind in _KINDS]
        self.weights[-1] *= 3
        self.dice = random.Random(seed.getstate()[1][0])  # of its own: what others do stays the same
        self.stirs = not only or "stir" in only
        self.visits = not only or "visit" in only
        self.signs = signs
        self.notary = Notary(stage, client, random.Random(f"{seed.getstate()[1][1]} notary"))
        self.visitor = Visitor(stage, client, random.Random(self.dice.random()))

    async def run(self) -> None:
        steady = asyncio.create_task(self._hold_on_to(self.stage.favourite))
        stirring = asyncio.create_task(self._stir())
        visiting = asyncio.create_task(self._visit())
        signing = asyncio.create_task(self._sign())
        await self._wander()
        await steady
        await stirring
        await visiting
        await signing
        while self.open:
            await asyncio.wait(self.open)
        for name, address in list(self.periodic.items()):  # again, for late repeats of messages set some anew
            while not await self._forgo(name, address):
                pass
        self.finished = True

    async def _hold_on_to(self, address: str) -> None:
        """Keep one actor awake that all clients share: who cannot see a new owner goes on with the old one."""
        while self.running and self.stage.history.phase in ("start", "calm", "faults"):
            await asyncio.sleep(0.2 + self.random.random() * 0.2)
            op = self._op(address, self.random.choice(("count", "jot")))
            op.appends = op.handler == "jot"
            await self._call(op, *([op.id] if op.appends else []))

    async def _wander(self) -> None:
        while self.running:
            slower = 4 if self.stage.history.phase == "recovery" else 1
            await asyncio.sleep(self.random.expovariate(1 / self.pace) * slower)
            kind = self.random.choices(_KINDS, self.weights)[0]
            task = asyncio.create_task(kind(self))
            self.open.add(task)
            task.add_done_callback(self._ended)

    async def _stir(self) -> None:
        """Stop and steer the turns of one actor."""
        while self.running and self.stirs:
            slower = 4 if self.stage.history.phase == "recovery" else 1
            await asyncio.sleep(self.dice.expovariate(0.5 / self.pace) * slower)
            task = asyncio.create_task(self.stir())
            self.open.add(task)
            task.add_done_callback(self._ended)

    async def _visit(self) -> None:
        """Have dealings with those who wait for signals."""
        while self.running and self.visits:
            slower = 4 if self.stage.history.phase == "recovery" else 1
            await asyncio.sleep(self.visitor.random.expovariate(1) * slower)
            task = asyncio.create_task(self.visitor.visit())
            self.open.add(task)
            task.add_done_callback(self._ended)

    async def _sign(self) -> None:
        """Have dealings with an actor of which there are two versions."""
        while self.running and self.signs:
            slower = 4 if self.stage.history.phase == "recovery" else 1
            await asyncio.sleep(self.notary.random.expovariate(1) * slower)
            task = asyncio.create_task(self.notary.sign())
            self.open.add(task)
            task.add_done_callback(self._ended)

    async def stir(self) -> None:
        """One message to an actor whose turns are stopped and steered, or an interrupt."""
        dice, what = self.dice, self.dice.random()
        if what < 0.2:
            await self._call(self._op(PUPIL, "interrupt", "interrupt", appends=False))
        elif what < 0.3:
            await self._call(self._op(PUPIL, "output", "publish", appends=False))
        elif what < 0.6:
            await self._jot(dice.choice((None, "steer", "steer", "reject", "interrupt", "rollback")))
        else:
            await self._toil(dice.choice((None, None, "interrupt", "rollback")))

    async def _jot(self, on_busy: OnBusy | None) -> None:
        op = self._op(PUPIL, "jot")
        op.on_busy, op.planned_failure = on_busy, True
        await self._call(op, op.id)

    async def _toil(self, on_busy: OnBusy | None) -> None:
        dice, key = self.dice, self.stage.next_id("k")
        steps = [
            (f"s{number}", dice.random() < 0.3, dice.choice((0.0, 0.02, 0.2)), dice.choice(("", "", "ledger-c")))
            for number in range(dice.randint(0, 3))
        ]
        arguments = dice.choice((0, 1, 5, 20)), steps, dice.choice((0.0, 0.002, 0.02, 0.3)), dice.random() < 0.5
        keyed = dice.random() < 0.3
        calls = []
        for _ in range(1 + keyed):
            op = self._op(PUPIL, "toil")
            op.on_busy, op.planned_failure, op.keyed = on_busy, True, keyed
            op.effect = key if keyed else op.id
            calls.append(asyncio.create_task(self._call(op, op.effect, *arguments)))
            if dice.random() < 0.5:
                await asyncio.sleep(dice.random())
        await asyncio.gather(*calls)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self.open.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.stage.history.violate("clients go on", self.client, expected="no exception", actual=repr(error))

    def _op(self, address: str, handler: str, mode: str = "ask", *, timeout: float = 4.0, appends: bool = True) -> Op:
        now = self.stage.history.loop.time()
        kind = handler[0]
        return Op(
            self.stage.next_id(kind), self.client, address, handler, mode, now, timeout=timeout, appends=appends
        )  # fmt: skip

    async def _call(self, op: Op, *args: object) -> bool:
        with suppress(ActorError):
            await self.stage.call(op, *args)
        return op.outcome == "ok"

    def _address(self) -> str:
        return self.random.choice(self.addresses)

    def _pause(self) -> float:
        return self.random.choice((0.0, 0.0, 0.002, 0.02, 0.3))

    async def append(self) -> None:
        op = self._op(self._address(), "append")
        op.planned_failure = self.random.random() < 0.15
        await self._call(op, op.id, self._pause(), op.planned_failure)

    async def read(self) -> None:
        op = self._op(self._address(), self.random.choice(("count", "count", "peek", "glance")), appends=False)
        await self._call(op)

    async def pipeline(self) -> None:
        """Several calls at once: they must be processed in this order."""
        address = self._address()
        calls = []
        for _ in range(self.random.randint(2, 6)):
            op = self._op(address, "jot", self.random.choice(("ask", "send")))
            calls.append(asyncio.create_task(self._call(op, op.id)))
            if self.random.random() < 0.3:
                await asyncio.sleep(self.random.random() * 0.01)
        await asyncio.gather(*calls)

    async def stream(self) -> None:
        op = self._op(self._address(), "items", "stream")
        op.count = self.random.choice((0, 3, 20, 150))
        await self._call(op, op.id, op.count, self.random.choice((0.0, 0.0, 0.005)))

    async def chain(self) -> None:
        """A path upwards cannot deadlock with another; one that comes back is a cycle."""
        durable = [address for address in self.addresses if kind_of(address) in DURABLE]
        path = sorted(self.random.sample(durable, min(len(durable), self.random.randint(1, 3))))
        if not path:
            return
        if self.random.random() < 0.3:
            path.append(self.random.choice(path))
        op = self._op(path[0], "forward")
        op.planned_failure = len(path) > len(set(path))
        await self._call(op, op.id, path[1:], (), self._pause())

    async def burst(self) -> None:
        op = self._op(self._address(), "burst")
        others = [address for address in self.addresses if address > op.address]
        if others:
            await self._call(op, op.id, self.random.choice(others), self.random.randint(1, 4), self._pause())

    async def rest(self) -> None:
        await self._call(self._op(self._address(), "rest", appends=False))

    async def work(self) -> None:
        """A turn of several steps."""
        steps = []
        for number in range(self.random.randint(1, 4)):
            name = f"{'f' if self.random.random() < 0.1 else 's'}{number}"
            target = self.random.choice(ADDRESSES[:6]) if self.random.random() < 0.2 else ""
            steps.append((name, self.random.random() < 0.4, self._pause(), target))
        op = self._op(self.random.choice(AUTHORS), "work")
        op.planned_failure = self.random.random() < 0.1
        await self._call(op, op.id, steps, self.random.random() < 0.4, self._pause(), op.planned_failure)

    async def tell(self) -> None:
        op = self._op(self.random.choice(AUTHORS), "tell", self.random.choice(("ask", "send")))
        pause = self.random.choice((0.0, 0.002, 0.02))
        await self._call(op, op.id, self.random.choice((0, 1, 5, 30)), pause, self.random.random() < 0.5)

    async def announce(self) -> None:
        op = self._op(self.random.choice(AUTHORS), "announce", self.random.choice(("ask", "send")))
        op.planned_failure = op.mode == "ask" and self.random.random() < 0.15
        await self._call(op, op.id, self.random.randint(1, 5), self._pause(), op.planned_failure)

    async def publish(self) -> None:
        """Into an actor's channel from outside."""
        await self._call(self._op(self.random.choice(AUTHORS), "output", "publish", appends=False))

    async def plan(self) -> None:
        """A reminder; periodic ones, and some others, are cancelled after a while."""
        op = self._op(self.random.choice(AUTHORS), "plan")
        every = self.random.choice((0.0, 0.0, 0.4, 1.5))
        await self._call(op, op.id, self.random.choice((0.0, 0.1, 1.0, 4.0)), every)
        if every:
            self.periodic[op.id] = op.address
        if self.random.random() < 0.4:
            await asyncio.sleep(self.random.random() * 3)
            await self._forgo(op.id, op.address)

    async def _forgo(self, name: str, address: str) -> bool:
        op = self._op(address, "forgo")
        return await self._call(op, op.id, name)

    async def repeat(self) -> None:
        """The same message several times, by its idempotency key."""
        address = self.random.choice([address for address in ADDRESSES if kind_of(address) in DURABLE])
        key = self.stage.next_id("k")
        calls = []
        for number in range(self.random.randint(2, 4)):
            op = self._op(address, "append", self.random.choice(("ask", "ask", "send")))
            op.effect, op.keyed = key, True
            calls.append(asyncio.create_task(self._call(op, key, 0.02, False)))
            if number and self.random.random() < 0.5:
                await asyncio.sleep(self.random.random() * 2)
        await asyncio.gather(*calls)

    async def scrap(self) -> None:
        """An actor that is deleted now and then."""
        if self.random.random() < 0.2:
            await self._call(self._op(SCRAP, "delete", "delete", appends=False))
            return
        op = self._op(SCRAP, self.random.choice(("jot", "announce")), self.random.choice(("ask", "send")))
        await self._call(op, op.id)

    async def brief(self) -> None:
        """Into a channel of which little is retained, or which is closed then."""
        channel = self.random.choice(BRIEF_CHANNELS)
        closes = channel != "output" and self.random.random() < 0.1
        op = self._op(BRIEF, "publish_some", self.random.choice(("ask", "send")))
        await self._call(op, op.id, channel, self.random.choice((1, 2, 5, 20)), closes, self._pause())


_KINDS = [
    Workload.append, Workload.append, Workload.read, Workload.pipeline, Workload.pipeline, Workload.stream,
    Workload.chain, Workload.burst, Workload.rest, Workload.work, Workload.work, Workload.tell, Workload.announce,
    Workload.publish, Workload.plan, Workload.repeat, Workload.scrap, Workload.brief,
]  # fmt: skip
