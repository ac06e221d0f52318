"""The Vercel AI SDK's own chat against silo processes: whatever breaks, it ends up with the text that is stored."""

from contextlib import AsyncExitStack

import pytest

from tests.gateway.chat.chat_actors import story
from tests.gateway.chat.conftest import ChatHouse
from tests.gateway.chat.cutting_proxy import CuttingProxy, cutting
from tests.gateway.chat.foreign_client import ForeignClient, foreign_client


class Meeting:
    """A chat client before a cluster of two silos, with a way between them that can break."""

    def __init__(self, chats: ChatHouse, exits: AsyncExitStack) -> None:
        self.chats = chats
        self._exits = exits
        self.proxy: CuttingProxy

    async def begin(self, key: str, *, after: int | None = None, growth: int = 0, through: int = 2) -> ForeignClient:
        """``through``: how many of the silos the client reaches, that on which the actors live being the last."""
        addresses = await self.chats.start("n2", "n1")
        self.proxy = await self._exits.enter_async_context(cutting(addresses[:through], after=after, growth=growth))
        return await self.another(key)

    async def another(self, key: str, browser: str = "node") -> ForeignClient:
        api = f"http://{self.proxy.address}/api/chat"
        return await self._exits.enter_async_context(foreign_client("ai_sdk.mjs", api, key, browser))


@pytest.fixture
def meeting(chats: ChatHouse, exits: AsyncExitStack) -> Meeting:
    return Meeting(chats, exits)


async def test_an_answer_arrives_whole(meeting: Meeting) -> None:
    client = await meeting.begin("n1.a")
    found = await client.do("send", text="tell 100")
    assert found["status"] == "ready"
    assert found["texts"] == [story(100)] == [meeting.chats.stored("session-n1.a")]
    assert client.shown[0] < len(story(100)), "it came in one piece"
    again = await client.do("send", text="echo what came before stays")
    assert again["texts"] == [story(100), "what came before stays"]
    assert (await client.do("resume"))["statuses"][-1] == 204


async def test_a_connection_that_breaks_off_again_and_again_loses_and_doubles_nothing(meeting: Meeting) -> None:
    """Each connection carries a bit more than the replay before it, so there are many."""
    client = await meeting.begin("n1.b", after=600, growth=700)
    broken = await client.do("send", text="tell 400")
    assert (broken["status"], broken["broken"]) == ("error", True)
    shown = len(broken["texts"][0])
    assert 0 < shown < len(story(400))
    while broken["status"] == "error":
        broken = await client.do("resume")
    assert meeting.proxy.cuts >= 3
    assert broken["texts"] == [story(400)] == [meeting.chats.stored("session-n1.b")]
    assert [message["role"] for message in broken["messages"]] == ["user", "assistant"]
    assert meeting.chats.runs("session-n1.b") == ["tell 400"]


@pytest.mark.parametrize("victim", ["n1", "n2"], ids=["the owner", "the gateway"])
async def test_the_answer_goes_on_when_a_silo_is_killed_in_the_middle(meeting: Meeting, victim: str) -> None:
    """Where the actor lives, and where the client is connected to, which is not the same."""
    client = await meeting.begin("n1.c")
    client.begin("send", text="tell 600")
    await client.shows(200)
    await meeting.chats.silos[victim].kill()
    found = await client.ended("send")
    assert found["status"] == ("ready" if victim == "n1" else "error")
    found = await client.do("persist")
    assert found["texts"] == [story(600)]
    assert meeting.chats.stored("session-n1.c") == story(600)
    assert meeting.chats.runs("session-n1.c") == ["tell 600"]


async def test_an_answer_that_is_begun_anew_replaces_what_was_shown(meeting: Meeting) -> None:
    """It cannot be continued after a crash, and text cannot be taken back: the client has to come again."""
    client = await meeting.begin("n1.r")
    client.begin("send", text="again 400")
    await client.shows(100)
    await meeting.chats.silos["n1"].kill()
    broken = await client.ended("send")
    assert (broken["status"], broken["broken"]) == ("error", True)
    found = await client.do("persist")
    assert found["texts"] == [story(400)]
    assert meeting.chats.stored("session-n1.r") == story(400)


