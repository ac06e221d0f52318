"""The model client against a provider that this test plays itself, and the choice of endpoint."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from examples.local_model import Endpoint, complete


@dataclass
class Provider:
    """A chat provider that streams three words and then waits until its client leaves."""

    endless: bool = False
    path: str = ""
    authorization: str = ""
    request: dict[str, Any] = field(default_factory=dict)
    client_left: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        self.path, self.authorization = lines[0].split()[1], headers["authorization"]
        self.request = json.loads(await reader.readexactly(int(headers["content-length"])))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        for word in ("Once", " upon", " a time"):
            chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
            choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
            writer.write(f"data: {json.dumps(chunk | {'choices': [choice]})}\n\n".encode())
        if self.endless:
            await writer.drain()
            assert await reader.read() == b""
            self.client_left.set()
        else:
            writer.write(b"data: [DONE]\n\n")
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def serving(provider: Provider) -> AsyncIterator[Endpoint]:
    server = await asyncio.start_server(provider, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield Endpoint(url=f"http://127.0.0.1:{port}/v1", model="m", api_key="secret", chat=True)


async def test_a_provider_is_asked_by_chat_and_streams() -> None:
    provider = Provider()
    async with serving(provider) as endpoint:
        pieces = [piece async for piece in complete("It rained.", max_tokens=7, endpoint=endpoint)]

    assert pieces == ["Once", " upon", " a time"]
    assert provider.path == "/v1/chat/completions"
    assert provider.authorization == "Bearer secret"
    assert provider.request["messages"][-1] == {"role": "user", "content": "It rained."}
    assert (provider.request["model"], provider.request["max_tokens"], provider.request["stream"]) == ("m", 7, True)


async def test_closing_early_closes_the_connection() -> None:
    provider = Provider(endless=True)
    async with serving(provider) as endpoint:
        async with aclosing(complete("It rained.", endpoint=endpoint)) as pieces:
            assert await anext(pieces) == "Once"
        await provider.client_left.wait()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL", "LOCAL_MODEL_URL"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_a_provider_needs_url_and_key(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("LOCAL_MODEL_URL", "http://127.0.0.1:1/v1")
    environment.setenv("OPENAI_BASE_URL", "http://provider/v1")
    assert Endpoint.from_environment() == Endpoint.local("http://127.0.0.1:1/v1")

    environment.setenv("OPENAI_API_KEY", "secret")
    provider = Endpoint.from_environment()
    assert provider == Endpoint(url="http://provider/v1", model="gpt-4o-mini", api_key="secret", chat=True)

    environment.setenv("OPENAI_MODEL", "other")
    assert Endpoint.from_environment().model == "other"


def test_without_a_model_the_error_says_how_to_get_one(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match=r"python -m examples\.local_model.*OPENAI_BASE_URL"):
        Endpoint.from_environment()
