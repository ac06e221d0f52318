"""The app of a silo that is killed while a language model writes."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from actors import Actor, handler
from examples.local_model import Endpoint, complete
from tests.durable.app import by_name
from tests.durable.faults import folder


@dataclass
class Story:
    text: str = ""


class Writer(Actor, placement=by_name):
    """Continues a text, piece by piece."""

    state: Story

    @handler
    async def write(self, opening: str, max_tokens: int) -> str:
        pieces = self.stream_step("draft", self._start, opening, max_tokens, resume=self._resume, channel="draft")
        self.state.text = "".join([piece async for piece in pieces])
        return self.state.text

    def _start(self, opening: str, max_tokens: int) -> AsyncIterator[str]:
        endpoint = Endpoint.local((folder() / "model").read_text())
        return complete(opening, max_tokens=max_tokens, endpoint=endpoint)

    def _resume(self, pieces: list[str], opening: str, max_tokens: int) -> AsyncIterator[str]:
        return self._start(opening + "".join(pieces), max_tokens - len(pieces))

    @handler(readonly=True)
    async def read(self) -> str:
        return self.state.text