async def test_a_page_that_is_loaded_again_shows_the_answer_from_its_beginning(meeting: Meeting) -> None:
    client = await meeting.begin("n1.d", through=1)
    other = await meeting.another("n1.d")
    client.begin("send", text="tell 100000")
    await client.shows(100)
    other.begin("resume")  # nothing is known there
    await other.shows(300)
    await client.do("stop", at_once=True)
    found = [await client.ended("send"), await other.ended("resume")]
    stored = meeting.chats.stored("session-n1.d")
    assert story(100000).startswith(stored)
    assert [each["texts"] for each in found] == [[stored], [stored]]
    assert found[0]["messages"][-1]["id"] == found[1]["messages"][-1]["id"]
    assert (await other.do("resume"))["statuses"] == [204]


async def test_stopping_and_resuming_go_together(meeting: Meeting) -> None:
    client = await meeting.begin("n1.e", through=1)
    client.begin("send", text="tell 100000")
    await client.shows(300)
    client.begin("leave", at_once=True)  # the client goes: that stops nothing
    gone = await client.ended("leave")
    assert gone["status"] == "ready"
    await client.ended("send")
    client.begin("resume")
    await client.shows(len(gone["texts"][0]) + 300)
    client.begin("stop", at_once=True)
    stopped = await client.ended("stop")
    assert stopped["code"] == 202
    found = await client.ended("resume")
    assert found["status"] == "ready"
    assert found["texts"] == [meeting.chats.stored("session-n1.e")]
    assert story(100000).startswith(found["texts"][0])
    assert len(found["texts"][0]) > len(gone["texts"][0])
    assert (await client.do("resume"))["statuses"] == [204]
    await client.do("send", text="echo and it goes on")
    assert meeting.chats.runs("session-n1.e") == ["tell 100000", "echo and it goes on"]


async def test_who_has_left_and_then_stopped_the_answer_sees_how_far_it_got_once(meeting: Meeting) -> None:
    client = await meeting.begin("n1.s", through=1)
    client.begin("send", text="tell 100000")
    await client.shows(300)
    await client.do("leave", at_once=True)
    assert (await client.ended("send"))["statuses"] in ([200], [])
    assert (await client.do("stop"))["stopped"] is True
    found = await client.do("resume")
    assert (found["status"], found["statuses"]) == ("ready", [200])
    assert found["texts"] == [meeting.chats.stored("session-n1.s")]
    assert story(100000).startswith(found["texts"][0])
    again = await client.do("resume")
    assert (again["statuses"], again["texts"]) == ([204], found["texts"])
    assert (await client.do("stop"))["stopped"] is False


async def test_who_was_cut_off_sees_the_end_although_the_turn_is_over(meeting: Meeting) -> None:
    client = await meeting.begin("n1.f", through=1)
    watcher = await meeting.another("n1.f", "another browser")
    client.begin("send", text="tell 1000")
    await client.shows(100)
    meeting.proxy.cut()
    cut = await client.ended("send")
    assert cut["status"] == "error"
    assert (await watcher.do("resume"))["texts"] == [story(1000)]
    found = await client.do("resume")  # that somebody else has seen the end is nothing to it
    assert found["texts"] == [story(1000)]
    assert [(await each.do("resume"))["statuses"] for each in (client, watcher)] == [[204], [204]]


async def test_an_answer_that_failed_is_an_error_without_what_went_wrong(meeting: Meeting) -> None:
    client = await meeting.begin("n1.g")
    found = await client.do("send", text="fail")
    assert (found["status"], found["broken"]) == ("error", False)
    assert "could not be completed" in found["error"]
    assert "secret" not in str(found)
    found = await client.do("regenerate")
    assert found["status"] == "error"
    assert meeting.chats.runs("session-n1.g") == ["fail", "fail"]


async def test_other_values_become_parts_of_the_message(meeting: Meeting) -> None:
    client = await meeting.begin("n1.h")
    found = await client.do("send", text="tool")
    parts = found["messages"][-1]["parts"]
    assert [part["type"] for part in parts] == ["text", "tool-look", "data-mood", "data-output", "text"]
    assert parts[1]["output"] == [1, 2]
    assert (parts[2]["data"], parts[3]["data"]) == ({"type": "mood", "level": 3}, 7)
    assert found["texts"] == ["let me see done"]
