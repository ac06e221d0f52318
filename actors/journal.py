"""The journal of a turn: which of its steps have run, and with what result.

A turn that runs again after a crash gets the journaled results of its finished steps and runs only the others. Steps
are known by name, and by the count of the name where it repeats; a step that is called inside of another one is known
below that. What the code calls has to fit what was journaled: else the message is parked, and nothing is run or
corrupted.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from actors import codec, records
from actors.effects import Effects
from actors.errors import ClusterUnavailable, PayloadTooLarge, SerializationFailed
from actors.progress import Quick, Told
from actors.records import (
    BESIDE,
    JOURNAL,
    ChannelItem,
    Deltas,
    Finished,
    Raised,
    Read,
    Recorded,
    encode,
)
from actors.step import current_step
from actors.step_names import BELOW, check_name, quoted
from actors.stream_step import close_source
from actors.stream_writer import StreamWriter

if TYPE_CHECKING:
    from actors.turn import Turn

_MAX_PATH = 600
_PATIENCE = 2.0
_HEARING = 0.1  # seconds that a turn that was interrupted has to come to what it did before it heard of that


class JournalMismatch(BaseException):
    """The code calls something else than what was journaled. Ends the turn, whose message is then parked."""


class Journal:
    """The steps of one turn."""

    __slots__ = (
        "_arrived", "_counts", "_heard", "_recorded", "_started", "_unused", "active", "keys", "loaded", "quick",
        "reads", "replaying", "sources", "turn", "writers",
    )  # fmt: skip

    def __init__(self, turn: "Turn", rows: Mapping[bytes, bytes]) -> None:
        self.turn = turn
        """The turn whose steps these are."""
        self._started = turn.activation.runtime.loop.time()
        self._counts: dict[str, int] = {}
        self._recorded: dict[str, Recorded] = {}
        self.loaded: dict[str, list[Deltas]] = {}
        """What streams had yielded before, by path."""
        self._heard: dict[str, int] = {}  # interrupts that had been heard of before a step was called, if any
        self._arrived: asyncio.Event | None = None
        self.active = 0
        """How many steps there are whose bodies run."""
        self.replaying = 0
        """How many streams there are whose journaled deltas are being yielded."""
        self.sources: list[Any] = []
        """Of streams that have not ended."""
        self.keys: list[bytes] = []
        """The keys of the rows that go when the turn is over."""
        self.quick = Quick(self._started)
        self.reads: dict[int, str] = {}
        """The messages that the turn has read while it ran, by the number of the look at which it did."""
        self.writers: list[StreamWriter] = []
        for key, value in rows.items():
            path, _, _ = key.partition(b"\0")
            row = records.journal_rows.decode(value)
            if isinstance(row, Read):
                self.reads[int(path[1:])] = row.message_id
            else:
                self._load(path.decode(), row)
            self.keys.append(JOURNAL + turn.number + key)
            if isinstance(row, Finished) and row.value is None:
                self.keys.append(BESIDE + JOURNAL + turn.number + key)
        self._unused = self._recorded.keys() | self.loaded.keys()

    def _load(self, path: str, row: Recorded | Deltas) -> None:
        if isinstance(row, Deltas):
            self.loaded.setdefault(path, []).append(row)
        else:
            self._recorded[path] = row
        if row.heard:
            self._heard[path] = row.heard

    @property
    def caught_up(self) -> bool:
        """Whether the code has come to everything that was journaled before."""
        return not self._unused and not self.replaying

    @property
    def comes_to_interrupt(self) -> bool:
        """Whether the code has come to all that was journaled before the next interrupt that it has to hear of."""
        interruption = self.turn.interruption
        return interruption.pending and all(self._heard.get(path, 0) > interruption.heard for path in self._unused)

    @property
    def idle(self) -> bool:
        """Whether nothing of a step or stream is under way."""
        return not self.active and not self.sources

    def round_trip(self, path: str, value: object) -> tuple[bytes, Any]:
        """The value encoded, and as it comes back: a recovery must find what the first run has seen."""
        try:
            payload = codec.encode(value)
            back = codec.decode(payload, trusted=True)
        except Exception as error:
            raise SerializationFailed(
                f"{self.turn.where}: the result of step {quoted(path)} ({type(value).__name__}) cannot be stored: "
                f"{error}. Return plain data, a dataclass or anything that pickles"
            ) from error
        limit = self.turn.activation.runtime.settings.max_payload
        if len(payload) > limit:
            raise PayloadTooLarge(
                f"{self.turn.where}: the result of step {quoted(path)} has {len(payload)} bytes, the limit is {limit}"
            )
        return payload, back

    async def large(self, path: str) -> bytes:
        """The value of a step that is stored beside its row. Raises ``ClusterUnavailable``."""
        activation = self.turn.activation
        key = BESIDE + self.key(path)
        try:
            rows = await activation.runtime.store.read(activation.address, key, key + b"\0", limit=1)
        except Exception as error:
            raise ClusterUnavailable(f"{self.turn.where}: a journaled value cannot be read: {error}") from error
        return rows[0][1]

    def streamed(self) -> set[int]:
        """The offsets of what was published by streams that have not ended."""
        open_streams = [chunks for path, chunks in self.loaded.items() if path not in self._recorded]
        return {
            chunk.offset + number
            for chunks in open_streams
            for chunk in chunks
            if chunk.offset >= 0
            for number in range(len(chunk.deltas))
        }

    async def finish(self) -> None:
        """The handler is at its end: close what streams, and wait until what it streamed is durable.

        Raises ``JournalMismatch``.
        """
        for source in self.sources:  # their loops were left by an exception, and nobody else would close them soon
            await close_source(source)
        for writer in self.writers:
            await writer.flush()
        stopped = self.turn.interrupted or not self.turn.activation.runs(self.turn)
        if self._unused and self.turn.park_for is None and not stopped:
            raise self._mismatch("the handler ended without them")

    # -- names and rows ---------------------------------------------------------------------------------------------

    def enter(self, name: str, kind: str = "") -> str:
        """The path of the step of that name that the code calls now; ``kind`` keeps what is no step apart."""
        check_name("a step", name)
        outer = current_step.get()
        path = kind + name if outer is None else f"{outer.path}{BELOW}{kind}{name}"
        count = self._counts[path] = self._counts.get(path, 0) + 1
        if count > 1:
            path = f"{path}:{count}"
            self._counts[path] = self._counts.get(path, 0) + 1  # also if a step has that very name
        if len(path.encode()) > _MAX_PATH:
            raise ValueError(f"steps are nested too deeply: {quoted(path)}")
        return path

    def key(self, path: str) -> bytes:
        """Of the row of a step."""
        return JOURNAL + self.turn.number + path.encode()

    def elapsed(self) -> float:
        """Seconds since the turn began here."""
        return self.turn.activation.runtime.loop.time() - self._started

    def take(self, path: str, label: str) -> Recorded | None:
        """What was journaled under the path, which the code has now come to."""
        row = self._recorded.get(path)
        if row is None and path not in self.loaded:
            return None
        if row is not None and row.function != label:
            raise self._mismatch(f"the code calls {label} as step {quoted(path)}")
        self._use(path)
        if isinstance(row, Finished | Raised):
            for inner in [inner for inner in self._unused if inner.startswith(path + BELOW)]:
                self._use(inner)  # an outer step that is over covers what ran inside of it
        return row

    def _use(self, path: str) -> None:
        self._unused.discard(path)
        if not self._unused and self._arrived is not None:
            self._arrived.set()
        if self.comes_to_interrupt:
            self.turn.interruption.deliver()

    def excuse_rest(self) -> None:
        """The code need not come to what is left of what was journaled."""
        for missed in list(self._unused):
            self._use(missed)

    async def catch_up(self, path: str, label: str) -> None:
        """Before anything new is run: the code has to come to everything that was journaled, if only in parallel.

        It is given the time that it took at first, and half as much again. Where it was interrupted it need not come
        to everything; and what it did once it was interrupted it does again if it is told so where it was then.
        """
        interruption = self.turn.interruption
        if not self._unused or (interruption.heard and not interruption.pending):
            return
        if self.comes_to_interrupt:
            await interruption.check()
        before = [row.elapsed for name in self._unused if (row := self._recorded.get(name)) is not None]
        left = max(before, default=0.0) * 1.5 + _PATIENCE - self.elapsed()
        if interruption.pending:
            left = min(left, _HEARING)
        if self._arrived is None:
            self._arrived = asyncio.Event()
        try:
            async with asyncio.timeout(max(left, 0.0)):
                await self._arrived.wait()
        except TimeoutError:
            await interruption.check()
            raise self._mismatch(f"the code calls {label} as step {quoted(path)} instead") from None

    def _mismatch(self, what: str) -> JournalMismatch:
        known = sorted(self._recorded.keys() | self.loaded.keys())
        lines = [
            f"{'- not called' if path in self._unused else '  called    '}  {self._described(path)}" for path in known
        ]
        reason = f"the journal does not fit the code: {what}. Journaled steps:\n" + "\n".join(lines)
        self.turn.park_for = reason
        return JournalMismatch(reason)

    def _described(self, path: str) -> str:
        row = self._recorded.get(path)
        if row is not None:
            return f"{quoted(path)} ({row.function}, {type(row).__name__.lower()})"
        return f"{quoted(path)} (a stream that was under way)"

    async def record(
        self,
        path: str,
        row: Recorded,
        *,
        beside: bytes | None = None,
        drop: Sequence[bytes] = (),
        effects: Effects | None = None,
        tell: Told = (),
    ) -> None:
        """Make durable how far a step has come. The rest is as for ``write``."""
        key = self.key(path)
        put = {key: encode(row)}
        if beside is not None:
            put[BESIDE + key] = beside
        await self.write(put, drop=drop, effects=effects, tell=tell)

    async def write(
        self,
        put: dict[bytes, bytes],
        *,
        drop: Sequence[bytes] = (),
        effects: Effects | None = None,
        publish: tuple[str, list[ChannelItem]] | None = None,
        messages: "Sequence[Turn]" = (),
        tell: Told = (),
    ) -> int:
        """Make rows durable, and the effects and entries of a channel with them; return the offset of the first entry.

        ``messages``: those that the turn has read. ``tell``: what the channel of turns gets to hear. Raises
        ``CancelledError`` where the turn can go on no more.
        """
        turn = self.turn
        turn.check_runs()
        self.keys += put  # before the rows of messages are added: those have an end of their own
        write, offset = turn.activation.durable_side.commits.journal(
            turn, put, drop=drop, effects=effects, publish=publish, messages=messages, tell=tell
        )
        write.then.extend(message.accepted for message in messages)
        if not await turn.activation.write(write):
            raise asyncio.CancelledError(f"{turn.where}: the turn was given up")
        turn.check_runs()
        return offset
