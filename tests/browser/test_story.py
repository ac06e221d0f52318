"""The page of a story while everything works: what it shows is what is stored, byte for byte."""

from urllib.parse import quote

import pytest
from playwright.async_api import expect

from tests.browser.conftest import OpenPage
from tests.browser.stage import Stage, Truth, Turn
from tests.browser.story_page import LIMIT
from tests.cluster.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def same(truth: Truth, name: str, shown: list[Turn]) -> None:
    """The page shows what the state and the channel have, byte for byte."""
    stored, told = await truth.turns(name), await truth.told(name, len(shown))
    for turns in (stored, told):
        assert [[part.encode() for part in turn] for turn in turns] == [[p.encode() for p in turn] for turn in shown]


async def test_a_story_appears_while_it_is_written(stage: Stage, truth: Truth, open_page: OpenPage, name: str) -> None:
    page = await open_page(name)
    await page.status("live")
    await expect(page.page.get_by_role("heading", name="Write the first line")).to_be_visible()
    stage.model.say(" to", " the", " sea")
    await page.write("A letter was addressed")
    await page.shows(" to the sea")
    await page.status("writing")
    assert await page.turns() == [Turn("A letter was addressed", " to the sea", "")]
    assert await truth.turns(name) == [], "the turn has ended already: this shows nothing"
    stage.model.say(".")
    stage.model.end()
    shown = await page.ends("finished")
    await page.status("live")
    assert shown == [Turn("A letter was addressed", " to the sea.", "finished")]
    await same(truth, name, shown)


async def test_a_reload_in_mid_answer_loses_and_doubles_nothing(
    stage: Stage, truth: Truth, open_page: OpenPage, name: str
) -> None:
    page = await open_page(name)
    await page.write("Once")
    for _ in range(3):
        stage.model.say_words(40)
        await page.shows(" word")
        await page.page.reload()
        await page.connected()
    stage.model.end()
    shown = await page.ends("finished")
    assert len(shown[0].text.split()) == len(set(shown[0].text.split())) == 120
    assert stage.model.asked == 1
    await same(truth, name, shown)


async def test_a_second_tab_shows_the_same_at_the_same_time(
    stage: Stage, truth: Truth, open_page: OpenPage, name: str
) -> None:
    first = await open_page(name)
    await expect(first.page.get_by_text("watching")).to_be_hidden()
    await first.write("Two of us")
    stage.model.say_words(20)
    await first.shows("word")
    second = await open_page(name)
    await expect(first.page.get_by_text("watching")).to_have_text("2 watching", timeout=LIMIT)
    await expect(second.page.get_by_text("watching")).to_have_text("2 watching", timeout=LIMIT)
    await second.shows((await first.turns())[0].text.split()[0])
    stage.model.say_words(20)
    stage.model.end()
    shown = await first.ends("finished")
    assert await second.ends("finished") == shown
    await second.write("and both write")
    stage.model.say(" in turns.")
    stage.model.end()
    shown = await first.ends("finished", "finished")
    assert await second.ends("finished", "finished") == shown
    await same(truth, name, shown)
    await second.page.close()
    await expect(first.page.get_by_text("watching")).to_be_hidden(timeout=LIMIT)


async def test_stop_ends_the_sentence_for_everybody_and_the_model_too(
    stage: Stage, truth: Truth, open_page: OpenPage, name: str
) -> None:
    page, other = await open_page(name), await open_page(name)
    await page.write("It went on and on")
    stage.model.say_words(30)
    await page.shows("word")
    await page.press("Stop")
    shown = await page.ends("stopped")
    assert await other.ends("stopped") == shown
    await eventually("the model's connection is closed", lambda: stage.model.listening == 0)
    await same(truth, name, shown)
    await expect(page.page.get_by_role("button", name="Stop")).to_be_hidden()
    await page.page.reload()
    assert await page.ends("stopped") == shown


async def test_a_new_line_in_mid_sentence_redirects_the_story(
    stage: Stage, truth: Truth, open_page: OpenPage, name: str
) -> None:
    page = await open_page(name)
    await page.write("The road led north")
    stage.model.say_words(10)
    await page.shows("word")
    await expect(page.page.get_by_role("button", name="Redirect")).to_be_visible()
    await page.write("but she turned south")
    await expect(page.page.locator(".turn")).to_have_count(2)
    stage.model.forget()
    stage.model.say(" at once.")
    stage.model.end()
    shown = await page.ends("stopped", "finished")
    assert [turn.line for turn in shown] == ["The road led north", "but she turned south"]
    await same(truth, name, shown)


