"""A story that a person and a language model write in turns. The page in ``pages/`` shows it while it is written."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from actors import Actor, Interrupted, handler
from examples.local_model import complete

CONTEXT = 1500
"""Characters of the story that the model sees; a small model gains nothing from more."""
TOKENS = 160
"""How much the model may write in a turn."""
LONGEST_LINE = 2000
"""Characters of what a person may write in a turn."""


@dataclass
class Turn:
    """What a person wrote, how the model went on, and how that ended: "finished", "stopped" or "failed"."""

    line: str
    text: str = ""
    end: str = "finished"


@dataclass
class Story:
    """What a session remembers."""

    turns: list[Turn] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of it, as it reads."""
        return "\n\n".join(f"{turn.line}{turn.text}" for turn in self.turns)


class Session(Actor, idle_timeout=60):
    """One story.

    Its channel "output" tells each turn while it happens: ``{"line", "key"}``, then piece by piece what the model
    writes, then ``{"end"}``. The key is the idempotency key of the message, by which a page knows its own line.
    """

    state: Story

    @handler(public=True)
    async def write(self, line: str) -> None:
        """Go on with the story from a new line.

        Every piece is journaled and published while it comes. When the silo is lost in the middle, this runs again on
        another one, gets the pieces that are there, and lets the model write the rest. When somebody interrupts it,
        what was written stays.
        """
        if not line.strip() or len(line) > LONGEST_LINE:
            raise ValueError(f"a line has 1 to {LONGEST_LINE} characters, not {len(line)}")
        turn = Turn(line)
        try:
            async for piece in self.stream_step("text", self._begin, line, resume=self._go_on, channel="output"):
                if isinstance(piece, str):
                    turn.text += piece
        except Interrupted:
            turn.end = "stopped"
        except Exception:
            self.log.exception("the model did not answer")
            turn.end = "failed"
        self.state.turns.append(turn)
        await self.publish({"end": turn.end})

    async def _begin(self, line: str) -> AsyncIterator[object]:
        yield {"line": line, "key": self.context.idempotency_key}
        async for piece in self._continue(line, TOKENS):
            yield piece

    async def _go_on(self, published: list[object], line: str) -> AsyncIterator[str]:
        pieces = [piece for piece in published if isinstance(piece, str)]
        async for piece in self._continue(line + "".join(pieces), TOKENS - len(pieces)):
            yield piece

    async def _continue(self, unfinished: str, tokens: int) -> AsyncIterator[str]:
        if tokens > 0:
            async for piece in complete(f"{self.state.text}\n\n{unfinished}"[-CONTEXT:], max_tokens=tokens):
                yield piece.replace("\n", " ")

    @handler(readonly=True)
    async def read(self) -> Story:
        """The story up to the last turn that has ended."""
        return self.state
