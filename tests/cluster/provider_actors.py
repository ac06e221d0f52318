"""Actors that let a provider write, with the client library that people use: an app for ``silo start``."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from actors import Actor, Interrupted, handler
from tests.cluster.durable_actors import note
from tests.cluster.house_actors import by_name, silo_of


async def model_writes(prompt: str) -> AsyncIterator[str]:
    """What the provider at ``TEST_MODEL`` streams."""
    http = DefaultAsyncHttpxClient(trust_env=False)
    async with AsyncOpenAI(base_url=os.environ["TEST_MODEL"] + "/v1", api_key="none", http_client=http) as client:
        stream = await client.chat.completions.create(
            model="any", messages=[{"role": "user", "content": prompt}], stream=True
        )
        async for chunk in stream:
            yield chunk.choices[0].delta.content or ""


async def model_writes_again_and_again(prompt: str) -> AsyncIterator[str]:
    """Whatever fails is tried again."""
    while True:
        try:
            async for delta in model_writes(prompt):
                yield delta
        except Exception:
            note("tried-again", prompt)


class Author(Actor, public=True, placement=by_name):
    """Publishes what the provider writes. Its state gets what was finished."""

    state: list[str]

    @handler
    async def write(self, prompt: str) -> None:
        self.state.append("begun")
        async for _ in self.stream_step("draft", model_writes, prompt, channel="output"):
            pass

    @handler
    async def write_whatever_happens(self, prompt: str) -> None:
        """Catches ``Exception`` around everything, as does the body of its step."""
        while True:
            try:
                async for _ in self.stream_step("draft", model_writes_again_and_again, prompt, channel="output"):
                    pass
            except Exception:
                note("tried-again", prompt)

    @handler
    async def write_and_clean_up(self, prompt: str) -> None:
        """On n1 it does not come to the end of its cleanup."""
        try:
            await self.write(prompt)
        except Interrupted:
            note("cleanup", silo_of(self))
            if silo_of(self) == "n1":
                await asyncio.Event().wait()
            raise

    @handler(readonly=True)
    async def finished(self) -> list[str]:
        return self.state

    @handler(readonly=True)
    async def tasks(self) -> list[str]:
        """What all tasks of the silo run."""
        return sorted(getattr(task.get_coro(), "__qualname__", "?") for task in asyncio.all_tasks())

    @handler(readonly=True)
    async def where(self) -> str:
        return silo_of(self)


class Editor(Actor, placement=by_name):
    """Stops others."""

    @handler
    async def stop(self, author: Any) -> bool:
        stopped: bool = await author.interrupt("enough")
        return stopped
