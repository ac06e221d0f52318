"""The story of the example, but a turn whose silo is lost begins anew: readers are told to forget what it had said."""

from actors import Interrupted, handler
from examples.chat import story
from examples.chat.story import Turn


class Session(story.Session):
    """Gives its streaming step no way to go on."""

    @handler(public=True)
    async def write(self, line: str) -> None:
        """Go on with the story from a new line."""
        turn = Turn(line)
        try:
            async for piece in self.stream_step("text", self._begin, line, channel="output"):
                if isinstance(piece, str):
                    turn.text += piece
        except Interrupted:
            turn.end = "stopped"
        self.state.turns.append(turn)
        await self.publish({"end": turn.end})
