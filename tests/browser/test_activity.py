"""What the page shows of the session's turns: live, and also after a reload, a lost connection and a dead silo."""

import re
from pathlib import Path

import pytest
from playwright.async_api import Browser, Locator, expect

from actors import actor_ref
from cluster.etcd import EtcdServer
from tests.browser.chromium import Complaints
from tests.browser.conftest import OpenPage
from tests.browser.stage import Stage, Truth, staged
from tests.browser.story_page import LIMIT, StoryPage
from tests.cluster.house import calling_from
from tests.cluster.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


def activity(page: StoryPage) -> Locator:
    return page.page.get_by_label("What the session does")


async def says(page: StoryPage, words: str) -> None:
    await expect(activity(page)).to_contain_text(re.compile(words), timeout=LIMIT)


async def test_the_turn_that_runs_and_its_steps_are_shown_live_and_after_a_reload(
    stage: Stage, truth: Truth, open_page: OpenPage, name: str
) -> None:
    page = await open_page(name)
    await expect(activity(page)).to_be_hidden()
    await page.write("Watch me")
    stage.model.say_words(3)
    await says(page, r"write runs: text · \d+ s")
    await truth.write(name, "And then")
    await says(page, r"write runs: text · \d+ s · 1 to come")
    await page.page.reload()
    await says(page, r"write runs: text · \d+ s · 1 to come")
    stage.model.end()
    await says(page, r"write runs: text · \d+ s(?! · )")
    stage.model.end()
    await page.ends("finished", "finished")
    await says(page, r"write committed after \d+\.\d s")
    await expect(activity(page).get_by_role("listitem")).to_contain_text([re.compile(r"text \d+\.\d s")])
    await page.page.reload()
    await says(page, r"write committed after \d+\.\d s")


async def test_who_stopped_it_is_shown_to_everybody(stage: Stage, open_page: OpenPage, name: str) -> None:
    page, other = await open_page(name), await open_page(name)
    await page.write("It went on")
    stage.model.say_words(3)
    await page.shows("word")
    await page.press("Stop")
    for each in (page, other):
        await says(each, r"write was interrupted after \d+\.\d s: stopped")


async def test_it_goes_on_after_a_lost_connection_and_a_dead_silo(
    stage: Stage, truth: Truth, open_page: OpenPage, complaints: Complaints, name: str
) -> None:
    complaints.expect("WebSocket connection to", "net::ERR_")
    page = await open_page(name)
    await page.write("Cut off")
    stage.model.say_words(3)
    await says(page, "write runs: text")
    await stage.network.refuse()
    await page.status("reconnecting")
    await stage.kill(await truth.home(name))
    await eventually("another silo asks the model for the rest", lambda: stage.model.asked == 2)
    await stage.network.accept()
    await page.connected()
    await says(page, "write runs")
    stage.model.end()
    await page.ends("finished")
    await says(page, r"write committed after \d+\.\d s")


async def test_a_turn_that_waits_for_approval_says_so(
    etcd_server: EtcdServer, browser: Browser, complaints: Complaints, tmp_path: Path, name: str
) -> None:
    async with staged(etcd_server, tmp_path, app="tests.browser.hesitant") as (stage, truth):
        context = await browser.new_context()
        try:
            page = StoryPage(await context.new_page(), stage.url)
            complaints.watch(page.page)
            await page.open(name)
            await page.write("May I?")
            await says(page, "write waits for approval")
            await page.page.reload()
            await says(page, "write waits for approval")
            with calling_from(truth.client):
                await actor_ref(f"session-{name}").signal("approval", True)
            stage.model.say(" Yes.")
            await says(page, "write runs")
            await says(page, r"approval \d+\.\d s")
            stage.model.end()
            await page.ends("finished")
            await says(page, "write committed")
        finally:
            await context.close()
    assert complaints.unexpected == []
