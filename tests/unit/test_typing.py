"""What type checkers say of typed references: what is right passes, what is wrong is found, at its line."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

APP = """
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

from actors import Actor, ActorRef, Receipt, actor_ref, handler


@dataclass
class Story:
    text: str = ""


class Session(Actor, idle_timeout=300, on_busy="queue"):
    state: Story

    async def receive(self, message: str) -> int:
        return len(message)

    @handler
    async def write(self, prompt: str, *, loud: bool = False) -> str:
        self.state.text += prompt
        return prompt

    @handler
    async def decide(self) -> bool:
        async for note in self.steering():
            self.state.text += str(note)
        approved: bool = await self.wait_for("approval", timeout=timedelta(days=3))
        return approved or bool(await self.wait_for("other", 3))

    @handler(public=True)
    async def count(self) -> int:
        words: str = await self.write("x")
        return len(words)

    @handler
    async def tokens(self, prompt: str) -> AsyncIterator[str]:
        yield prompt

    @handler(readonly=True)
    async def peek(self) -> Story:
        return self.state

    @handler(control=True)
    async def watch(self, n: int) -> AsyncIterator[int]:
        yield n

    @handler
    async def introduce(self, other: "Session") -> "Session":
        return other


class Loud(Session):
    @handler
    async def shout(self) -> str:
        return (await self.write("x")).upper()
"""

RIGHT = """
from actors import ActorRef, Receipt, actor_ref
from app import Loud, Session, Story


async def use() -> None:
    session = Session.ref("42")
    text: str = await session.write("x", loud=True)
    number: int = await session.count()
    story: Story = await session.peek()
    receipt: Receipt = await session.write.send("x")
    message_id: str = receipt.message_id
    async for token in session.tokens.stream("x"):
        word: str = token
    async for n in session.watch.stream(3):
        i: int = n
    await session.tokens.send("x")
    await session.send("hello")
    await session.send()
    reply = await session.ask("hello")
    with_options: str = await session.options(timeout=5, headers={"a": "b"}).write("x")
    patient: str = await session.options(timeout=None).write("x")
    urgent: str = await session.options(on_busy="interrupt", cancel_with_caller=True).write("x")
    was_running: bool = await session.interrupt("enough", message_id=message_id)
    await session.signal("approval", {"yes": True})
    await actor_ref("session-42").signal("approval")
    address: str = session.address
    key: str = session.key
    friend: Session = await session.introduce(Session.ref("43"))
    again: str = await Loud.ref("1").write("x")
    shout: str = await Loud.ref("1").shout()
    untyped: ActorRef = actor_ref("session-42")
    await untyped.write("x")
    async for anything in untyped.tokens.stream("x"):
        print(anything)
    await untyped.options(timeout=3).ask("x")
    print(urgent, was_running)
    print(text, number, story, message_id, reply, with_options, patient, address, key, friend, again, shout)
    print({session: 1, untyped: 2})
"""

WRONG = """
from actors import Actor, actor_ref, handler
from app import Session


async def use() -> None:
    session = Session.ref("42")
    await session.write(5)  # wrong
    await session.write()  # wrong
    await session.write("x", quiet=True)  # wrong
    await session.write("x", "y")  # wrong
    number: int = await session.write("x")  # wrong
    await session.missing()  # wrong
    await session.write.send(5)  # wrong
    await session.write.stream("x")  # wrong
    async for token in session.tokens.stream(5):  # wrong
        print(token)
    async for token in session.tokens.stream("x"):
        n: int = token  # wrong
    await session.tokens("x")  # wrong
    Session.ref(42)  # wrong
    actor_ref(42)  # wrong
    session.options(timeout="5")  # wrong
    session.options(on_busy="wait")  # wrong
    await session.signal()  # wrong
    await session.introduce("session-43")  # wrong
    print(number)


class Sync(Actor):
    @handler  # wrong
    def plain(self) -> int:
        return 1


class Unknown(Actor, persist="sometimes"):  # wrong
    pass
"""

CONFIG = f"[mypy]\nstrict = true\nmypy_path = {ROOT}\npretty = false\n"


def checkers() -> list[str]:
    folder = Path(sys.executable).parent
    return ["mypy", *(["basedpyright"] if shutil.which("basedpyright", path=str(folder)) else [])]


def check(checker: str, folder: Path) -> tuple[dict[str, dict[int, str]], str]:
    """The checker's errors by file and line."""
    for name, text in {"app": APP, "right": RIGHT, "wrong": WRONG}.items():
        (folder / f"{name}.py").write_text(text)
    files = ["app.py", "right.py", "wrong.py"]
    if checker == "mypy":
        (folder / "mypy.ini").write_text(CONFIG)
        cache = ROOT / ".mypy_cache" / "typing-tests"
        command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", str(cache), *files]
    else:
        settings = f'{{"typeCheckingMode": "standard", "extraPaths": ["{ROOT}"], "include": ["."]}}'
        (folder / "pyrightconfig.json").write_text(settings)
        command = [str(Path(sys.executable).parent / "basedpyright"), "--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    found: dict[str, dict[int, str]] = {name: {} for name in files}
    for line in done.stdout.splitlines():
        match = re.match(r"\s*(?:.*/)?(\w+\.py):(\d+)(?::\d+)?(?: -|:) error:? ?(.*)", line)
        if match and match[1] in found:
            found[match[1]][int(match[2])] = match[3]
    return found, done.stdout + done.stderr


@pytest.fixture(scope="module", params=checkers())
def errors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, str]]:
    found, output = check(request.param, tmp_path_factory.mktemp("typing"))
    assert found["wrong.py"], f"{request.param} did not do its work: {output}"
    return found


@pytest.mark.timeout(100)
def test_an_app_written_as_the_contract_shows_has_no_errors(errors: dict[str, dict[int, str]]) -> None:
    assert errors["app.py"] == {}


def test_right_uses_of_typed_references_pass(errors: dict[str, dict[int, str]]) -> None:
    assert errors["right.py"] == {}


def test_every_wrong_use_is_found_at_its_line_and_nothing_else(errors: dict[str, dict[int, str]]) -> None:
    lines = WRONG.splitlines()
    expected = {number: line for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    missed = {number: line for number, line in expected.items() if number not in errors["wrong.py"]}
    assert missed == {}
    extra = {number: text for number, text in errors["wrong.py"].items() if number not in expected}
    assert extra == {}
