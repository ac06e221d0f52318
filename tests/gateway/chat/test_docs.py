"""The examples of docs/chat.md, run as a reader would."""

import asyncio
import json
import re
import shlex
from pathlib import Path

import pytest

from cluster import Silo
from cluster.gateway import GatewayOptions
from tests.cluster.processes import Process, Processes
from tests.gateway.node import FOLDER, install_packages, with_node

PAGE = (Path(__file__).parents[3] / "docs/chat.md").read_text()
ANSWER = "You said: Hello "


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n([\s\S]*?)^```$", PAGE, re.MULTILINE)


def block(language: str, holding: str) -> str:
    (found,) = [text for text in blocks(language) if holding in text]
    return found


@pytest.fixture
async def silo(processes: Processes, tmp_path: Path) -> Process:
    """The silo of the page, with its app and its chats."""
    (tmp_path / "story.py").write_text(block("python", "# story.py"))
    command = shlex.split(block("console", "silo start").removeprefix("$ "))
    assert command[:3] == ["silo", "start", "story.py"]
    chats = command[command.index("--chat") :]
    return processes.start(
        "start", tmp_path / "story.py", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", *chats, cwd=tmp_path
    )


async def run(*command: str, folder: Path, until: str) -> str:
    """What a command says, up to what is waited for."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=with_node(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdout is not None
    said = ""
    try:
        async with asyncio.timeout(30):
            while until not in said and (line := await process.stdout.readline()):
                said += line.decode()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    assert until in said, said
    return said


async def test_the_examples_answer(silo: Process, tmp_path: Path) -> None:
    await asyncio.to_thread(install_packages)
    (tmp_path / "node_modules").symlink_to(FOLDER / "node_modules")
    http = (await silo.ready())[0]["http"]
    curl = shlex.split(block("console", "curl").removeprefix("$ ").replace("127.0.0.1:7480", http))
    said = await run(*curl, folder=tmp_path, until="[DONE]")
    chunks = [json.loads(line[6:]) for line in said.splitlines() if line.startswith("data: {")]
    assert "".join(chunk.get("delta", "") for chunk in chunks) == ANSWER
    assert chunks[-1] == {"type": "finish", "finishReason": "stop"}
    for name, until in (("ChatClient", ANSWER), ("EventSource", "Hello")):
        script = tmp_path / f"{name}.mjs"
        script.write_text(block("js", name).replace("127.0.0.1:7480", http))
        await run("node", str(script), folder=tmp_path, until=until)


def test_the_configuration_in_code_is_that_of_the_command() -> None:
    names: dict[str, object] = {}
    exec(block("python", "# story.py") + block("python", "GatewayOptions"), names)  # our own page
    assert isinstance(names["silo"], Silo)
    command = block("console", "silo start")
    options = names["options"]
    assert isinstance(options, GatewayOptions)
    assert [str(chat).removesuffix("/output") in command for chat in options.chats] == [True]
