"""``/openapi.json`` says what is served: schemathesis, a program that knows nothing else, calls all of it."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from cluster.gateway.openapi import document
from tests.cluster.processes import Processes
from tests.gateway.http_client import Gateway

APP = """
from typing import Any
from actors import Actor, handler

class Session(Actor, public=True):
    async def receive(self, message: Any) -> Any:
        return message

    @handler(public=True)
    async def add(self, a: int, b: int = 1) -> int:
        return a + b

    @handler(public=True)
    async def write(self, text: str) -> str:
        return text
"""

CONFIG = """
[parameters]
"path.address" = "session-1"
"path.handler" = "add"

# What depends on what (live on offset, three headers on each other) cannot be said in a description; nor that a
# WebSocket begins with headers that are not of this method.
[[operations]]
include-path-regex = "^/v1/stream/|/ws$"
checks.positive_data_acceptance.enabled = false

# Any JSON value is a message, a handler's arguments are what its signature says, and of a chat's messages the last is
# the user's.
[[operations]]
include-path-regex = "/(ask|send)|^/api/"
checks.positive_data_acceptance.enabled = false
checks.negative_data_rejection.enabled = false
"""


async def test_all_that_is_described_is_served_so(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    chats = "ai-sdk:/api/chat=session.write ag-ui:/api/agui=session.write"
    soon = {"SILO_CHAT": chats, "SILO_EVENT_STREAM_LIFETIME": "0.2", "SILO_LONG_POLL_TIMEOUT": "0.2"}
    silo = processes.silo("n1", app=str(tmp_path / "app.py"), env=soon)
    http = (await silo.ready())[0]["http"]
    assert (await Gateway(http)("GET", "/openapi.json")).json["openapi"] == "3.1.0"
    tester = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml",
        "run", f"http://{http}/openapi.json", "--max-examples=30", "--seed=1", "--no-color", "--request-timeout=20",
        "--exclude-path-regex=/events$",  # they have no end, which it would wait for
        cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(100):
            said, _ = await tester.communicate()
    finally:
        if tester.returncode is None:
            tester.kill()
            await tester.wait()
    assert tester.returncode == 0, said.decode() + silo.err
    passed = re.search(r"generated, (\d+) passed", said.decode())
    assert passed is not None
    assert int(passed[1]) > 500


@pytest.mark.parametrize("authenticated", [False, True])
def test_every_refusal_is_described_as_problem_details(authenticated: bool) -> None:
    found = document([("/api/chat", "ai-sdk"), ("/api/agui", "ag-ui")], authenticated=authenticated)
    assert ("security" in found) == authenticated
    assert {"/api/chat", "/api/chat/{chat}/stream", "/api/chat/{chat}/stop"} <= found["paths"].keys()
    for path, operations in found["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if status >= "400" and path != "/readyz":
                    assert list(response["content"]) == ["application/problem+json"], (path, status)
