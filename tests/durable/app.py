"""The app of the silos under test: one turn that does everything that a turn can do, and those whom it tells."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from actors import Actor, StepInterrupted, actor_ref, handler
from cluster.member import Member
from tests.durable import faults
from tests.durable.faults import note, reach

DELTAS = [f"d{number} " for number in range(6)]
LETTERS = 3


def by_name(address: str, members: list[Member]) -> str:
    """Keys begin with the name of the silo that they want: ``worker-n2.x``. Without that silo any will do."""
    wanted = address.partition("-")[2].partition(".")[0]
    return min(members, key=lambda member: (member.name != wanted, member.name)).silo


@dataclass
class Work:
    jobs: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    reminded: list[str] = field(default_factory=list)


class Worker(Actor, placement=by_name):
    """Runs bodies, streams, publishes, sends and sets a reminder, all in one turn."""

    state: Work

    @handler
    async def work(self, job: str, targets: list[str]) -> str:
        reach(self.address, "turn begins")
        self.state.jobs.append(job)
        await self.publish(f"{job} begins")
        plan = await self.step("plan", self._body, "plan", job)
        try:
            bill = await self.step("bill", self._body, "bill", job, once=True)
        except StepInterrupted:
            bill = "interrupted"
        text = ""
        async for delta in self.stream_step("draft", self._start, job, resume=self._resume, channel="draft"):
            text += delta
        for number in range(LETTERS):
            for target in targets:
                await actor_ref(target).send(f"{job} {number}")
        await self.remind("later", after=0.0)
        await self.publish(f"{job} ends")
        self.state.results.append(f"{plan}|{bill}|{text}")
        reach(self.address, "turn ends")
        return self.state.results[-1]

    async def _body(self, name: str, job: str) -> str:
        note(f"{self.address} {name} {job}")
        reach(self.address, f"in {name}")
        await asyncio.sleep(0)
        return f"{name} of {job}"

    async def _start(self, job: str) -> AsyncIterator[str]:
        note(f"{self.address} start {job}")
        async for delta in self._write(DELTAS):
            yield delta

    async def _resume(self, deltas: list[str], job: str) -> AsyncIterator[str]:
        note(f"{self.address} resume {job} {len(deltas)}")
        async for delta in self._write(DELTAS[len(deltas) :]):
            yield delta

    async def _write(self, deltas: list[str]) -> AsyncIterator[str]:
        for delta in deltas:
            note(f"{self.address} {delta}")
            reach(self.address, f"at {delta}")
            yield delta
            # Let what was written become durable before the next one comes, so that the kills hit one place.
            await asyncio.sleep(0.02)

    async def on_reminder(self, name: str) -> None:
        note(f"{self.address} reminder")
        reach(self.address, "in reminder")
        self.state.reminded.append(name)
        await asyncio.sleep(0)

    @handler(readonly=True)
    async def read(self) -> Work:
        return self.state


@dataclass
class Letters:
    seen: list[str] = field(default_factory=list)


class Ledger(Actor, placement=by_name):
    """Its handler cannot suspend: a message's only commit is that of its turn."""

    state: Letters

    async def receive(self, message: str) -> None:
        self.state.seen.append(message)

    @handler(readonly=True)
    async def read(self) -> list[str]:
        return self.state.seen


class Postbox(Ledger):
    """Its messages are stored before they run."""

    async def receive(self, message: str) -> None:
        self.state.seen.append(message)
        await asyncio.sleep(0)


@dataclass
class Count:
    value: int = 0


class Counter(Actor, placement=by_name):
    state: Count

    @handler
    async def add(self) -> int:
        self.state.value += 1
        return self.state.value


class Relay(Actor, placement=by_name):
    """Has nothing to commit itself."""

    @handler
    async def add(self, counter: str) -> int:
        return int(await actor_ref(counter).add())


class Fragile(Ledger):
    """Its messages can end their silos, outlast them, and be handled by another version of its code."""

    @handler
    async def good(self, name: str) -> None:
        self.state.seen.append(name)

    @handler
    async def bad(self, name: str) -> None:
        await self.step("arrive", self._body, "arrive")  # from here on the message is in the store
        await self.step("touch", self._touch)
        self.state.seen.append(name)

    @handler
    async def bad_at_once(self) -> None:
        reach(self.address, "touch")
        await asyncio.sleep(0)

    async def _touch(self) -> None:
        reach(self.address, "touch")

    @handler
    async def slow(self, name: str, *, journaled: bool) -> None:
        if journaled:
            await self.step("arrive", self._body, "arrive")
        await self.step("wait", self._wait)
        self.state.seen.append(name)

    async def _wait(self) -> None:
        note(f"{self.address} waits on {self._activation.runtime.directory.silo.partition('.')[0]}")
        while not (faults.folder() / f"{self.key} may go on").exists():  # noqa: ASYNC110  # it comes from outside
            await asyncio.sleep(0.01)

    @handler
    async def pay(self, order: str) -> str:
        renamed = (faults.folder() / "renamed").exists()
        found = await self.step("fetch", self._body, "fetch")
        paid = await self.step("pay" if renamed else "charge", self._body, "charge", once=True)
        reach(self.address, "paid")
        self.state.seen.append(order)
        return f"{found} {paid}"

    async def _body(self, name: str) -> str:
        note(f"{self.address} {name}")
        return name
