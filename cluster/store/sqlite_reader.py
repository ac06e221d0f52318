"""The thread that reads from a store's SQLite file, on a connection of its own.

The file has a write-ahead log, so reading waits for no writer. A read that begins after a commit was acknowledged sees
it. Whatever was asked for while the last statement was under way is answered together, if it is of one kind.
"""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from actors.ports import StoreUnavailable
from cluster.store.errors import UnusableStore
from cluster.store.sqlite_calls import explain, resolve, tell
from cluster.store.sqlite_schema import connect_reader, refuse_foreign, when_free

_LARGEST_GROUP: Final = 256

_Q = TypeVar("_Q")
_A = TypeVar("_A")
Read: TypeAlias = Callable[[sqlite3.Connection, Sequence[_Q]], Sequence[_A]]


class _Job(msgspec.Struct, frozen=True):
    read: Read[Any, Any]
    question: Any
    answer: asyncio.Future[Any]


class SqliteReader:
    """Answers questions about a store's file. The thread begins with the first question; ``stop`` ends it.

    ``store_id`` is checked whenever the file is opened anew, after trouble with it.
    """

    def __init__(self, path: Path, *, store_id: str, busy_timeout: float) -> None:
        self._path = path
        self._store_id = store_id
        self._busy_timeout = busy_timeout
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._connection: sqlite3.Connection | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False
        self.closed: asyncio.Future[None] = self._loop.create_future()

    async def ask(self, read: Read[_Q, _A], question: _Q) -> _A:
        """The answer of ``read`` to the question; it may be given several at once. Raises ``StoreUnavailable``.

        Cancelling leaves the others their answers.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(f"{self._path}: a store belongs to the event loop in which it was opened")
        if self._thread is None:
            # A daemon: nothing is lost if the process ends in the middle of a read.
            self._thread = threading.Thread(target=self._run, name=f"reader {self._path.name}", daemon=True)
            self._thread.start()
        answer: asyncio.Future[_A] = self._loop.create_future()
        self._queue.put(_Job(read, question, answer))
        return await answer

    def stop(self) -> None:
        """Let the thread end after what is queued. Any thread may call this, also during garbage collection."""
        self._queue.put(None)

    async def wait_closed(self) -> None:
        """Wait for the end of the thread, after ``stop``."""
        if self._thread is not None:
            await asyncio.shield(self.closed)
            self._thread.join()

    # Everything below runs in the thread.

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._answer(self._next_group())
        finally:
            self._disconnect()
            tell(self._loop, resolve, self.closed, None)

    def _next_group(self) -> list[_Job]:
        group: list[_Job] = []
        while len(group) < _LARGEST_GROUP:
            try:
                job = self._queue.get(block=not group)
            except Empty:
                break
            if job is None:
                self._stopping = True
                break
            group.append(job)
        return group

    def _answer(self, group: list[_Job]) -> None:
        kinds: dict[Read[Any, Any], list[_Job]] = {}
        for job in group:
            kinds.setdefault(job.read, []).append(job)
        for read, jobs in kinds.items():
            self._answer_kind(read, jobs)

    def _answer_kind(self, read: Read[Any, Any], jobs: list[_Job]) -> None:
        try:
            answers = self._read(read, [job.question for job in jobs])
        except (sqlite3.OperationalError, UnusableStore) as error:
            # Lock or file: it concerns them all.
            message = str(error) if isinstance(error, UnusableStore) else self._explain(error)
            self._tell_all(jobs, [StoreUnavailable(message) for _ in jobs])
        except Exception as error:  # it reaches the caller; the thread has to live on
            if len(jobs) == 1:
                failure = StoreUnavailable(self._explain(error)) if isinstance(error, sqlite3.Error) else error
                self._tell_all(jobs, [failure])
                return
            # Something is wrong with one of them: the others must not suffer for it.
            for job in jobs:
                self._answer_kind(read, [job])
        else:
            self._tell_all(jobs, answers)

    def _read(self, read: Read[_Q, _A], questions: list[_Q]) -> Sequence[_A]:
        deadline = time.monotonic() + self._busy_timeout
        try:
            connection = self._connection or when_free(self._connect, deadline=deadline)
            return when_free(lambda: _afresh(connection, read, questions), deadline=deadline)
        except BaseException:
            self._disconnect()  # as in the writer: a new connection is cheap
            raise

    def _connect(self) -> sqlite3.Connection:
        if not self._path.exists():
            raise UnusableStore(f"{self._path}: the file was removed while it was in use; restart with a store")
        refuse_foreign(self._path)
        connection = connect_reader(self._path)
        try:
            found = connection.execute("SELECT id FROM store").fetchone()[0]
            if found != self._store_id:
                raise UnusableStore(
                    f"{self._path}: the file was replaced by another store while it was in use; restart"
                )
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _explain(self, error: sqlite3.Error) -> str:
        return f"{explain(error, self._path, busy_timeout=self._busy_timeout)}; nothing was read"

    def _tell_all(self, jobs: list[_Job], results: Sequence[Any]) -> None:
        tell(self._loop, _resolve_all, [job.answer for job in jobs], results)


def _afresh(connection: sqlite3.Connection, read: Read[_Q, _A], questions: list[_Q]) -> Sequence[_A]:
    if connection.in_transaction:
        connection.execute("ROLLBACK")  # of an attempt that found the file busy
    return read(connection, questions)


def _resolve_all(answers: list[asyncio.Future[Any]], results: Sequence[Any]) -> None:
    for answer, result in zip(answers, results, strict=True):
        resolve(answer, result)
