"""``python -m examples.chat`` as its user starts it, with the language model that it brings."""

import os
import re
import signal
from pathlib import Path

import pytest
from playwright.async_api import BrowserContext, expect

from cluster import connect
from tests.browser.chromium import Complaints
from tests.browser.stage import Truth
from tests.browser.story_page import LIMIT, StoryPage
from tests.browser.test_faults import BROKEN
from tests.browser.test_story import same
from tests.cluster.processes import Processes
from tests.cluster.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_story_of_the_real_model(tmp_path: Path, context: BrowserContext, complaints: Complaints) -> None:
    """It loses its silo in mid-sentence and goes on; it is redirected, and stopped."""
    complaints.expect(*BROKEN)
    async with Processes(tmp_path) as processes:
        chat = processes.start("--port", 0, "--data", tmp_path / "data", module="examples.chat")
        await eventually(f"it is ready:\n{chat.err}", lambda: "Ctrl-C" in chat.out, within=90)
        (etcd,) = re.findall(r"--etcd (http://[\d.:]+)", chat.out)
        (url,) = re.findall(r"Open (http://[\d.:]+)/", chat.out)
        pids = dict(re.findall(r"(n\d) \(pid (\d+)\)", chat.out))
        async with connect(etcd=etcd) as client:
            truth = Truth(client)
            tab = await context.new_page()
            complaints.watch(tab)
            page = StoryPage(tab, url)
            await page.open("real")
            await page.write("The lighthouse keeper found a letter addressed to the sea.")
            await page.shows(" ")
            os.kill(int(pids[await truth.home("real")]), signal.SIGKILL)
            seen = len((await page.turns())[0].text)
            await tab.wait_for_function(
                "seen => document.querySelector('.text').textContent.length > seen", arg=seen + 20, timeout=LIMIT
            )
            await page.write("But the letter had other plans:")
            await expect(tab.locator(".turn")).to_have_count(2, timeout=LIMIT)
            await page.shows(" ")
            await page.press("Stop")
            shown = await page.ends("stopped", "stopped")
            await same(truth, "real", shown)
        chat.signal(signal.SIGTERM)
        ended = await chat.ended()
        assert ended.status == 0, ended.err
