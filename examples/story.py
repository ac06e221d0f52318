"""Co-writing sessions: you write a line, a language model goes on, the story stays."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from actors import Actor, handler
from examples.local_model import complete

CONTEXT = 1500
"""Characters of the story that the model sees; a small model gains nothing from more."""


@dataclass
class Story:
    """What a session remembers, on whichever silo it wakes up next."""

    text: str = ""
    turns: int = 0


class Session(Actor, idle_timeout=4):
    """One story. It sleeps after 4 seconds without a reader or writer."""

    state: Story

    @handler
    async def tokens(self, line: str) -> AsyncIterator[str]:
        """Add a line of the user's, then stream the model's continuation. Stored when it is complete."""
        story = f"{self.state.text}\n\n{line}".strip()
        async for piece in complete(story[-CONTEXT:]):
            story += piece
            yield piece
        self.state.text = story
        self.state.turns += 1

    @handler(readonly=True)
    async def read(self) -> Story:
        """The story so far."""
        return self.state
