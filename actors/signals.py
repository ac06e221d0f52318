"""Signals of an actor: values that wait, by name and in order, until a turn takes them with ``wait_for``."""

import asyncio
from collections import deque
from typing import Final

import msgspec

from actors.errors import MailboxFull, PayloadTooLarge
from actors.records import SIGNAL, Signal, encode

MOST: Final = 1000
MOST_BYTES: Final = 16 * 2**20

_rows = msgspec.msgpack.Decoder(Signal)


class Signals:
    """The signals of one actor that nobody has taken: at most 1,000, and at most 16 MiB."""

    __slots__ = ("_address", "_bytes", "_changed", "_coming", "_count", "_waiting")

    def __init__(self, address: str) -> None:
        self._address = address
        self._waiting: dict[str, deque[tuple[bytes, bytes]]] = {}  # key and value of each that is durable
        self._coming: dict[str, int] = {}  # how many are in commits under way
        self._count = self._bytes = 0
        self._changed = asyncio.Event()

    def restore(self, rest: bytes, value: bytes) -> None:
        """A row that was there when the activation began; ``rest``: its key behind the kind."""
        name, row = rest[: rest.index(b"\0")].decode(), _rows.decode(value)
        self._count += 1
        self._bytes += len(row.value)
        self._waiting.setdefault(name, deque()).append((SIGNAL + rest, row.value))

    def make_room(self, name: str, value: bytes) -> None:
        """Count one that is about to come. Raises ``MailboxFull`` or ``PayloadTooLarge``."""
        if len(value) > MOST_BYTES:
            raise PayloadTooLarge(
                f"{self._address}: the value of signal {name!r} has {len(value)} bytes, the limit is {MOST_BYTES}"
            )
        if self._count >= MOST or self._bytes + len(value) > MOST_BYTES:
            raise MailboxFull(
                f"{self._address}: {self._count} signals ({self._bytes} bytes) wait already, the limit is {MOST} "
                f"({MOST_BYTES} bytes); does any turn wait_for({name!r})?"
            )
        self._count += 1
        self._bytes += len(value)

    def put(self, name: str, value: bytes, number: bytes, put: dict[bytes, bytes], *, at: float) -> bytes:
        """Add one to a commit; return its key."""
        key = SIGNAL + name.encode() + b"\0" + number
        put[key] = encode(Signal(value, at))
        self._coming[name] = self._coming.get(name, 0) + 1
        return key

    def came(self, name: str, key: bytes, value: bytes) -> None:
        """One is durable: who waits may take it."""
        self._coming[name] -= 1
        if not self._coming[name]:
            del self._coming[name]
        self._waiting.setdefault(name, deque()).append((key, value))
        self._changed.set()

    def has(self, name: str) -> bool:
        """Whether there is one of that name, or is with the commits under way."""
        return name in self._waiting or name in self._coming

    def is_coming(self, name: str) -> bool:
        """Whether one of that name is with the commits under way."""
        return name in self._coming

    def is_ready(self, name: str) -> bool:
        """Whether there is one of that name to take."""
        return name in self._waiting

    def take(self, name: str) -> tuple[bytes, bytes] | None:
        """Key and value of the oldest one of that name, which is gone with that."""
        queue = self._waiting.get(name)
        if queue is None:
            return None
        key, value = queue.popleft()
        if not queue:
            del self._waiting[name]
        self._count -= 1
        self._bytes -= len(value)
        return key, value

    async def changed(self, limit: float) -> None:
        """Return when one has come, or after ``limit`` seconds."""
        self._changed.clear()
        try:
            async with asyncio.timeout(limit):
                await self._changed.wait()
        except TimeoutError:
            pass
