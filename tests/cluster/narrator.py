"""The app of silos whose actors ask a language model, through the provider's own client."""

import asyncio
import os
from dataclasses import dataclass
from typing import Any

import openai

from actors import Actor, Interrupted, handler
from tests.cluster.house_actors import by_name


@dataclass
class Story:
    text: str = ""
    stopped: str = ""


async def start(prompt: str) -> Any:
    """What the model streams."""
    client = openai.AsyncOpenAI(base_url=os.environ["MODEL_URL"], api_key="none", max_retries=0)
    return await client.chat.completions.create(
        model="any", messages=[{"role": "user", "content": prompt}], stream=True
    )


async def whole(prompt: str) -> str:
    """What the model has answered when it has come to its end."""
    text = ""
    async for chunk in await start(prompt):
        text += chunk.choices[0].delta.content or ""
    return text


class Narrator(Actor, placement=by_name):
    """Tells what a model makes of a prompt, until it is stopped."""

    state: Story

    @handler
    async def tell(self, prompt: str) -> str:
        try:
            async for chunk in self.stream_step("draft", start, prompt, channel="chunks"):
                self.state.text += chunk.choices[0].delta.content or ""
        except Interrupted as interrupted:
            self.state.stopped = str(interrupted)
        return self.state.text

    @handler
    async def answer(self, prompt: str) -> str:
        return await self.step("answer", whole, prompt)  # type: ignore[no-any-return]

    @handler(readonly=True)
    async def story(self) -> tuple[str, str]:
        return self.state.text, self.state.stopped

    @handler(control=True)
    async def tasks(self) -> int:
        """How many tasks there are in this silo."""
        return len(asyncio.all_tasks())
