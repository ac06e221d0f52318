"""Somebody who reads along while a session writes."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from examples.story import END, Session


class Reader:
    """Follows the channel of one session. ``show`` gets every piece as it comes.

    The channel gives every piece once and in order, whatever becomes of the silos; ``flaws`` notes where it did not.
    """

    def __init__(self, name: str, show: Callable[[str], None] = lambda _: None) -> None:
        self.name = name
        self.text = ""
        self.flaws: list[str] = []
        self._show = show
        self._after: int | None = None

    async def write(self, line: str) -> None:
        """Let the session add a paragraph, and read it meanwhile."""
        reading = asyncio.create_task(self._read(lambda piece: piece == END))
        try:
            await Session.ref(self.name).write(line)
            await reading
        finally:
            reading.cancel()

    async def catch_up(self) -> None:
        """Read what there is."""
        story = await Session.ref(self.name).read()
        if len(self.text) < len(story.text):
            await self._read(lambda _: len(self.text) >= len(story.text))

    async def _read(self, is_last: Callable[[str], bool]) -> None:
        async with aclosing(Session.ref(self.name).channel().subscribe(self._after)) as events:  # type: ignore[type-var]
            async for event in events:
                if event.kind != "item" or event.offset != (-1 if self._after is None else self._after) + 1:
                    self.flaws.append(f"{event.kind} {event.offset} after {self._after}")
                self._after = event.offset
                if event.kind == "item":
                    self.text += event.data
                    self._show(event.data)
                    if is_last(event.data):
                        return
