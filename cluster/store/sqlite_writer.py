"""The thread that owns a store's SQLite connection and writes in groups.

Whatever was queued while the last transaction was under way goes into the next one, up to a limit. So an operation
alone waits for nothing, and a busy silo pays for one fsync per group.
"""

import asyncio
import atexit
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from pathlib import Path
from queue import SimpleQueue
from typing import Final, TypeAlias

import msgspec

from actors.ports import StoreUnavailable
from cluster.store import sqlite_schema
from cluster.store.errors import UnusableStore
from cluster.store.file_lock import FileLock
from cluster.store.operations import Answer, Open, Operation, Outcome, RaiseEra, check
from cluster.store.sqlite_calls import explain, resolve, tell
from cluster.store.sqlite_group import apply
from cluster.store.sqlite_schema import is_busy, may_pass, refuse_foreign, when_free
from cluster.store.statistics import StoreStatistics

_LARGEST_GROUP: Final = 512
_LARGEST_GROUP_BYTES: Final = 16 * 1024 * 1024
_EXIT_PATIENCE_SECONDS: Final = 5.0
_LEAST_PATIENCE_SECONDS: Final = 0.1  # for the file to be free, also of what has waited for long already

_Result: TypeAlias = Answer | Exception


class _Job(msgspec.Struct, frozen=True):
    operation: Operation
    size: int
    answer: asyncio.Future[Answer]
    submitted: float


class _Reported(msgspec.Struct, frozen=True):
    """The callers have been told that these addresses' operations were refused: what follows is a new attempt."""

    addresses: frozenset[str]


class _Signal(Enum):
    GO = "there is something to write"
    STOP = "nothing comes any more"