async def test_several_lines_in_a_row_come_in_their_order(
    stage: Stage, truth: Truth, open_page: OpenPage, name: str
) -> None:
    page = await open_page(name)
    lines = [f"line {number}" for number in range(5)]
    for line in lines:
        await page.write(line)
        stage.model.say(" and so on.")
        stage.model.end()
        await expect(page.page.locator(".turn")).to_have_count(lines.index(line) + 1)
    shown = await page.turns()
    await expect(page.page.locator(".turn:not([data-end])")).to_have_count(0)
    shown = await page.turns()
    assert [turn.line for turn in shown] == lines
    await same(truth, name, shown)


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>&amp;<b>bold</b>\u202e \N{GRINNING FACE}"


async def test_nothing_that_is_written_becomes_part_of_the_page(
    stage: Stage, truth: Truth, open_page: OpenPage
) -> None:
    name = "<img src=x onerror=alert(3)> 'n' \"quotes\" & \N{GREEK SMALL LETTER OMEGA}"
    page = await open_page(quote(name))
    stage.model.say(HOSTILE, "</p></section>", "<iframe srcdoc='<script>alert(4)</script>'></iframe>")
    stage.model.end()
    await page.write(HOSTILE)
    shown = await page.ends("finished")
    assert shown[0].line == HOSTILE
    assert shown[0].text.startswith(HOSTILE)
    assert await page.page.locator("article :is(script, img, iframe, b)").count() == 0
    await expect(page.page.get_by_role("heading", level=1)).to_have_text(name)
    await same(truth, name, shown)


async def test_a_model_that_fails_is_said_and_the_story_goes_on(
    stage: Stage, truth: Truth, open_page: OpenPage, name: str
) -> None:
    page = await open_page(name)
    stage.model.fail()
    await page.write("Nobody answers")
    await page.ends("failed")
    stage.model.say(" now.")
    stage.model.end()
    await page.write("but")
    shown = await page.ends("failed", "finished")
    await same(truth, name, shown)


async def test_another_name_in_the_address_is_another_story(
    stage: Stage, truth: Truth, open_page: OpenPage, name: str
) -> None:
    page = await open_page(name)
    stage.model.say(" one.")
    stage.model.end()
    await page.write("Story")
    first = await page.ends("finished")
    await page.press("New")
    await expect(page.page.locator(".turn")).to_have_count(0)
    await page.status("live")
    fresh = page.page.url.partition("#")[2]
    assert fresh != name
    stage.model.say(" two.")
    stage.model.end()
    await page.write("Story")
    second = await page.ends("finished")
    await page.page.go_back()
    await expect(page.page.get_by_role("heading", level=1)).to_have_text(name)
    await page.shows(" one.")
    assert await page.ends("finished") == first
    await same(truth, name, first)
    await same(truth, fresh, second)


async def test_a_deleted_story_is_gone_from_the_page_and_can_begin_anew(
    stage: Stage, truth: Truth, open_page: OpenPage, name: str
) -> None:
    page = await open_page(name)
    for beginning in ("Once", "Once again"):
        stage.model.say(" upon a time.")
        stage.model.end()
        await page.write(beginning)
        shown = await page.ends("finished")
        assert shown == [Turn(beginning, " upon a time.", "finished")]
        await page.page.reload()
        assert await page.ends("finished") == shown
        await truth.delete(name)
        await expect(page.page.get_by_role("heading", name="Write the first line")).to_be_visible()
        assert await page.turns() == []
        await page.status("live")


async def test_it_can_be_used_with_a_keyboard_on_a_phone(stage: Stage, open_page: OpenPage, name: str) -> None:
    page = await open_page(name)
    await page.page.set_viewport_size({"width": 320, "height": 560})
    box = page.page.get_by_label("Your next line")
    await box.press_sequentially("first")
    await box.press("Shift+Enter")
    await box.press_sequentially("second")
    await box.press("Enter")
    stage.model.say(" " + 200 * "wide")
    await page.shows("wide")
    assert (await page.turns())[0].line == "first\nsecond"
    await expect(box).to_have_value("")
    await expect(box).to_be_focused()
    await page.page.keyboard.press("Tab")
    await expect(page.page.get_by_role("button", name="Stop")).to_be_focused()
    await page.page.keyboard.press("Enter")
    await page.ends("stopped")
    assert await page.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it scrolls sideways"
