"""Chat clients of others, run in Node.js, and told by the test what to do."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.gateway.node import install_packages, with_node

FOLDER = Path(__file__).parent


class ForeignClient:
    """A script that takes JSON lines, says what it did, and how long the text is that it shows."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout
        self.shown: list[int] = []
        """Lengths of the text of the last answer, as it grew."""
        self._ended: dict[str, dict[str, Any]] = {}

    def begin(self, what: str, **how: object) -> None:
        """Let it do something."""
        self._stdin.write(json.dumps({"do": what, **how}).encode() + b"\n")

    async def ended(self, what: str, *, within: float = 60.0) -> dict[str, Any]:
        """What has become of what it was to do."""
        async with asyncio.timeout(within):
            while what not in self._ended:
                await self._line()
        found = self._ended.pop(what)
        assert "failed" not in found, found["failed"]
        return found

    async def do(self, what: str, **how: object) -> dict[str, Any]:
        """Let it do something, and wait for that."""
        self.begin(what, **how)
        return await self.ended(what)

    async def shows(self, length: int, *, within: float = 30.0) -> None:
        """Return when the answer has so many characters."""
        async with asyncio.timeout(within):
            while "length" not in (found := await self._line()) or found["length"] < length:
                assert "did" not in found, f"it ended before it showed {length} characters: {found}"

    async def _line(self) -> dict[str, Any]:
        line = await self._stdout.readline()
        assert line, "the client has ended"
        found: dict[str, Any] = json.loads(line)
        if "length" in found:
            self.shown.append(found["length"])
        else:
            self._ended[found["did"]] = found
        return found


@asynccontextmanager
async def foreign_client(script: str, *words: str) -> AsyncIterator[ForeignClient]:
    """A script of this folder that runs as long as the block."""
    await asyncio.to_thread(install_packages)
    process = await asyncio.create_subprocess_exec(
        "node", str(FOLDER / script), *words,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=with_node(), limit=2**26,
    )  # fmt: skip
    client = ForeignClient(process)
    try:
        await client.do("greet")  # it is there
        yield client
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