class SqliteWriter:
    """Runs operations on the file in the order of ``submit``; belongs to the event loop that runs when it is made.

    When an operation of an address is refused for want of the disk, those of the same address that were submitted
    before the refusal was reported are refused, too: nothing is ever applied on top of a gap.
    """

    def __init__(self, path: Path, *, busy_timeout: float) -> None:
        self.path = path.absolute()  # of now: the process may change its directory
        self._busy_timeout = busy_timeout
        self._loop = asyncio.get_running_loop()
        self._submitted: list[_Job | _Reported] = []  # in this round of the loop
        self._waiting: deque[_Job | _Reported] = deque()
        self._signals: SimpleQueue[_Signal] = SimpleQueue()
        self._operations = self._transactions = self._largest_group = 0
        self._lock: FileLock | None = None
        self._connection: sqlite3.Connection | None = None
        self._id = ""
        self._file: tuple[int, int] | None = None
        self._patient_until = 0.0
        self._refused: set[str] = set()
        self._stopping = False
        self.opened: asyncio.Future[str] = self._loop.create_future()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        # A daemon, so that a store that nobody closed cannot keep the process from ending. What was acknowledged is on
        # disk already; the exit hook lets operations finish whose callers were cancelled and then forgot to close.
        self._thread = threading.Thread(target=self._run, name=f"store {path.name}", daemon=True)
        atexit.register(self._finish_at_exit)
        self._thread.start()

    def submit(self, operation: Operation) -> asyncio.Future[Answer]:
        """Queue an operation. Cancelling the future does not take it back. Raises ``ValueError``, see ``check``."""
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(f"{self.path}: a store belongs to the event loop in which it was opened")
        size = check(operation)
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._enqueue(_Job(operation, size, answer, time.monotonic()))
        return answer

    def _enqueue(self, item: "_Job | _Reported") -> None:
        """Hand it over when the loop comes round: what is submitted together is one group and one wake-up."""
        if not self._submitted:
            self._loop.call_soon(self._hand_over)
        self._submitted.append(item)

    def _hand_over(self) -> None:
        submitted, self._submitted = self._submitted, []
        self._waiting.extend(submitted)
        self._signals.put(_Signal.GO)

    def stop(self) -> None:
        """Let the thread end after what is queued. Any thread may call this, also during garbage collection."""
        self._signals.put(_Signal.STOP)

    def join(self) -> None:
        """Wait for the end of the thread: an instant, once ``closed`` is done."""
        self._thread.join()

    def lock_exclusively(self) -> None:
        """Make the lock on the file exclusive. Raises ``StoreInUse``."""
        assert self._lock is not None  # held from before `opened` is done until the end
        self._lock.take_exclusively()

    def statistics(self) -> StoreStatistics:
        """The counts so far."""
        return StoreStatistics(
            operations=self._operations, transactions=self._transactions, largest_group=self._largest_group
        )

    # Everything below runs in the thread, except _answer.

    def _run(self) -> None:
        try:
            if self._open():
                while not self._stopping:
                    if not self._waiting:
                        self._stopping = self._signals.get() is _Signal.STOP
                    self._write_all()
                self._hand_over()  # what the loop did not come to
                self._write_all()
        finally:
            self._disconnect()
            if self._lock is not None:
                self._lock.release()
            atexit.unregister(self._finish_at_exit)
            tell(self._loop, resolve, self.closed, None)

    def _open(self) -> bool:
        try:
            refuse_foreign(self.path)
            self._lock = FileLock(self.path)
            self._connect()
        except sqlite3.Error as error:
            kind = StoreUnavailable if may_pass(error) else UnusableStore
            tell(self._loop, resolve, self.opened, kind(self._explain(error)))
            return False
        except Exception as error:  # it reaches whoever opens the store
            tell(self._loop, resolve, self.opened, error)
            return False
        tell(self._loop, resolve, self.opened, self._id)
        return True

    def _connect(self) -> sqlite3.Connection:
        assert self._lock is not None
        connection = sqlite_schema.connect(self.path, lock=self._lock, busy_timeout=self._busy_timeout)
        found: str = connection.execute("SELECT id FROM store").fetchone()[0]
        if self._id and found != self._id:
            connection.close()
            raise UnusableStore(f"{self.path}: the file was replaced by another store while it was in use; restart")
        self._id = found
        self._file = self._file_now()
        self._connection = connection
        return connection

    def _reconnect(self) -> sqlite3.Connection:
        self._file_now()
        refuse_foreign(self.path)
        return self._connect()

    def _file_now(self) -> tuple[int, int]:
        """Which file has the store's name. Raises ``UnusableStore`` if none has."""
        try:
            found = self.path.stat()
        except OSError as error:
            raise UnusableStore(
                f"{self.path}: the file was removed while it was in use; restart with a store"
            ) from error
        return found.st_dev, found.st_ino

    def _check_file(self) -> None:
        """Raise ``UnusableStore`` if what is written would be in a file that nobody finds again."""
        if self._file_now() != self._file:
            raise UnusableStore(f"{self.path}: another file was put in its place while it was in use; restart")

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # The transaction's own error has been reported; the file recovers when it is next opened.
            with suppress(sqlite3.Error):
                connection.close()

    def _write_all(self) -> None:
        while self._waiting:
            group = self._next_group()
            if group:
                self._write(group)

    def _next_group(self) -> list[_Job]:
        group: list[_Job] = []
        size = 0
        waiting = self._waiting
        while waiting and len(group) < _LARGEST_GROUP and size < _LARGEST_GROUP_BYTES:
            item = waiting.popleft()
            if isinstance(item, _Reported):
                self._refused -= item.addresses
            elif not (self._refused and self._follows_refusal(item)):
                group.append(item)
                size += item.size
        return group

    def _follows_refusal(self, job: _Job) -> bool:
        if not self._refused or isinstance(job.operation, RaiseEra) or job.operation.address not in self._refused:
            return False
        if isinstance(job.operation, Open):  # it builds on nothing
            self._refused.discard(job.operation.address)
            return False
        reason = "an earlier operation of this actor was refused, and this one was already under way"
        self._report([(job.answer, StoreUnavailable(f"{job.operation.address}: {reason}"))])
        return True

    def _write(self, group: list[_Job]) -> None:
        # From when the first was called: behind a group that waited in vain others have waited just as long.
        self._patient_until = max(group[0].submitted + self._busy_timeout, time.monotonic() + _LEAST_PATIENCE_SECONDS)
        try:
            outcomes = self._transact([job.operation for job in group])
        except (sqlite3.OperationalError, UnusableStore) as error:
            # Disk, lock or file: it concerns them all.
            message = str(error) if isinstance(error, UnusableStore) else self._explain(error)
            self._refuse(group, lambda: StoreUnavailable(message))
        except Exception as error:  # it reaches the caller; the thread has to live on
            if len(group) == 1:
                failure = StoreUnavailable(self._explain(error)) if isinstance(error, sqlite3.Error) else error
                self._refuse(group, lambda: failure)
                return
            # Something is wrong with one of them: the others must not suffer for it.
            for job in group:
                if not self._follows_refusal(job):
                    self._write([job])
        else:
            self._transactions += 1
            self._largest_group = max(self._largest_group, len(group))
            self._report([(job.answer, outcome) for job, outcome in zip(group, outcomes, strict=True)])

    def _transact(self, operations: list[Operation]) -> list[Outcome]:
        connection = self._connection or self._reconnect()
        try:
            # Immediate: only one process at a time gets past this, so the fences that follow see the last word.
            when_free(lambda: connection.execute("BEGIN IMMEDIATE"), deadline=self._patient_until)
            outcomes = apply(connection, operations)
            self._check_file()
            connection.execute("COMMIT")
        except BaseException as error:
            # Closing rolls back. A connection that met an I/O error is not worth reasoning about; a new one is cheap.
            if not (isinstance(error, sqlite3.Error) and is_busy(error)):
                self._disconnect()
            elif connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return outcomes

    def _refuse(self, group: list[_Job], failure: Callable[[], Exception]) -> None:
        addresses = frozenset(job.operation.address for job in group if not isinstance(job.operation, RaiseEra))
        self._refused |= addresses
        # An exception for each: a raised one collects the traceback of whoever raises it.
        self._report([(job.answer, failure()) for job in group], refused=addresses)

    def _report(
        self, answers: list[tuple[asyncio.Future[Answer], _Result]], *, refused: frozenset[str] = frozenset()
    ) -> None:
        self._operations += len(answers)
        tell(self._loop, self._answer, answers, refused)

    def _answer(self, answers: list[tuple[asyncio.Future[Answer], _Result]], refused: frozenset[str]) -> None:
        for answer, result in answers:
            resolve(answer, result)
        if refused:
            # After those who have just been told had their turn: nobody builds on what was refused before they knew.
            self._loop.call_soon(self._enqueue, _Reported(refused))

    def _explain(self, error: sqlite3.Error) -> str:
        return f"{explain(error, self.path, busy_timeout=self._busy_timeout)}; nothing was written"

    def _finish_at_exit(self) -> None:
        self.stop()
        self._thread.join(_EXIT_PATIENCE_SECONDS)
