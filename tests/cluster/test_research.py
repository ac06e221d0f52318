"""The agent of ``examples/research.py`` on silos in this process, over a library of six files; and the command, with
the real model and library.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any, cast

import pytest

from actors import Steered, TurnInterrupted
from cluster.testing import TestCluster
from examples import research
from examples.research import END, Reader, Research, Scope
from examples.survey import Part, Reading
from tests.cluster.processes import ROOT, Process, Processes
from tests.cluster.waiting import eventually

PARTS = [Part(number, f"part {number}", [f"{number}a.py", f"{number}b.py"]) for number in (1, 2, 3)]


class Library:
    """Files that wait to be read, and what was read of them."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, str]] = []
        self.read_to_the_end: list[tuple[str, str]] = []
        self.may_go_on = Event()
        self.waits_at = ""

    def read(self, path: str, module: str) -> Reading:
        self.begun.append((module, path))
        if path == self.waits_at:
            assert self.may_go_on.wait(60)
        self.read_to_the_end.append((module, path))
        return Reading(1, 10, 1, {f"{module}_name": 1}, [f"{path}:1: {module}"], {path: 1})


library: Library


def read(path: str, module: str) -> Reading:
    return library.read(path, module)


def divide(*, thorough: bool = False) -> list[Part]:
    return PARTS


@pytest.fixture(autouse=True)
def _small_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    global library
    library = Library()
    monkeypatch.setattr(research, "read", read)
    monkeypatch.setattr(research, "divide", divide)
    monkeypatch.setattr(research, "READERS", 1)
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "LOCAL_MODEL_URL"):
        monkeypatch.delenv(name, raising=False)
    yield
    library.may_go_on.set()  # a thread that waits would keep the process


AGENT = Research.ref("a").options(timeout=60)


async def published(count: int) -> list[Any]:
    found: list[Any] = []
    async with asyncio.timeout(60):
        async for event in Research.ref("a").channel("output").subscribe():
            assert (event.kind, event.offset) == ("item", len(found))
            found.append(event.data)
            if len(found) == count:
                break
    return found


def parts_of(module: str, *numbers: int) -> list[Any]:
    return [
        {"plan": module, "parts": ["part 1", "part 2", "part 3"]},
        *(
            {
                "read": module,
                "part": number,
                "of": f"part {number}",
                "files": 2,
                "users": 2,
                "uses": {f"{module}_name": 2},
                "quotes": [f"{number}a.py:1: {module}", f"{number}b.py:1: {module}"],
            }
            for number in numbers
        ),
    ]


def question(module: str) -> list[Any]:
    return [{"question": f"6 of 6 files use {module}. Shall I write the report?"}]


async def test_it_writes_its_report_when_it_may() -> None:
    async with TestCluster(actors=[Research, Reader], silos=2):
        asking = asyncio.create_task(AGENT.investigate("json"))
        assert await published(5) == [*parts_of("json", 1, 2, 3), *question("json")]
        assert not asking.done()
        await AGENT.signal("approval", value=True)
        report = await asking
        assert report.startswith("# How Python's library uses json\n\n6 of 6 files (60 lines) use it, 6 times.\n\n")
        assert "- `json.json_name`: 6 times\n" in report
        assert (await AGENT.notes()).report == report
        text = ""
        async for event in Research.ref("a").channel("report").subscribe():
            text += event.data
            if event.data == END:
                break
        assert text == report


async def test_a_report_is_gone_on_with_wherever_it_was_left() -> None:
    async with TestCluster(actors=[Research, Reader]):
        await AGENT.signal("approval", value=True)
        await AGENT.investigate("json")
        agent = cast("Research", SimpleNamespace(state=await AGENT.notes()))
    pieces = [piece async for piece in Research._write_on(agent, [])]
    for left in range(len(pieces) + 1):
        assert [piece async for piece in Research._write_on(agent, pieces[:left])] == pieces[left:]


async def test_without_approval_there_is_no_report() -> None:
    async with TestCluster(actors=[Research, Reader]):
        await AGENT.signal("approval", value=False)  # before it was asked for
        assert await AGENT.investigate("json") == ""
        notes = await AGENT.notes()
        assert (notes.module, notes.found.files, notes.report) == ("json", 6, "")


async def test_another_subject_replaces_the_first_between_two_parts() -> None:
    library.waits_at = "2a.py"
    async with TestCluster(actors=[Research, Reader], silos=2):
        asking = asyncio.create_task(AGENT.investigate("json"))
        await eventually("it reads", lambda: ("json", "2a.py") in library.begun)
        steering = AGENT.options(on_busy="steer")
        redirecting = asyncio.create_task(steering.investigate("os"))
        await steering.investigate.send("no such module")
        library.may_go_on.set()
        expected = [*parts_of("json", 1, 2), *parts_of("os", 1, 2, 3), *question("os")]
        assert await published(8) == expected
        await AGENT.signal("approval", value=True)
        assert "uses os" in await asking
        assert isinstance(await redirecting, Steered)


async def test_a_silo_that_dies_costs_nothing_that_was_read() -> None:
    library.waits_at = "2b.py"
    async with TestCluster(actors=[Research, Reader], silos=3) as cluster:
        asking = asyncio.create_task(AGENT.investigate("json"))
        await eventually("it reads", lambda: ("json", "2b.py") in library.begun)
        home = cluster.where("research-a")
        assert home is not None
        await cluster.kill(home)
        library.may_go_on.set()
        assert await published(5) == [*parts_of("json", 1, 2, 3), *question("json")]
        await AGENT.signal("approval", value=True)
        assert "6 of 6 files" in await asking
        for path in ("1a.py", "1b.py"):
            assert library.begun.count(("json", path)) == 1, f"{path} was read again"


