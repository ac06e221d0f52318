"""The reference server of the Durable Streams protocol, in Node.js. It keeps everything in memory."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from benchmarks.node import PACKAGES, node_command
from benchmarks.peer import Place, Served
from benchmarks.stream_load import StreamsPeer


class ReferencePeer(StreamsPeer):
    """``DurableStreamTestServer`` with its own defaults."""

    @contextlib.asynccontextmanager
    async def serve(self, place: Place) -> AsyncIterator[Served]:
        """A child process, which ends with its stdin."""
        process = await asyncio.create_subprocess_exec(
            *node_command(), str(PACKAGES / "reference_server.mjs"),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            endpoint = (await process.stdout.readline()).decode().strip()
            if not endpoint:
                raise OSError(f"the reference server ended with status {await process.wait()}")
            yield Served(endpoint, pid=process.pid)
        finally:
            process.stdin.close()
            await process.wait()


PEER = ReferencePeer()
