"""The journal of a turn: which of its steps have run, and with what result.

A turn that runs again after a crash gets the journaled results of its finished steps and runs only the others. Steps
are known by name, and by the count of the name where it repeats; a step that is called inside of another one is known
below that. What the code calls has to fit what was journaled: else the message is parked, and nothing is run or
corrupted.
"""

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from actors import codec, failure, records
from actors.effects import Effects
from actors.errors import ClusterUnavailable, PayloadTooLarge, SerializationFailed, StepInterrupted
from actors.interruption import as_coroutine, cancellable
from actors.progress import Progress, Quick, Told
from actors.records import (
    BESIDE,
    JOURNAL,
    ChannelItem,
    Deltas,
    Finished,
    Raised,
    Read,
    Recorded,
    Started,
    encode,
)
from actors.stream_writer import StreamWriter

if TYPE_CHECKING:
    from actors.turn import Turn

T = TypeVar("T")

_MAX_NAME = 200
_MAX_PATH = 600
_BELOW = "\x1e"  # between the name of a step and that of one inside of it
WAIT: Final = "\x1d"  # before the name of what a turn waits for
_PATIENCE = 2.0
_HEARING = 0.1  # seconds that a turn that was interrupted has to come to what it did before it heard of that
_CLOSING_LIMIT = 5.0  # seconds that a source has to close
_END: Any = object()


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a step's body is run again when it raises, and after which pauses (seconds).

    The pause before the n-th retry is ``delay * factor ** (n - 1)``, at most ``longest``. ``on``: which exceptions are
    worth it. What the last attempt raises is the step's outcome, and is journaled as such.
    """

    attempts: int = 3
    delay: float = 0.5
    factor: float = 2.0
    longest: float = 60.0
    on: type[Exception] | tuple[type[Exception], ...] = Exception

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.delay < 0 or self.factor < 1 or self.longest < 0:
            raise ValueError(f"attempts from 1, delay and longest from 0 and factor from 1 are needed, not {self}")


class JournalMismatch(BaseException):
    """The code calls something else than what was journaled. Ends the turn, whose message is then parked."""


class Step(NamedTuple):
    """The step that runs now: where it stands, and what it has done."""

    path: str
    effects: Effects


current_step: ContextVar[Step | None] = ContextVar("agentsilo_step", default=None)


class Journal:
    """The steps of one turn."""

    __slots__ = (
        "_active", "_arrived", "_counts", "_heard", "_loaded", "_recorded", "_replaying", "_sources", "_started",
        "_turn", "_unused", "keys", "quick", "reads", "writers",
    )  # fmt: skip

    def __init__(self, turn: "Turn", rows: Mapping[bytes, bytes]) -> None:
        self._turn = turn
        self._started = turn.activation.runtime.loop.time()
        self._counts: dict[str, int] = {}
        self._recorded: dict[str, Recorded] = {}
        self._loaded: dict[str, list[Deltas]] = {}
        self._heard: dict[str, int] = {}  # interrupts that had been heard of before a step was called, if any
        self._arrived: asyncio.Event | None = None
        self._active = 0  # steps whose bodies run
        self._replaying = 0  # streams whose journaled deltas are being yielded
        self._sources: list[Any] = []  # of streams that have not ended
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
        self._unused = self._recorded.keys() | self._loaded.keys()

    def _load(self, path: str, row: Recorded | Deltas) -> None:
        if isinstance(row, Deltas):
            self._loaded.setdefault(path, []).append(row)
        else:
            self._recorded[path] = row
        if row.heard:
            self._heard[path] = row.heard

    @property
    def caught_up(self) -> bool:
        """Whether the code has come to everything that was journaled before."""
        return not self._unused and not self._replaying

    @property
    def comes_to_interrupt(self) -> bool:
        """Whether the code has come to all that was journaled before the next interrupt that it has to hear of."""
        interruption = self._turn.interruption
        return interruption.pending and all(self._heard.get(path, 0) > interruption.heard for path in self._unused)

    @property
    def turn(self) -> "Turn":
        """The turn whose steps these are."""
        return self._turn

    @property
    def idle(self) -> bool:
        """Whether nothing of a step or stream is under way."""
        return not self._active and not self._sources

    # -- steps ------------------------------------------------------------------------------------------------------

    async def step(
        self,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        once: bool,
        retry: Retry | None,
    ) -> Any:
        """See ``Actor.step``."""
        if not callable(function):
            raise TypeError(f"step {name!r}: {function!r} is not callable")
        if once and retry is not None and retry.attempts > 1:
            raise ValueError(f"step {name!r}: a body that runs at most once cannot be retried")
        path, label = self.enter(name), _label(function)
        row = self.take(path, label)
        if row is None:
            return await self._run(path, label, function, args, kwargs, once=once, retry=retry)
        if isinstance(row, Started):
            await self._turn.interruption.check()  # then it was not the silo that ended it, or not alone
            raise StepInterrupted(
                f"{self._turn.where}: step {_shown(path)} ({label}) was started once and its silo was lost before the "
                "result was journaled; it may have had effects and is not run again"
            )
        if isinstance(row, Raised):
            raise failure.to_original(row.failure)
        assert isinstance(row, Finished)
        value = row.value if row.value is not None else await self.large(path)
        return codec.decode(value, trusted=True)

    async def _run(
        self,
        path: str,
        label: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        once: bool,
        retry: Retry | None,
    ) -> Any:
        await self.catch_up(path, label)
        elapsed, heard = self.elapsed(), self._turn.interruption.heard
        progress = Progress(self, shown_path(path))
        if once:
            await self.record(path, Started(label, elapsed, heard), tell=progress.started())
        self._turn.check_runs()
        await self._turn.interruption.check()
        step = Step(path, Effects())
        token = current_step.set(step)
        self._active += 1
        progress.begin()
        try:
            result = await self._attempt(function, args, kwargs, retry)
            payload, value = self._round_trip(path, result)
        except Exception as error:
            raised = failure.raised(0, f"step {_shown(path)}", error)
            await self.record(path, Raised(label, elapsed, raised, heard), tell=progress.failed(raised))
            raise
        finally:
            progress.end()
            self._active -= 1
            current_step.reset(token)
        self._turn.check_runs()
        large = len(payload) > records.LARGE
        row = Finished(label, elapsed, None if large else payload, heard)
        beside = payload if large else None
        await self.record(path, row, beside=beside, effects=step.effects, tell=progress.finished())
        return value

    async def _attempt(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], retry: Retry | None
    ) -> Any:
        if retry is None:
            return await cancellable(_call(function, args, kwargs))
        pause = retry.delay
        for left in reversed(range(retry.attempts)):
            try:
                return await cancellable(_call(function, args, kwargs))
            except Exception as error:
                if not left or not isinstance(error, retry.on):
                    raise
                self._turn.activation.actor.log.warning("a step will be tried again in %g s: %r", pause, error)
            await asyncio.sleep(pause)
            self._turn.check_runs()
            pause = min(pause * retry.factor, retry.longest)
        raise AssertionError

    def _round_trip(self, path: str, value: object) -> tuple[bytes, Any]:
        """The value encoded, and as it comes back: a recovery must find what the first run has seen."""
        try:
            payload = codec.encode(value)
            back = codec.decode(payload, trusted=True)
        except Exception as error:
            raise SerializationFailed(
                f"{self._turn.where}: the result of step {_shown(path)} ({type(value).__name__}) cannot be stored: "
                f"{error}. Return plain data, a dataclass or anything that pickles"
            ) from error
        limit = self._turn.activation.runtime.settings.max_payload
        if len(payload) > limit:
            raise PayloadTooLarge(
                f"{self._turn.where}: the result of step {_shown(path)} has {len(payload)} bytes, the limit is {limit}"
            )
        return payload, back

    async def large(self, path: str) -> bytes:
        """The value of a step that is stored beside its row. Raises ``ClusterUnavailable``."""
        activation = self._turn.activation
        key = BESIDE + self._key(path)
        try:
            rows = await activation.runtime.store.read(activation.address, key, key + b"\0", limit=1)
        except Exception as error:
            raise ClusterUnavailable(f"{self._turn.where}: a journaled value cannot be read: {error}") from error
        return rows[0][1]

    # -- streams ----------------------------------------------------------------------------------------------------

    async def stream(
        self,
        name: str,
        start: Callable[..., Any],
        args: tuple[Any, ...],
        resume: Callable[..., Any] | None,
        channel: str | None,
    ) -> AsyncIterator[Any]:
        """See ``Actor.stream_step``."""
        path, label = self.enter(name), _label(start)
        chunks = self._loaded.get(path, [])
        row = self.take(path, label)
        over = isinstance(row, Finished | Raised)
        deltas: list[Any] = []
        if over or resume is not None:
            self._replaying += 1
            try:
                for payload in [payload for chunk in chunks for payload in chunk.deltas]:
                    deltas.append(codec.decode(payload, trusted=True))
                    yield codec.decode(payload, trusted=True)
            finally:
                self._replaying -= 1
        if isinstance(row, Raised):
            raise failure.to_original(row.failure)
        if over:
            return
        anew = bool(chunks) and resume is None
        await self._catch_up_to_stream(path, label, anew=anew)
        progress = Progress(self, shown_path(path))
        writer = StreamWriter(self._turn, self, self._key(path), channel, chunks=len(chunks))
        self.writers.append(writer)
        elapsed, heard = self.elapsed(), self._turn.interruption.heard
        self._turn.check_runs()
        await self._turn.interruption.check()
        if anew:
            await self._start_anew(writer, chunks)
        source = start(*args) if not chunks or resume is None else resume(deltas, *args)
        progress.begin()
        try:
            if inspect.isawaitable(source):
                source = await cancellable(as_coroutine(source))
            self._sources.append(source)
            items = aiter(source)
            while (delta := await cancellable(as_coroutine(anext(items, _END)))) is not _END:
                self._turn.check_runs()
                payload, value = self._round_trip(path, delta)
                await writer.add(payload)
                yield value
        except Exception as error:
            raised = failure.raised(0, f"step {_shown(path)}", error)
            await writer.finish(Raised(label, elapsed, raised, heard), tell=progress.failed(raised))
            raise
        else:
            await writer.finish(Finished(label, elapsed, b"\xc0", heard), tell=progress.finished())
        finally:
            progress.end()
            if source in self._sources:
                self._sources.remove(source)
            await _close(source)

    async def _catch_up_to_stream(self, path: str, label: str, *, anew: bool) -> None:
        if anew:  # its loop may never come again to the steps that ran there
            for missed in list(self._unused):
                self._use(missed)
        await self.catch_up(path, label)

    async def _start_anew(self, writer: StreamWriter, chunks: list[Deltas]) -> None:
        self.reads.clear()
        if self._turn.steering is not None:
            self._turn.steering.start_anew()
        await writer.start_anew(chunks, self._streamed())

    def _streamed(self) -> set[int]:
        """The offsets of what was published by streams that have not ended."""
        open_streams = [chunks for path, chunks in self._loaded.items() if path not in self._recorded]
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
        for source in self._sources:  # their loops were left by an exception, and nobody else would close them soon
            await _close(source)
        for writer in self.writers:
            await writer.flush()
        stopped = self._turn.interrupted or not self._turn.activation.runs(self._turn)
        if self._unused and self._turn.park_for is None and not stopped:
            raise self._mismatch("the handler ended without them")

    # -- names and rows ---------------------------------------------------------------------------------------------

    def enter(self, name: str, kind: str = "") -> str:
        """The path of the step of that name that the code calls now; ``kind`` keeps what is no step apart."""
        check_name("a step", name)
        outer = current_step.get()
        path = kind + name if outer is None else f"{outer.path}{_BELOW}{kind}{name}"
        count = self._counts[path] = self._counts.get(path, 0) + 1
        if count > 1:
            path = f"{path}:{count}"
            self._counts[path] = self._counts.get(path, 0) + 1  # also if a step has that very name
        if len(path.encode()) > _MAX_PATH:
            raise ValueError(f"steps are nested too deeply: {_shown(path)}")
        return path

    def _key(self, path: str) -> bytes:
        return JOURNAL + self._turn.number + path.encode()

    def elapsed(self) -> float:
        """Seconds since the turn began here."""
        return self._turn.activation.runtime.loop.time() - self._started

    def take(self, path: str, label: str) -> Recorded | None:
        """What was journaled under the path, which the code has now come to."""
        row = self._recorded.get(path)
        if row is None and path not in self._loaded:
            return None
        if row is not None and row.function != label:
            raise self._mismatch(f"the code calls {label} as step {_shown(path)}")
        self._use(path)
        if isinstance(row, Finished | Raised):
            for inner in [inner for inner in self._unused if inner.startswith(path + _BELOW)]:
                self._use(inner)  # an outer step that is over covers what ran inside of it
        return row

    def _use(self, path: str) -> None:
        self._unused.discard(path)
        if not self._unused and self._arrived is not None:
            self._arrived.set()
        if self.comes_to_interrupt:
            self._turn.interruption.deliver()

    async def catch_up(self, path: str, label: str) -> None:
        """Before anything new is run: the code has to come to everything that was journaled, if only in parallel.

        It is given the time that it took at first, and half as much again. Where it was interrupted it need not come
        to everything; and what it did once it was interrupted it does again if it is told so where it was then.
        """
        interruption = self._turn.interruption
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
            raise self._mismatch(f"the code calls {label} as step {_shown(path)} instead") from None

    def _mismatch(self, what: str) -> JournalMismatch:
        known = sorted(self._recorded.keys() | self._loaded.keys())
        lines = [
            f"{'- not called' if path in self._unused else '  called    '}  {self._described(path)}" for path in known
        ]
        reason = f"the journal does not fit the code: {what}. Journaled steps:\n" + "\n".join(lines)
        self._turn.park_for = reason
        return JournalMismatch(reason)

    def _described(self, path: str) -> str:
        row = self._recorded.get(path)
        if row is not None:
            return f"{_shown(path)} ({row.function}, {type(row).__name__.lower()})"
        return f"{_shown(path)} (a stream that was under way)"

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
        key = self._key(path)
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
        turn = self._turn
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


async def _call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Await a coroutine function; run anything else in a thread, so that it cannot block the silo."""
    if _is_coroutine_function(function):
        return await function(*args, **kwargs)
    result = await asyncio.to_thread(function, *args, **kwargs)
    return await result if inspect.isawaitable(result) else result


def _is_coroutine_function(function: Callable[..., Any]) -> bool:
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if code is not None and code.co_flags & inspect.CO_COROUTINE:
        return True  # the usual case, without inspect's detours
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


async def _close(source: Any) -> None:
    """Let the provider stop: the iterator's own way to be closed, if it has one."""
    close = getattr(source, "aclose", None) or getattr(source, "close", None)
    if close is None:
        return
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_CLOSING_LIMIT):
            closing = close()
            if isinstance(closing, Awaitable):
                await closing


def _label(function: Callable[..., Any]) -> str:
    """What tells one function from another over a restart."""
    inner = getattr(function, "func", function)  # of a partial
    return str(getattr(inner, "__qualname__", type(inner).__qualname__))


def shown_path(path: str) -> str:
    """The path of a step as it is told: names of outer steps first."""
    return path.replace(_BELOW, " > ").replace(WAIT, "wait_for ")


def check_name(of: str, name: str) -> None:
    """Raise ``ValueError`` unless it is a name."""
    if not name or len(name.encode()) > _MAX_NAME or not name.isprintable():
        raise ValueError(f"{of}'s name is printable text of 1 to {_MAX_NAME} bytes, not {name!r}")


def _shown(path: str) -> str:
    return repr(shown_path(path))
