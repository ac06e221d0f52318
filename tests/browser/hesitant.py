"""The story of the example, but each line has to be approved before the model goes on from it."""

from actors import handler
from examples.chat import story


class Session(story.Session):
    """Waits for a signal first."""

    @handler(public=True)
    async def write(self, line: str) -> None:
        """Go on with the story from a new line, once somebody agrees."""
        await self.wait_for("approval")
        await super().write(line)