async def test_an_interrupt_stops_it_and_its_readers() -> None:
    library.waits_at = "2b.py"
    async with TestCluster(actors=[Research, Reader], silos=2), asyncio.timeout(60):
        asking = asyncio.create_task(AGENT.investigate("json"))
        await eventually("it reads", lambda: ("json", "2b.py") in library.begun)
        assert await AGENT.interrupt("enough")
        with pytest.raises(TurnInterrupted, match="enough"):
            await asking
        async for event in Reader.ref("a.2").channel("$turns").subscribe():
            if event.data["event"] == "interrupted":
                break
        library.may_go_on.set()
        assert await published(2) == parts_of("json", 1), "what it has published stays"
        assert (await AGENT.notes()).module == ""
        assert ("json", "3a.py") not in library.begun


async def test_an_unknown_module_is_an_error() -> None:
    async with TestCluster(actors=[Research, Reader]):
        with pytest.raises(Exception, match="has no module 'no_such_module'"):
            await AGENT.investigate("no_such_module")


# -- its notes ------------------------------------------------------------------------------------------------------


class Model:
    """Writes two words on a file. At the second file it waits until it may go on."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.may_go_on = asyncio.Event()

    async def complete(self, prompt: str, *, title: str, max_tokens: int) -> AsyncIterator[str]:
        assert max_tokens == 7
        path = title.rpartition(" ")[2]
        self.begun.append(path)
        yield " be"
        if path == "1b.py":
            await self.may_go_on.wait()
        yield f" {path}."


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    model = Model()
    monkeypatch.setattr(research, "complete", model.complete)
    monkeypatch.setattr(research, "passage", lambda path, module: f"{module} in {path}")
    monkeypatch.setattr(research, "WRITERS", 1)
    return model


def notes_on(module: str, *paths: str, count: int) -> list[Any]:
    return [
        {
            "noted": module,
            "file": path,
            "number": number,
            "count": count,
            "note": f"This code uses {module} to be {path}.",
        }
        for number, path in enumerate(paths, 1)
    ]


async def test_notes_that_are_written_are_not_written_again_when_a_silo_dies(model: Model) -> None:
    async with TestCluster(actors=[Research, Reader], silos=3) as cluster:
        asking = asyncio.create_task(AGENT.investigate("json", scope=Scope(documents=3, tokens=7)))
        await eventually("it writes", lambda: "1b.py" in model.begun)
        home = cluster.where("research-a")
        assert home is not None
        await cluster.kill(home)
        model.may_go_on.set()
        notes = notes_on("json", "1a.py", "1b.py", "2a.py", count=3)
        assert await published(8) == [*parts_of("json", 1, 2, 3), *notes, *question("json")]
        await AGENT.signal("approval", value=True)
        report = await asking
        assert all(f"\n{note['file']}: {note['note']}\n" in report for note in notes)
        assert model.begun.count("1a.py") == model.begun.count("2a.py") == 1


async def test_another_subject_replaces_the_first_between_two_notes(model: Model) -> None:
    async with TestCluster(actors=[Research, Reader], silos=2):
        scope = Scope(parts=2, documents=3, tokens=7)
        asking = asyncio.create_task(AGENT.investigate("json", scope=scope))
        await eventually("it writes", lambda: "1b.py" in model.begun)
        await AGENT.options(on_busy="steer").investigate.send("os", scope=scope)
        model.may_go_on.set()
        await AGENT.signal("approval", value=False)
        assert await asking == ""
        assert (await AGENT.notes()).module == "os"
        assert [*(await AGENT.notes()).notes] == ["1a.py", "1b.py", "2a.py"]
    assert model.begun == ["1a.py", "1b.py", "1a.py", "1b.py", "2a.py"]


# -- the command ----------------------------------------------------------------------------------------------------


def children(process: Process) -> list[Path]:
    """The processes that it has started (Linux)."""
    found = [file.read_text() for file in Path(f"/proc/{process.pid}/task").glob("*/children")]
    return [Path(f"/proc/{pid}") for pid in " ".join(found).split()]


@pytest.mark.timeout(300)  # the real model on shared processors
async def test_it_is_redirected_loses_its_silo_and_is_right_with_the_real_model(tmp_path: Path) -> None:
    async with Processes(tmp_path) as processes:
        work = ("--short", "--parts", 2, "--documents", 5)
        driver = processes.start("sys", "--instead", "threading", *work, module="examples.research")
        ended = await driver.ended(within=280)
    assert ended.status == 0, ended.out + ended.err
    assert "FAIL" not in ended.out
    assert "9 of 9 checks passed" in ended.out


@pytest.mark.timeout(300)  # the real model on shared processors
async def test_ctrl_c_ends_it_and_all_that_it_has_started(tmp_path: Path) -> None:
    async with Processes(tmp_path) as processes:
        driver = processes.start(module="examples.research")
        await eventually("it reads", lambda: "The plan for" in driver.out, within=200)
        started = children(driver)
        assert len(started) >= 5, "a model, an etcd and three silos"
        driver.signal(signal.SIGINT)
        assert (await driver.ended(within=60)).status == 130
        await eventually("nothing is left", lambda: not any(path.exists() for path in started))


@pytest.mark.parametrize("words", [("no_such_module",), ("--documents", "0"), ("--parts", "few")])
async def test_what_makes_no_sense_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    async with Processes(tmp_path) as processes:
        ended = await processes.start(*words, module="examples.research", cwd=ROOT).ended(within=60)
    assert ended.status == 2
    assert words[-1] in ended.err
