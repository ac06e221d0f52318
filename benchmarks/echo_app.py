"""The app under the benchmarks: actors that do next to nothing."""

from actors import Actor, handler


class Echo(Actor, persist="never", idle_timeout=3600):
    """Answers with what it got. Has no state."""

    @handler
    async def echo(self, data: bytes) -> bytes:
        """The argument."""
        return data
