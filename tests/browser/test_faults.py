"""The page of a story while networks and silos fail: in the end it shows what is stored, byte for byte."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, expect

from cluster.etcd import EtcdServer
from examples.chat.__main__ import PAGES
from examples.chat.balancer import balanced
from tests.browser.chromium import Complaints
from tests.browser.conftest import OpenPage
from tests.browser.model import scripted_model
from tests.browser.stage import APP, Stage, Truth, Turn, staged
from tests.browser.story_page import LIMIT, StoryPage
from tests.browser.test_story import same
from tests.cluster.processes import Processes
from tests.cluster.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

BROKEN = ("WebSocket connection to", "net::ERR_")
"""What a browser's console says of a connection that breaks."""


async def test_a_cut_network_heals_and_nothing_is_lost(
    stage: Stage, truth: Truth, open_page: OpenPage, complaints: Complaints, name: str
) -> None:
    complaints.expect(*BROKEN)
    page = await open_page(name)
    await page.write("The line was cut")
    stage.model.say_words(50)
    await page.shows("word")
    await stage.network.refuse()
    await page.status("reconnecting")
    before = len((await page.turns())[0].text.split())
    stage.model.say_words(50)
    await eventually("the story goes on without the page", lambda: stage.model.told >= 100)
    stage.model.end()
    assert len((await page.turns())[0].text.split()) == before < 100
    await page.write("while nobody was connected")
    await expect(page.page.get_by_text("while nobody was connected")).to_be_visible()
    await page.page.set_viewport_size({"width": 320, "height": 560})
    assert await page.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it scrolls sideways"
    stage.model.say(" it was kept.")
    stage.model.end()
    await stage.network.accept()
    shown = await page.ends("finished", "finished")
    assert [len(turn.text.split()) for turn in shown] == [100, 3]
    await same(truth, name, shown)


async def test_a_line_written_without_a_network_outlives_a_reload(
    stage: Stage, truth: Truth, open_page: OpenPage, complaints: Complaints, name: str
) -> None:
    complaints.expect(*BROKEN)
    page = await open_page(name)
    await stage.network.refuse()
    await page.status("reconnecting")
    await page.write("Kept in the tab")
    await stage.network.accept()
    await page.page.reload()
    stage.model.say(" and sent.")
    stage.model.end()
    shown = await page.ends("finished")
    assert [turn.line for turn in shown] == ["Kept in the tab"]
    await same(truth, name, shown)


async def test_a_connection_that_dies_without_a_word_is_noticed(
    stage: Stage, truth: Truth, open_page: OpenPage, complaints: Complaints, name: str
) -> None:
    complaints.expect(*BROKEN)
    page = await open_page(name)
    await page.page.clock.install()
    await page.page.reload()
    await page.connected()
    await page.write("Silence")
    await page.shows(stage.model.say_words(10))
    stage.network.freeze()
    stage.model.say_words(10)
    await page.page.clock.run_for(4_500)
    await page.status("paused")
    await page.page.clock.run_for(20_000)
    await page.status("reconnecting")
    stage.network.resume()
    stage.model.end()
    await page.page.clock.resume()
    shown = await page.ends("finished")
    assert len(shown[0].text.split()) == 20
    await same(truth, name, shown)


@pytest.mark.parametrize("victim", ["of the page", "of the story"])
async def test_a_silo_dies_in_mid_sentence(
    stage: Stage, truth: Truth, open_page: OpenPage, complaints: Complaints, name: str, victim: str
) -> None:
    """The silo that the page is connected to, or the one where the story lives, gets SIGKILL."""
    complaints.expect(*BROKEN)
    behind = stage.alive[0]
    everywhere, stage.http[:] = list(stage.http), [await stage.http_of(behind)]
    page = await open_page(name)
    stage.http[:] = everywhere
    await page.write("The lights went out")
    stage.model.say_words(60)
    await page.shows("word")
    await stage.kill(behind if victim == "of the page" else await truth.home(name))
    stage.model.say_words(20)
    await eventually("the model was told to go on, or was not left", lambda: stage.model.listening == 1)
    stage.model.end()
    shown = await page.ends("finished")
    words = shown[0].text.split()
    assert len(words) == len(set(words)) >= 20
    await same(truth, name, shown)


