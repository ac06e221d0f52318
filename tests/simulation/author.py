"""The actors that do durable work: steps, streams, channels, reminders; and one that is erased now and then."""

import asyncio
from collections.abc import AsyncIterator

from actors import StepInterrupted, actor_ref, handler
from tests.simulation.durable_work import Reminded, StepRun, Told
from tests.simulation.loop import SKEW
from tests.simulation.subjects import STAGE, Ledger, Planned


class Author(Ledger, persist="turn", idle_timeout=1.5):
    """Every kind of durable work."""

    @handler
    async def work(
        self, op: str, steps: list[tuple[str, bool, float, str]], parallel: bool, pause: float, fail: bool
    ) -> list[int]:
        """Run steps (name, once, seconds, whom its body sends a message), one after another or all at once."""
        if parallel:
            await asyncio.gather(*(self._step(op, *step) for step in steps))
        else:
            for step in steps:
                await self._step(op, *step)
        if pause:
            await asyncio.sleep(pause)
        if fail:
            raise Planned(op)
        return self._add(op)

    async def _step(self, op: str, name: str, once: bool, pause: float, sends_to: str) -> None:
        history = STAGE.get().history
        run = history.work.steps.setdefault((op, name), StepRun(once, sends_to=sends_to))
        value = ""
        try:
            value = await self.step(name, _body, op, name, pause, sends_to, once=once)
        except Planned:
            value = "raised"
        except StepInterrupted:
            value = "interrupted"
            if not once or run.value is not None:
                history.violate(
                    "a step is interrupted in its body only", op, address=self.address,
                    expected=f"what it returned before: {run.value}", actual=f"StepInterrupted of {name}: {run}",
                )  # fmt: skip
            return
        if run.value not in (None, value):
            history.violate(
                "a finished step keeps its result", op, address=self.address, expected=str(run.value),
                actual=f"step {name} returned {value}",
            )  # fmt: skip
        run.value = value

    @handler
    async def tell(self, op: str, count: int, pause: float, resumes: bool) -> list[int]:
        """Stream items to a channel: "tale" if what comes after a crash goes on, "draft" if it begins anew."""
        history = STAGE.get().history
        channel = "tale" if resumes else "draft"
        history.work.told[op] = Told(self.address, channel, count, streamed=True)
        resume = _resumed if resumes else None
        items = [
            item async for item in self.stream_step("tell", _items, op, count, pause, resume=resume, channel=channel)
        ]
        if items != _numbered(op, 0, count):
            history.violate(
                "a stream step yields everything once, in order", op, address=self.address,
                expected=f"{count} items", actual=f"{items}",
            )  # fmt: skip
        if pause:
            await asyncio.sleep(pause)
        return self._add(op)

    @handler
    async def announce(self, op: str, count: int, pause: float, fail: bool) -> list[int]:
        """Publish items with the turn's commit."""
        STAGE.get().history.work.told[op] = Told(self.address, "output", count, streamed=False)
        for item in _numbered(op, 0, count):
            await self.publish(item)
        if pause:
            await asyncio.sleep(pause)
        if fail:
            raise Planned(op)
        return self._add(op)

    @handler
    async def plan(self, op: str, after: float, every: float) -> list[int]:
        """Set a reminder that is called like the message."""
        STAGE.get().history.work.reminders[op] = Reminded(self.address, after, every)
        await self.remind(op, after=after, every=every or None)
        return self._add(op)

    @handler
    async def forgo(self, op: str, name: str) -> list[int]:
        """Cancel a reminder."""
        STAGE.get().history.work.cancelled[op] = name
        await self.cancel_reminder(name)
        return self._add(op)

    async def on_reminder(self, name: str) -> None:
        due = self.context.message_id.partition("@")[2]
        now = self._activation.runtime.clock.time()
        if now < float(due) - SKEW:  # another silo's clock may have said that it is due
            STAGE.get().history.violate(
                "reminders are not early", name, address=self.address, expected=f"at {due}", actual=f"at {now}"
            )
        self._add(f"{name}!{due}")


class Scrap(Ledger, persist="turn", idle_timeout=1.0):
    """Is erased now and then."""

    @handler
    async def announce(self, op: str) -> list[int]:
        """Publish one item with the turn's commit."""
        await self.publish(op)
        return self._add(op)


async def _body(op: str, name: str, pause: float, sends_to: str) -> str:
    """A step that counts its runs outside of the actor."""
    history = STAGE.get().history
    run = history.work.steps[op, name]
    run.starts += 1
    history.note(f"step  {op} {name} runs for the {run.starts}. time")
    if run.value is not None or (run.once and run.starts > 1):
        history.violate(
            "a finished step never runs again, a once step never twice", op,
            expected="one run" if run.once else "no run: it had returned", actual=f"step {name}: {run}",
        )  # fmt: skip
    if sends_to:
        await actor_ref(sends_to).jot.send(f"{op}/{name}")
    if pause:
        await asyncio.sleep(pause)
    if name.startswith("f"):
        raise Planned(name)
    return f"{name} {run.starts}"


def _numbered(op: str, first: int, count: int) -> list[str]:
    return [f"{op}.{number}" for number in range(first, count)]


async def _items(op: str, count: int, pause: float) -> AsyncIterator[str]:
    for item in _numbered(op, 0, count):
        if pause:
            await asyncio.sleep(pause)
        yield item


async def _resumed(had: list[str], op: str, count: int, pause: float) -> AsyncIterator[str]:
    for item in _numbered(op, len(had), count):
        if pause:
            await asyncio.sleep(pause)
        yield item
