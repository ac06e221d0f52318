"""The demo's language model for real: its process, its text, and its end."""

import asyncio
import json
import os
import re
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio

from examples.local_model import Endpoint, complete, local_model

ROOT = Path(__file__).parents[2]
OPENING = "The lamp on the harbour wall went out, and Mara heard someone row towards her in the dark."


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def endpoint() -> AsyncIterator[Endpoint]:
    async with local_model(slots=1) as endpoint:
        yield endpoint


def tokens_written(endpoint: Endpoint) -> int:
    with urllib.request.urlopen(f"{endpoint.url.removesuffix('/v1')}/metrics") as answer:
        metrics = answer.read().decode()
    found = re.search(r"^llamacpp:tokens_predicted_total (\d+)$", metrics, re.MULTILINE)
    assert found, metrics
    return int(found[1])


async def assert_slot_is_free(endpoint: Endpoint, *, written_before: int) -> None:
    """Write another text in the only slot, which waits for the one before, and count what both took."""
    assert [piece async for piece in complete(OPENING, max_tokens=8, endpoint=endpoint)]
    written = await asyncio.to_thread(tokens_written, endpoint) - written_before
    assert written < 200, f"{written} tokens were written for 1 that was read and 8 that were asked for"


async def test_continues_a_story_in_one_paragraph_piece_by_piece(endpoint: Endpoint) -> None:
    pieces = [piece async for piece in complete(OPENING, max_tokens=24, seed=1, endpoint=endpoint)]

    assert 6 <= len(pieces) <= 24, pieces
    text = "".join(pieces)
    assert "\n" not in text
    assert len(text.split()) >= 5, text


async def test_closing_the_iterator_stops_the_writing(endpoint: Endpoint) -> None:
    before = await asyncio.to_thread(tokens_written, endpoint)
    async with aclosing(complete(OPENING, max_tokens=100_000, endpoint=endpoint)) as endless:
        await anext(endless)

    await assert_slot_is_free(endpoint, written_before=before)


async def test_cancelling_the_reader_stops_the_writing(endpoint: Endpoint) -> None:
    before = await asyncio.to_thread(tokens_written, endpoint)
    started = asyncio.Event()

    async def read_on() -> None:
        async for _ in complete(OPENING, max_tokens=100_000, endpoint=endpoint):
            started.set()

    reader = asyncio.create_task(read_on())
    await started.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader

    await assert_slot_is_free(endpoint, written_before=before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_with_status_0(number: signal.Signals) -> None:
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "examples.local_model", "--port", "0", "--slots", "1"),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert server.stdout is not None
    ready = json.loads(await server.stdout.readline())
    assert ready["ready"] is True
    assert ready["url"].startswith("http://127.0.0.1:")

    server.send_signal(number)

    assert await server.wait() == 0


async def test_it_dies_with_its_parent() -> None:
    parent_code = """
import asyncio
from examples.local_model import local_model

async def main():
    async with local_model(slots=1):
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
    # Parent and server both hold the write end as their stderr, so the read end reports when both are gone.
    read_end, write_end = os.pipe()
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", parent_code), cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=write_end
    )
    os.close(write_end)
    assert parent.stdout is not None
    assert await parent.stdout.readline() == b"ready\n"

    parent.kill()
    await parent.wait()

    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb")
    )
    async with asyncio.timeout(60):
        await reader.read()
    transport.close()


async def test_a_port_in_use_is_named(endpoint: Endpoint) -> None:
    port = endpoint.url.removesuffix("/v1").rpartition(":")[2]
    second = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.local_model", "--port", port),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, log = await second.communicate()

    assert second.returncode == 1
    assert output == b""
    assert f"did not start on 127.0.0.1:{port}".encode() in log
