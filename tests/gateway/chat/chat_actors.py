"""Actors that answer chats as a language model would: an app for ``silo start``.

What an answer consists of is told by the prompt alone, so that whoever reads it knows what it must be.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from actors import Actor, handler
from tests.cluster.durable_actors import note
from tests.cluster.house_actors import by_name

PAUSE = 0.004


def token(number: int) -> str:
    """The token at a place of every story."""
    return (f"w{number} ", "größer ", "日本 ", "🙂\n", " \t", "\r\n", "data: x\n\n", '"quoted" ')[number % 8]


def story(count: int) -> str:
    """The answer to the prompt ``tell <count>``."""
    return "".join(map(token, range(count)))


async def tell(count: int) -> AsyncIterator[str]:
    """The tokens of a story, as a model would send them."""
    for number in range(count):
        await asyncio.sleep(PAUSE)
        yield token(number)


async def go_on(deltas: list[str], count: int) -> AsyncIterator[str]:
    """The rest of a story of which some was told already."""
    for number in range(len(deltas), count):
        await asyncio.sleep(PAUSE)
        yield token(number)


@dataclass
class Told:
    stories: list[str] = field(default_factory=list)


class Session(Actor, placement=by_name):
    """Answers ``tell <n>`` with a story of n tokens; notes each run in the file ``<key>.runs``."""

    state: Told

    @handler(public=True)
    async def write(self, prompt: str) -> str:
        await self.step("note", note, f"{self.key}.runs", prompt, once=True)
        verb, _, rest = prompt.partition(" ")
        if verb == "tell":
            deltas = [
                delta async for delta in self.stream_step("tell", tell, int(rest), resume=go_on, channel="output")
            ]
            self.state.stories.append("".join(deltas))
            return "told"
        if verb == "again":
            await self.step("again", note, f"{self.key}.starts", prompt)
            async for _ in self.stream_step("tell", tell, int(rest), channel="output"):
                pass
            return "told"
        if verb == "echo":
            return rest
        if verb == "tool":
            await self.publish("let me see ")
            await self.publish(
                {"type": "tool-input-available", "toolCallId": "1", "toolName": "look", "input": {"a": 1}}
            )
            await self.publish({"type": "tool-output-available", "toolCallId": "1", "output": [1, 2]})
            await self.publish({"type": "mood", "level": 3})
            await self.publish(7)
            await self.publish("done")
            return ""
        raise RuntimeError("secret of the house")

    @handler(public=True)
    async def whole(self, message: dict[str, Any]) -> str:
        return f"{message['role']} {len(message['parts'])}"

    @handler(public=True)
    async def all(self, messages: list[dict[str, Any]]) -> str:
        return " ".join(str(message["role"]) for message in messages)
