"""Journals the deltas of one streaming step while they come, in small group commits."""

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING

from actors import rollback
from actors.ports import StoreUnavailable
from actors.progress import Told
from actors.records import ChannelItem, Deltas, JournalRow, encode

if TYPE_CHECKING:
    from actors.journal import Journal
    from actors.turn import Turn

_MOST_WAITING = 256


class StreamWriter:
    """Whatever has come while the last commit was under way goes into the next one, to the journal and the channel."""

    __slots__ = ("_begins", "_chunk", "_drop", "_heard", "_journal", "_key", "_log", "_task", "_turn", "_waiting")

    def __init__(self, turn: "Turn", journal: "Journal", key: bytes, channel: str | None, *, chunks: int) -> None:
        self._turn = turn
        self._journal = journal
        self._key = key
        self._heard = turn.interruption.heard
        self._chunk = chunks
        self._begins = not chunks
        self._waiting: list[bytes] = []
        self._drop: list[bytes] = []
        self._task: asyncio.Task[None] | None = None
        self._log = turn.activation.durable_side.channel(channel) if channel is not None else None
        if self._log is not None:
            if turn.has_closed(self._log.name):
                raise self._log.is_closed(turn.address)
            self._log.check_open(turn.address, turn)
            turn.hold(self._log)

    async def start_anew(self, chunks: list[Deltas], streamed: Collection[int]) -> None:
        """Forget what was journaled; readers of the channel discard it, too.

        ``streamed``: the offsets of what streams of the turn have published that have not ended. The rest stays.
        """
        self._begins = True
        drop = [self._chunk_key(number) for number in range(len(chunks))]
        published = [chunk.offset for chunk in chunks if chunk.offset >= 0]
        if not published or self._log is None:
            self._drop = drop
            return
        turn = self._turn
        try:
            items = await rollback.start_anew(turn.activation, self._log, turn.id, published[0], streamed)
        except StoreUnavailable as error:  # as where a commit is refused: the message runs again when the store is back
            await turn.activation.read_failed(turn, error)
            raise asyncio.CancelledError(f"{turn.where}: the turn was given up") from None
        await self._journal.write({}, drop=drop, publish=(self._log.name, items))

    def _chunk_key(self, number: int) -> bytes:
        return self._key + b"\0" + number.to_bytes(4, "big")

    async def add(self, payload: bytes) -> None:
        """One more delta. Raises ``ChannelClosed``."""
        if self._log is not None:
            self._log.check_open(self._turn.address, self._turn)
        self._waiting.append(payload)
        if self._task is None:
            self._task = self._turn.activation.runtime.spawn(self._write_all())
        if len(self._waiting) >= _MOST_WAITING:
            await self.flush()

    def ride(self, put: dict[bytes, bytes]) -> list[bytes]:
        """Add to a commit of the turn what waits for one; return the keys that go with it.

        What else the turn journals must not be there without the deltas that the code had seen before.
        """
        if not self._waiting:
            return []
        deltas, self._waiting = self._waiting, []
        drop, self._drop = self._drop, []
        key, items = self._chunk_key(self._chunk), self._items(deltas)
        put[key] = encode(Deltas(deltas, self._offset(), self._heard))
        self._journal.keys.append(key)
        self._chunk += 1
        if self._log is not None and not self._log.closed:
            self._turn.activation.durable_side.commits.publish(self._log.name, items, put)
        return drop

    async def flush(self) -> None:
        """Return when everything that was added is durable, or with a commit that was handed to the store.

        Raises ``CancelledError`` if it cannot be.
        """
        while self._task is not None:
            await asyncio.wait({self._task})
            if self._waiting and self._task is None:
                self._turn.check_runs()

    async def finish(self, end: JournalRow, *, tell: Told) -> None:
        """The stream is over."""
        await self.flush()
        await self._write(end, tell)

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                await self._write(None)
        finally:
            self._task = None

    async def _write(self, end: JournalRow | None, tell: Told = ()) -> None:
        deltas, self._waiting = self._waiting, []
        put: dict[bytes, bytes] = {} if end is None else {self._key: encode(end)}
        drop, self._drop = self._drop, []
        items = self._items(deltas)
        publish = (self._log.name, items) if self._log is not None and items and not self._log.closed else None
        if deltas:
            put[self._chunk_key(self._chunk)] = encode(Deltas(deltas, self._offset(), self._heard))
            self._chunk += 1
        await self._journal.write(put, drop=drop, publish=publish, tell=tell)

    def _items(self, deltas: list[bytes]) -> list[ChannelItem]:
        message_id = self._turn.request.message_id
        items = [ChannelItem("item", delta, turn=message_id) for delta in deltas]
        if items and self._begins:
            items[0].begins, self._begins = True, False
        return items

    def _offset(self) -> int:
        """Where the first of the deltas will stand in the channel."""
        return self._log.next if self._log is not None and not self._log.closed else -1
