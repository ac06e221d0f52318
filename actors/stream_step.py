"""A step that streams: what its source yields is journaled while it comes."""

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from actors import codec, failure
from actors.interruption import as_coroutine, cancellable
from actors.progress import Progress
from actors.records import Deltas, Finished, Raised
from actors.step_names import label_of, quoted, shown_path
from actors.stream_writer import StreamWriter

if TYPE_CHECKING:
    from actors.journal import Journal

_CLOSING_LIMIT = 5.0  # seconds that a source has to close
_END: Any = object()


async def run_stream(
    journal: "Journal",
    name: str,
    start: Callable[..., Any],
    args: tuple[Any, ...],
    resume: Callable[..., Any] | None,
    channel: str | None,
) -> AsyncIterator[Any]:
    """See ``Actor.stream_step``."""
    path, label = journal.enter(name), label_of(start)
    chunks = journal.loaded.get(path, [])
    row = journal.take(path, label)
    over = isinstance(row, Finished | Raised)
    deltas: list[Any] = []
    if over or resume is not None:
        journal.replaying += 1
        try:
            for payload in [payload for chunk in chunks for payload in chunk.deltas]:
                deltas.append(codec.decode(payload, trusted=True))
                yield codec.decode(payload, trusted=True)
        finally:
            journal.replaying -= 1
    if isinstance(row, Raised):
        raise failure.to_original(row.failure)
    if over:
        return
    turn, anew = journal.turn, bool(chunks) and resume is None
    if anew:  # its loop may never come again to the steps that ran there
        journal.excuse_rest()
    await journal.catch_up(path, label)
    progress = Progress(journal, shown_path(path))
    writer = StreamWriter(turn, journal, journal.key(path), channel, chunks=len(chunks))
    journal.writers.append(writer)
    elapsed, heard = journal.elapsed(), turn.interruption.heard
    turn.check_runs()
    await turn.interruption.check()
    if anew:
        await _start_anew(journal, writer, chunks)
    source = start(*args) if not chunks or resume is None else resume(deltas, *args)
    progress.begin()
    try:
        if inspect.isawaitable(source):
            source = await cancellable(as_coroutine(source))
        journal.sources.append(source)
        items = aiter(source)
        while (delta := await cancellable(as_coroutine(anext(items, _END)))) is not _END:
            turn.check_runs()
            payload, value = journal.round_trip(path, delta)
            await writer.add(payload)
            yield value
    except Exception as error:
        raised = failure.raised(0, f"step {quoted(path)}", error)
        await writer.finish(Raised(label, elapsed, raised, heard), tell=progress.failed(raised))
        raise
    else:
        await writer.finish(Finished(label, elapsed, b"\xc0", heard), tell=progress.finished())
    finally:
        progress.end()
        if source in journal.sources:
            journal.sources.remove(source)
        await close_source(source)


async def _start_anew(journal: "Journal", writer: StreamWriter, chunks: list[Deltas]) -> None:
    journal.reads.clear()
    if journal.turn.steering is not None:
        journal.turn.steering.start_anew()
    await writer.start_anew(chunks, journal.streamed())


async def close_source(source: Any) -> None:
    """Let the provider stop: the iterator's own way to be closed, if it has one."""
    close = getattr(source, "aclose", None) or getattr(source, "close", None)
    if close is None:
        return
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_CLOSING_LIMIT):
            closing = close()
            if isinstance(closing, Awaitable):
                await closing
