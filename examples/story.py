"""Co-writing sessions: you write a line, a language model goes on, the story stays, whatever becomes of its silo."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from actors import Actor, Interrupted, handler
from examples.local_model import complete

CONTEXT = 1500
"""Characters of the story that the model sees; a small model gains nothing from more."""
TOKENS = 36
"""How much the model may write in a paragraph."""
END = "\n\n"
"""The last piece of every paragraph."""


@dataclass
class Story:
    """What a session remembers, on whichever silo it wakes up next."""

    text: str = ""
    turns: int = 0


class Session(Actor, idle_timeout=4):
    """One story. It sleeps after 4 seconds without a reader or writer.

    Its channel "output" has the same text, piece by piece, as it is written.
    """

    state: Story

    @handler
    async def write(self, line: str) -> int:
        """Add a paragraph: the user's line and how the model goes on. Returns the length of the story.

        Every piece is journaled and published while it comes. When the silo is lost in the middle, this runs again on
        another one, gets the pieces that are there, and lets the model write the rest. When it is interrupted, for
        instance by a line sent with ``on_busy="interrupt"``, the model stops there, and what is written stays.
        """
        pieces = []
        try:
            async for piece in self.stream_step("paragraph", self._begin, line, resume=self._go_on, channel="output"):
                pieces.append(piece)  # noqa: PERF401  # what came before an interruption counts
        except Interrupted:
            if pieces[-1:] != [END]:
                pieces.append(END)
                await self.publish(END)
        self.state.text += "".join(pieces)
        self.state.turns += 1
        return len(self.state.text)

    async def _begin(self, line: str) -> AsyncIterator[str]:
        yield line
        async for piece in _continuation(self.state.text + line, TOKENS):
            yield piece

    async def _go_on(self, pieces: list[str], line: str) -> AsyncIterator[str]:
        if pieces[-1] != END:
            async for piece in _continuation(self.state.text + "".join(pieces), TOKENS + 1 - len(pieces)):
                yield piece

    @handler(readonly=True)
    async def read(self) -> Story:
        """The story so far."""
        return self.state


async def _continuation(story: str, tokens: int) -> AsyncIterator[str]:
    if tokens > 0:
        async for piece in complete(story[-CONTEXT:], max_tokens=tokens):
            yield piece.replace("\n", " ")
    yield END
