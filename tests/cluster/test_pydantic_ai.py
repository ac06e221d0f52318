"""Agents of ``pydantic-ai`` inside steps: an interrupt stops them where they are, and leaves none of their tasks."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel

from actors import Actor, TurnInterrupted, handler
from cluster.testing import TestCluster
from tests.cluster.waiting import eventually


class World:
    """Where the agents' tools and models come to wait, and how that ended."""

    def __init__(self) -> None:
        self.waits = asyncio.Event()
        self.ends: list[str] = []

    async def wait(self) -> None:
        self.waits.set()
        try:
            await asyncio.Event().wait()
        except BaseException as end:
            self.ends.append(type(end).__name__)
            raise


world: World


@pytest.fixture(autouse=True)
async def _new_world() -> None:
    global world
    world = World()


async def slow_tool(topic: str) -> str:
    """Looks something up, for ever."""
    await world.wait()
    return topic


async def quick_tool(topic: str) -> str:
    """Looks something up."""
    return topic


async def write_and_wait(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
    yield "Once upon"
    await world.wait()


async def run_agent(prompt: str) -> str:
    """The test model calls every tool, both at a time."""
    agent = Agent(TestModel(), tools=[slow_tool, quick_tool])
    return (await agent.run(prompt)).output


async def stream_agent(prompt: str) -> AsyncIterator[str]:
    async with Agent(FunctionModel(stream_function=write_and_wait)).run_stream(prompt) as answer:
        async for text in answer.stream_text(delta=True, debounce_by=None):
            yield text


async def answer_agent(prompt: str) -> str:
    return (await Agent(TestModel(), tools=[quick_tool]).run(prompt)).output


class Scholar(Actor):
    state: list[str]

    @handler
    async def answer(self, prompt: str) -> str:
        self.state.append(await self.step("answer", answer_agent, prompt))
        return self.state[-1]

    @handler
    async def look_up(self, prompt: str) -> None:
        try:
            self.state.append(await self.step("agent", run_agent, prompt))
        except Exception:
            self.state.append("caught")

    @handler
    async def write(self, prompt: str) -> None:
        async for text in self.stream_step("agent", stream_agent, prompt, channel="output"):
            self.state.append(text)

    @handler(readonly=True)
    async def lines(self) -> list[str]:
        return self.state


SCHOLAR = Scholar.ref("a")


async def test_an_agent_answers_in_a_step() -> None:
    async with TestCluster(actors=[Scholar]):
        answer = await SCHOLAR.answer("tides")
        assert "quick_tool" in answer
        assert await SCHOLAR.lines() == [answer]


@pytest.mark.parametrize("what", ["look_up", "write"])
async def test_an_interrupt_stops_it_and_leaves_no_task(what: str) -> None:
    async with TestCluster(actors=[Scholar], silos=2), asyncio.timeout(60):
        await SCHOLAR.answer("tides")  # what a silo starts but once is there
        before = asyncio.all_tasks()
        call = asyncio.ensure_future(getattr(SCHOLAR, what)("tides"))
        await world.waits.wait()
        assert await SCHOLAR.interrupt("enough")
        with pytest.raises(TurnInterrupted, match="enough"):
            await call
        await eventually("what it waited for is cancelled", lambda: len(world.ends) == 1)
        assert world.ends in (["CancelledError"], ["GeneratorExit"])
        await eventually("no task is left", lambda: not asyncio.all_tasks() - before)
        assert len(await SCHOLAR.lines()) == 1
        if what == "write":
            async for event in SCHOLAR.channel("output").subscribe():
                assert event.data == "Once upon"
                break
