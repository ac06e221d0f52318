"""Somebody who reads along while a session writes."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from actors.ref import OnBusy
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
        self._reading = asyncio.Lock()

    async def write(self, line: str, *, on_busy: OnBusy = "queue") -> None:
        """Let the session add a paragraph, and read it meanwhile.

        With ``on_busy="interrupt"`` the session leaves the paragraph that it writes now, if it does, as it is.
        """
        reading = asyncio.create_task(self._read(lambda piece: piece == END))
        try:
            await Session.ref(self.name).options(on_busy=on_busy).write(line)
            await reading
        finally:
            reading.cancel()

    async def catch_up(self) -> None:
        """Read what there is."""
        story = await Session.ref(self.name).read()
        if len(self.text) < len(story.text):
            await self._read(lambda _: len(self.text) >= len(story.text))

    async def _read(self, is_last: Callable[[str], bool]) -> None:
        channel = Session.ref(self.name).channel()
        async with self._reading, aclosing(channel.subscribe(self._after)) as events:  # type: ignore[type-var]
            async for event in events:
                if event.kind != "item" or event.offset != (-1 if self._after is None else self._after) + 1:
                    self.flaws.append(f"{event.kind} {event.offset} after {self._after}")
                self._after = event.offset
                if event.kind == "item":
                    self.text += event.data
                    self._show(event.data)
                    if is_last(event.data):
                        return
