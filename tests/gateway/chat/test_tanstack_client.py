"""TanStack AI's own client against silo processes: it comes again by itself, and loses and doubles nothing."""

from contextlib import AsyncExitStack

import pytest

from tests.gateway.chat.chat_actors import story
from tests.gateway.chat.conftest import ChatHouse
from tests.gateway.chat.cutting_proxy import CuttingProxy, cutting
from tests.gateway.chat.foreign_client import ForeignClient, foreign_client


class Meeting:
    """TanStack's client before a cluster of two silos, with a way between them that can break."""

    def __init__(self, chats: ChatHouse, exits: AsyncExitStack) -> None:
        self.chats = chats
        self._exits = exits
        self.proxy: CuttingProxy

    async def begin(self, key: str, *, after: int | None = None, growth: int = 0) -> ForeignClient:
        addresses = await self.chats.start("n2", "n1")  # to n2 first: the actors live on n1
        self.proxy = await self._exits.enter_async_context(cutting(addresses, after=after, growth=growth))
        return await self.another(key)

    async def another(self, key: str) -> ForeignClient:
        url = f"http://{self.proxy.address}/api/agui"
        return await self._exits.enter_async_context(foreign_client("tanstack.mjs", url, key))


@pytest.fixture
def meeting(chats: ChatHouse, exits: AsyncExitStack) -> Meeting:
    return Meeting(chats, exits)


async def test_an_answer_arrives_whole(meeting: Meeting) -> None:
    client = await meeting.begin("n1.a")
    found = await client.do("send", text="tell 100")
    assert (found["status"], found["errors"]) == ("ready", [])
    assert found["texts"] == [story(100)] == [meeting.chats.stored("session-n1.a")]
    kinds = [event["type"] for event in found["events"]]
    assert kinds[:2] == ["RUN_STARTED", "TEXT_MESSAGE_START"]
    assert kinds[-2:] == ["TEXT_MESSAGE_END", "RUN_FINISHED"]
    assert kinds.count("TEXT_MESSAGE_CONTENT") > 10, "it came in one piece"
    found = await client.do("send", text="echo once more")
    assert found["texts"] == [story(100), "once more"]


async def test_a_connection_that_breaks_off_again_and_again_loses_and_doubles_nothing(meeting: Meeting) -> None:
    client = await meeting.begin("n1.b", after=1000, growth=500)
    found = await client.do("send", text="tell 400")
    assert (found["status"], found["errors"]) == ("ready", [])
    assert found["texts"] == [story(400)] == [meeting.chats.stored("session-n1.b")]
    assert meeting.proxy.cuts >= 2
    assert [request["method"] for request in found["requests"]] == ["POST"] * len(found["requests"])
    assert [request["after"] is None for request in found["requests"][:3]] == [True, False, False]
    assert meeting.chats.runs("session-n1.b") == ["tell 400"]


@pytest.mark.parametrize("victim", ["n1", "n2"], ids=["the owner", "the gateway"])
async def test_the_answer_goes_on_when_a_silo_is_killed_in_the_middle(meeting: Meeting, victim: str) -> None:
    client = await meeting.begin("n1.c")
    client.begin("send", text="tell 600")
    await client.shows(200)
    await meeting.chats.silos[victim].kill()
    found = await client.ended("send")
    assert (found["status"], found["errors"]) == ("ready", [])
    assert found["texts"] == [story(600)]
    assert meeting.chats.stored("session-n1.c") == story(600)
    assert meeting.chats.runs("session-n1.c") == ["tell 600"]


async def test_an_answer_that_is_begun_anew_replaces_what_was_shown(meeting: Meeting) -> None:
    client = await meeting.begin("n1.r")
    client.begin("send", text="again 400")
    await client.shows(100)
    await meeting.chats.silos["n1"].kill()
    found = await client.ended("send")
    assert (found["status"], found["errors"]) == ("ready", [])
    assert found["texts"] == [story(400)]
    assert "MESSAGES_SNAPSHOT" in [event["type"] for event in found["events"]]
    assert meeting.chats.stored("session-n1.r") == story(400)


async def test_others_join_a_run_by_its_id(meeting: Meeting) -> None:
    client = await meeting.begin("n1.d")
    other = await meeting.another("n1.d")
    client.begin("send", text="tell 100000")
    await client.shows(100)
    other.begin("reload")
    await other.shows(300)
    meeting.proxy.cut()
    await client.do("stop", at_once=True)
    first, joined = await client.ended("send"), await other.ended("reload")
    stored = meeting.chats.stored("session-n1.d")
    assert story(100000).startswith(stored)
    assert first["texts"] == joined["texts"] == [stored]
    assert [request["method"] for request in joined["requests"]][:2] == ["GET", "GET"]
    later = await other.do("join", run=first["events"][0]["runId"])
    assert later["text"] == stored
    assert (later["types"][0], later["types"][-1]) == ("RUN_STARTED", "RUN_FINISHED")


async def test_stopping_ends_the_run_for_all(meeting: Meeting) -> None:
    client = await meeting.begin("n1.e")
    client.begin("send", text="tell 100000")
    await client.shows(300)
    stopped = await client.do("stop", at_once=True)
    assert (stopped["code"], stopped["stopped"]) == (202, True)
    found = await client.ended("send")
    assert (found["status"], found["errors"]) == ("ready", [])
    assert found["texts"] == [meeting.chats.stored("session-n1.e")]
    assert story(100000).startswith(found["texts"][0])


async def test_an_answer_that_failed_is_an_error_without_what_went_wrong(meeting: Meeting) -> None:
    client = await meeting.begin("n1.g")
    found = await client.do("send", text="fail")
    assert found["status"] == "error"
    assert "could not be completed" in str(found["errors"])
    assert "secret" not in str(found)
