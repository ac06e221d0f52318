"""The clients of Durable Streams from npm and from PyPI, against silo processes and connections that break off."""

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import durable_streams
import pytest

from tests.cluster.waiting import eventually
from tests.gateway.chat.chat_actors import story
from tests.gateway.chat.conftest import ChatHouse
from tests.gateway.chat.cutting_proxy import cutting
from tests.gateway.chat.foreign_client import foreign_client
from tests.gateway.http_client import Gateway

JSON = {"Content-Type": "application/json"}
STREAM = {"Content_Type": "application/json"}


def ask(key: str, text: str) -> str:
    """What a chat client posts."""
    message = {"id": text, "role": "user", "parts": [{"type": "text", "text": text}]}
    return json.dumps({"id": key, "messages": [message], "trigger": "submit-message"})


async def test_what_the_producer_from_npm_writes_is_there_once(chats: ChatHouse, exits: AsyncExitStack) -> None:
    """Connections break off after a few answers, so that it does not know which of its batches arrived."""
    addresses = await chats.start("n1", "n2")
    proxy = await exits.enter_async_context(cutting(addresses, after=7000))
    client = await exits.enter_async_context(foreign_client("durable_streams.mjs", f"http://{proxy.address}/v1/stream"))
    client.begin("write", name="written", count=200)
    await eventually("connections have broken off", lambda: proxy.cuts > 2)
    proxy.after = None
    assert (await client.ended("write"))["times"] > 1
    found = await Gateway(addresses[0]).get("written")
    assert found.json == [{"number": number} for number in range(200)]


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_the_reader_from_npm_goes_on_where_it_was(chats: ChatHouse, exits: AsyncExitStack, live: str) -> None:
    addresses = await chats.start("n1", "n2")
    proxy = await exits.enter_async_context(cutting(addresses, after=3000, growth=1000))
    client = await exits.enter_async_context(foreign_client("durable_streams.mjs", f"http://{proxy.address}/v1/stream"))
    gateway = Gateway(addresses[0])
    writing = asyncio.create_task(gateway("POST", "/api/chat", ask("n1.a", "tell 300"), JSON))
    first = await client.do("read", name="session-n1.a/output", live=live, offset="-1", count=100)
    assert story(300).startswith("".join(first["items"]))
    rest = await client.do("read", name="session-n1.a/output", live=live, offset=first["offset"], count=100)
    assert story(300).startswith("".join(first["items"] + rest["items"]))
    whole = await client.do("read", name="session-n1.a/output", live=live, offset="-1", count=300)
    assert "".join(whole["items"]) == story(300) == chats.stored("session-n1.a")
    assert (await writing).status == 200
    await gateway.put("free", **STREAM)
    await gateway.post("free", json.dumps(list(range(10))), **STREAM)
    half = await client.do("read", name="free", live=live, offset="-1", count=10)
    client.begin("read", name="free", live=live, offset=half["offset"], count=5)
    await gateway.post("free", json.dumps(list(range(10, 15))), **STREAM)
    assert (await client.ended("read"))["items"] == list(range(10, 15))


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_the_reader_from_pypi_goes_on_where_it_was(chats: ChatHouse, live: Any) -> None:
    (address,) = await chats.start("n1")
    gateway = Gateway(address)
    url = f"http://{address}/v1/stream/session-n1.b/output"
    writing = asyncio.create_task(gateway("POST", "/api/chat", ask("n1.b", "tell 200"), JSON))
    items: list[str] = []
    offset = "-1"
    for wanted in (50, 120, 200):
        async with durable_streams.astream(url, offset=offset, live=live) as response:
            async for event in response.iter_events():
                items += event.data
                offset = event.next_offset
                if len(items) >= wanted:
                    break
    assert "".join(items) == story(200) == chats.stored("session-n1.b")
    assert (await writing).status == 200


async def test_the_client_from_pypi_writes_and_reads_a_stream(chats: ChatHouse) -> None:
    (address,) = await chats.start("n1")
    url = f"http://{address}/v1/stream/from-python"
    async with await durable_streams.AsyncDurableStream.create(url, content_type="application/json") as handle:
        for number in range(20):
            await handle.append({"number": number})
        async with handle.stream(offset="-1", live=False) as response:
            assert await response.read_json() == [{"number": number} for number in range(20)]
