"""The app of silos that are killed while somebody talks to a running turn."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from actors import Actor, Interrupted, handler
from tests.durable.app import by_name
from tests.durable.faults import note


@dataclass
class Talk:
    lines: list[str] = field(default_factory=list)


class Talker(Actor, placement=by_name):
    """Says its message; one that begins with "wait" waits for the signal "go", and hears what comes meanwhile."""

    state: Talk

    async def receive(self, message: str) -> None:
        self.state.lines.append(message)
        async for _ in self.stream_step("say", self._say, message, resume=self._go_on, channel="output"):
            pass
        if message.startswith("wait"):
            try:
                self.state.lines.append(f"{message}: {await self.wait_for('go')}")
            except Interrupted:
                note(f"{self.address} {message} interrupted")
                raise
        self.state.lines += [f"{message} heard {other}" async for other in self.steering()]

    async def _say(self, message: str) -> AsyncIterator[str]:
        yield f"{message}."
        yield f"{message}!"

    async def _go_on(self, said: list[str], message: str) -> AsyncIterator[str]:
        for line in (f"{message}.", f"{message}!")[len(said) :]:
            yield line

    @handler(readonly=True)
    async def lines(self) -> list[str]:
        return self.state.lines
