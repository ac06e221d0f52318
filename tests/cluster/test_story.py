"""The sessions of ``examples/story.py`` when somebody has another idea, with a model that stops to think; and the demo
that plays them, as a command with the real model.
"""

import asyncio
import queue
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from cluster.testing import TestCluster
from examples import story
from examples.conversation import Conversation
from examples.reader import Reader
from examples.story import END, Session
from tests.cluster.processes import Processes
from tests.cluster.waiting import eventually


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


@pytest.mark.parametrize("terminal", [True, False])
async def test_what_is_typed_while_it_is_written_interrupts_it(
    model: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool
) -> None:
    """On a terminal. Lines from elsewhere are taken one after the other."""
    typed: queue.Queue[str] = queue.Queue()
    monkeypatch.setattr("builtins.input", typed.get)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: terminal)
    if not terminal:
        model.prompts.append("as if it had had its pause")
    async with TestCluster(actors=[Session]), asyncio.timeout(60):
        talking = Conversation(cast("Any", None), cast("Any", None), ["a"])
        running = asyncio.create_task(talking.run())
        typed.put("One.")
        if terminal:
            await eventually("it writes", lambda: talking._readers["a"].text.endswith("upon"))
        typed.put("Two.")
        whole = f"One. Once upon{'' if terminal else ' a time.'}{END}Two. Once upon a time.{END}"
        await eventually("both are written", lambda: talking._readers["a"].text == whole)
        typed.put("/quit")
        await running
    assert "Two. Once upon a time." in capsys.readouterr().out


@pytest.mark.timeout(300)  # the real model on shared processors
async def test_the_demo_plays_them_in_a_cluster_with_the_real_model(tmp_path: Path) -> None:
    """It kills a silo in mid-sentence, interrupts a session, and looks whether every promise was kept."""
    async with Processes(tmp_path) as processes:
        demo = processes.start("--sessions", 6, "--stories-only", module="examples.demo")
        ended = await demo.ended(within=280)
    assert ended.status == 0, ended.out + ended.err
    assert "FAIL" not in ended.out
    assert "9 of 9 checks passed" in ended.out
