"""The page of a story in a browser, as its reader uses it."""

import re

from playwright.async_api import Locator, Page, expect

from tests.browser.stage import Turn

LIMIT = 30_000.0
"""Milliseconds."""

_TURNS = """() => [...document.querySelectorAll(".turn")].map((turn) => [
    turn.querySelector(".line").textContent, turn.querySelector(".text").textContent, turn.dataset.end ?? ""])"""


class StoryPage:
    """Types, clicks and reads."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self._url = url

    async def open(self, name: str) -> None:
        """Go to a story, and wait until it is there."""
        await self.page.goto(f"{self._url}/#{name}")
        await self.connected()

    async def connected(self) -> None:
        """Return once the story is live, or being written."""
        await expect(self._status).to_have_attribute("data-state", re.compile("live|writing|paused"), timeout=LIMIT)

    async def status(self, state: str) -> None:
        """Return once the status is this."""
        await expect(self._status).to_have_attribute("data-state", state, timeout=LIMIT)

    async def write(self, line: str) -> None:
        """Write a line, as one does with a keyboard."""
        await self.page.get_by_label("Your next line").fill(line)
        await self.page.keyboard.press("Enter")

    async def press(self, button: str) -> None:
        """Press a button by its name."""
        await self.page.get_by_role("button", name=button).click()

    async def turns(self) -> list[Turn]:
        """What it shows."""
        return [Turn(*turn) for turn in await self.page.evaluate(_TURNS)]

    async def shows(self, words: str) -> None:
        """Return once the last turn shows the words."""
        await expect(self.page.locator(".turn .text").last).to_contain_text(words, timeout=LIMIT)

    async def ends(self, *ends: str) -> list[Turn]:
        """What it shows once so many turns have ended, each in this way."""
        for number, end in enumerate(ends):
            turn = self.page.locator(".turn").nth(number)
            await expect(turn).to_have_attribute("data-end", end, timeout=LIMIT)
        turns = await self.turns()
        assert [turn.end for turn in turns] == list(ends)
        return turns

    @property
    def _status(self) -> Locator:
        return self.page.get_by_role("status")
