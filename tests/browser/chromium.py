"""A real Chromium, driven by Playwright, and what went wrong in its pages."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, async_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find_chromium() -> str:
    """The path of the browser. Where there is none the test is skipped, which in CI is a failure."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("there is no Chromium: apt install chromium, or say where it is in the variable CHROMIUM")
    return found


@asynccontextmanager
async def chromium(profile: Path) -> AsyncIterator[Browser]:
    """A browser with a profile of its own."""
    path = find_chromium()
    async with async_playwright() as playwright:
        environment: dict[str, str | float | bool] = {
            **os.environ,
            "HOME": str(profile),
            "XDG_CONFIG_HOME": str(profile),
        }
        browser = await playwright.chromium.launch(executable_path=path, args=list(_ARGUMENTS), env=environment)
        try:
            yield browser
        finally:
            await browser.close()


class Complaints:
    """What a page's console and its responses complain of."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._expected: tuple[str, ...] = ()

    def watch(self, page: Page) -> None:
        """Write down what goes wrong in a page from now on."""
        page.on("console", lambda message: self._note(message.type, message.text, ("error", "warning")))
        page.on("pageerror", lambda error: self.found.append(f"uncaught: {error}"))
        page.on("response", lambda answer: self._note(str(answer.status), answer.url, range(400, 600)))
        page.on("dialog", lambda dialog: self.found.append(f"a dialog: {dialog.message}"))

    def _note(self, kind: str, text: str, bad: "tuple[str, ...] | range") -> None:
        if (int(kind) if isinstance(bad, range) else kind) in bad:
            self.found.append(f"{kind}: {text}")

    def expect(self, *words: str) -> None:
        """Complaints with these words belong to what the test does."""
        self._expected = words

    @property
    def unexpected(self) -> list[str]:
        """The others."""
        return [found for found in self.found if not any(words in found for words in self._expected)]
