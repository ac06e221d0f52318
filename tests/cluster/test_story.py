"""The sessions of ``examples/story.py`` when somebody has another idea, with a model that stops to think."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from cluster.testing import TestCluster
from examples import story
from examples.reader import Reader
from examples.story import END, Session


class Model:
    """Writes three words, of which the last one takes until the connection is closed."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.closed = asyncio.Event()

    async def complete(self, prompt: str, *, max_tokens: int) -> AsyncIterator[str]:
        self.prompts.append(prompt)
        yield " Once"
        yield " upon"
        if len(self.prompts) == 1:
            try:
                await asyncio.Event().wait()
            finally:
                self.closed.set()
        yield " a time."


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    model = Model()
    monkeypatch.setattr(story, "complete", model.complete)
    return model


async def test_another_line_stops_the_model_and_goes_on_from_what_there_is(model: Model) -> None:
    seen: asyncio.Queue[str] = asyncio.Queue()
    async with TestCluster(actors=[Session], silos=2), asyncio.timeout(60):
        reader = Reader("a", seen.put_nowait)
        first = asyncio.create_task(reader.write("One."))
        while await seen.get() != " upon":
            pass
        await reader.write("Two.", on_busy="interrupt")
        await first
        assert model.closed.is_set()
        left = f"One. Once upon{END}"
        assert model.prompts == ["One.", left + "Two."]
        assert reader.text == f"{left}Two. Once upon a time.{END}"
        assert reader.flaws == []
        told = await Session.ref("a").read()
        assert (told.text, told.turns) == (reader.text, 2)


async def test_a_plain_interrupt_ends_the_paragraph(model: Model) -> None:
    seen: asyncio.Queue[str] = asyncio.Queue()
    async with TestCluster(actors=[Session]), asyncio.timeout(60):
        reader = Reader("a", seen.put_nowait)
        writing = asyncio.create_task(reader.write("One."))
        while await seen.get() != " upon":
            pass
        assert await Session.ref("a").interrupt()
        await writing
        assert (await Session.ref("a").read()).text == reader.text == f"One. Once upon{END}"