async def test_every_silo_dies_and_the_page_waits_for_the_next_ones(
    stage: Stage, truth: Truth, open_page: OpenPage, complaints: Complaints, name: str
) -> None:
    complaints.expect(*BROKEN)
    page = await open_page(name)
    await page.write("All gone")
    stage.model.say_words(30)
    await page.shows("word")
    await stage.kill(*stage.alive)
    await page.status("reconnecting")
    await page.write("and back")
    stage.model.say_words(10)
    stage.model.end()
    stage.model.say_words(10)
    stage.model.end()
    await stage.start(2)
    shown = await page.ends("finished", "finished")
    assert [turn.line for turn in shown] == ["All gone", "and back"]
    await same(truth, name, shown)


async def test_stop_after_a_cut_stops_only_the_turn_that_it_was_meant_for(
    stage: Stage, truth: Truth, open_page: OpenPage, complaints: Complaints, name: str
) -> None:
    complaints.expect(*BROKEN)
    page = await open_page(name)
    await page.write("First")
    await page.shows(stage.model.say_words(5))
    await stage.network.refuse()
    await page.status("reconnecting")
    await page.press("Stop")
    stage.model.end()
    await truth.write(name, "Second")
    await eventually("the second turn has begun", lambda: stage.model.asked == 2)
    await stage.network.accept()
    for _ in range(5):
        await page.shows(stage.model.say_words(5))
    stage.model.end()
    shown = await page.ends("finished", "finished")
    await same(truth, name, shown)


async def test_a_story_that_its_silo_has_forgotten_is_read_from_its_beginning(
    context: BrowserContext, complaints: Complaints, tmp_path: Path
) -> None:
    """A silo whose store is its memory comes back with nothing: the page is behind a tail that is no more."""
    complaints.expect(*BROKEN)
    options = ("--store", "memory:")
    http: list[str] = []
    async with Processes(tmp_path) as processes, scripted_model() as model, balanced(http) as address:
        env = {"LOCAL_MODEL_URL": model.url, "SILO_PAGES": str(PAGES)}
        first = processes.silo("n1", *options, app=APP, env=env)
        http[:] = [(await first.ready())[0]["http"]]
        tab = await context.new_page()
        complaints.watch(tab)
        page = StoryPage(tab, f"http://{address}")
        await page.open("forgotten")
        model.say(" it was.")
        model.end()
        await page.write("Long ago")
        await page.ends("finished")
        await first.kill()
        second = processes.silo("n1", *options, app=APP, env=env)
        http[:] = [(await second.ready())[0]["http"]]
        await expect(tab.get_by_role("heading", name="Write the first line")).to_be_visible(timeout=LIMIT)
        model.say(" it is.")
        model.end()
        await page.write("Now")
        assert await page.ends("finished") == [Turn("Now", " it is.", "finished")]


@pytest_asyncio.fixture(loop_scope="session")
async def forgetful(etcd_server: EtcdServer, tmp_path: Path) -> AsyncIterator[tuple[Stage, Truth]]:
    """Silos whose stories begin a turn anew when its silo is lost."""
    async with staged(etcd_server, tmp_path, app="tests.browser.forgetful") as staging:
        yield staging


async def test_what_is_told_anew_replaces_what_was_shown(
    forgetful: tuple[Stage, Truth], open_page: OpenPage, complaints: Complaints, name: str
) -> None:
    complaints.expect(*BROKEN)
    stage, truth = forgetful
    page = await open_page(name, url=stage.url)
    stage.model.say(" before.")
    stage.model.end()
    await page.write("It was there")
    await page.ends("finished")
    await page.write("It was rash")
    stage.model.say(" and", " wrong")
    await page.shows("wrong")
    await stage.kill(await truth.home(name))
    stage.model.say(" and", " then", " right.")
    stage.model.end()
    shown = await page.ends("finished", "finished")
    assert [turn.text for turn in shown] == [" before.", " and then right."]
    await same(truth, name, shown)
    await page.page.reload()
    assert await page.ends("finished", "finished") == shown
