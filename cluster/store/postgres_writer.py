"""The task that owns a store's connection and writes in groups.

Whatever was queued while the last transaction was under way goes into the next one, up to a limit. So an operation
alone waits for nothing, and a busy silo pays for one round trip and one flush of the server's log per group.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from math import inf
from random import random
from typing import Final

import asyncpg
import msgspec

from actors.ports import StoreUnavailable
from cluster.store.errors import UnusableStore
from cluster.store.operations import Answer, Open, Operation, Outcome, RaiseEra
from cluster.store.postgres_connection import Lost, TryAgain, pauses
from cluster.store.postgres_driver import one_line, sqlstate
from cluster.store.postgres_errors import OutcomeInDoubt
from cluster.store.postgres_group import GroupRule, Reply, Request
from cluster.store.postgres_reader import PostgresReader
from cluster.store.postgres_session import Backend, PostgresSession
from cluster.store.postgres_url import PostgresUrl
from cluster.store.statistics import StoreStatistics

log = logging.getLogger(__name__)

_LARGEST_GROUP: Final = 256
_LARGEST_GROUP_BYTES: Final = 16 * 1024 * 1024
_MOST_OPENS: Final = 64  # the states that come back are of unknown size
_MOST_ATTEMPTS: Final = 5  # at a transaction that deadlocks; how groups lock their rows leaves no reason for it
# The server's resources, an operator's or a lock's doing: no operation of the group is to blame.
_CONCERN_ALL: Final = ("25", "42", "53", "55", "57", "58")
_RECONNECT_SECONDS: Final = 0.5  # while there is nothing to do
_LONGEST_BACKOFF_SECONDS: Final = 0.02


class _Job(msgspec.Struct, frozen=True):
    operation: Operation
    size: int
    submitted: float
    answer: asyncio.Future[Answer]


class PostgresWriter:
    """Runs operations on the database in the order of ``submit``; belongs to the event loop that runs when it is made.

    When the database refuses an operation, those of the same address that were submitted before the refusal was
    reported are refused, too: nothing is ever applied on top of a gap. An operation whose outcome is in doubt is not
    answered until it is known; whatever waits behind it is refused after ``timeout`` seconds.
    """

    def __init__(self, url: PostgresUrl, *, timeout: float) -> None:
        self.place = url.place
        self._url = url
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Job] = deque()
        self._group: Sequence[_Job] = ()  # under way
        self._wake = asyncio.Event()
        self._using = asyncio.Lock()  # the session
        self._session: PostgresSession | None = None
        self._answered: PostgresSession | None = None  # just now
        self._ghosts: list[Backend] = []
        self._just_refused: set[str] = set()
        self._exclusive = False
        self._stopped_at = inf
        self._operations = self._transactions = self._largest_group = 0
        self._task: asyncio.Task[None] | None = None
        self.id = ""
        self.reader = PostgresReader(url, timeout=timeout, session=lambda: self._session)  # ends with the task

    async def start(self) -> None:
        """Connect, and begin to take operations. Raises ``UnusableStore`` or ``StoreUnavailable``."""
        await self._connected(self._loop.time() + self._timeout)
        self._task = asyncio.create_task(self._run(), name=f"store {self.place}")

    def submit(self, operation: Operation, size: int) -> asyncio.Future[Answer]:
        """Queue an operation that carries so many bytes. Cancelling the future does not take it back."""
        answer: asyncio.Future[Answer] = self._loop.create_future()
        job = _Job(operation, size, self._loop.time(), answer)
        if not isinstance(operation, Open) and self._just_refused & _addresses([job]):
            _resolve(answer, _behind(job))  # whoever was refused has not had its turn yet
        else:
            self._queue.append(job)
            self._wake.set()
        return answer

    def stop(self) -> None:
        """Let the task end after what is queued."""
        self._stopped_at = min(self._stopped_at, self._loop.time())
        self._wake.set()

    def stop_from_anywhere(self) -> None:
        """As ``stop``, from any thread and when the loop may be closed."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.stop)

    async def wait_closed(self) -> None:
        """Return when the task has ended and the connection is closed."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def lock_exclusively(self) -> None:
        """Hold the store alone, from now on and after each reconnect. Raises ``StoreInUse``, ``StoreUnavailable``."""
        deadline = self._loop.time() + self._timeout
        async with self._using:
            while not self._exclusive:
                session = await self._connected(deadline)
                try:
                    await session.lock_exclusively()
                except Lost as error:
                    if self._loop.time() >= deadline:
                        raise StoreUnavailable(f"{self.place}: {error}; it is not locked") from error
                except (TryAgain, asyncpg.PostgresError) as error:
                    raise StoreUnavailable(f"{self.place}: {one_line(error)}; it is not locked") from error
                else:
                    self._exclusive = True

    def statistics(self) -> StoreStatistics:
        """The counts so far."""
        return StoreStatistics(
            operations=self._operations, transactions=self._transactions, largest_group=self._largest_group
        )

    async def _run(self) -> None:
        try:
            while self._queue or self._stopped_at == inf:
                if self._queue:
                    async with self._using:
                        await self._write(self._next_group())
                else:
                    self._answered = None
                    await self._wait_for_work()
            await self.reader.close()
        finally:
            self.reader.abort()
            # Something is left only after a cancellation, which comes with the end of the event loop.
            for job in self._group:
                _resolve(job.answer, OutcomeInDoubt(f"{self.place}: the event loop ended while it was written"))
            self._refuse(list(self._queue), StoreUnavailable(f"{self.place}: the event loop ended"))
            if self._session is not None:
                try:
                    await self._session.close()
                finally:
                    self._session.abort()

    async def _wait_for_work(self) -> None:
        self._wake.clear()
        if not self._is_connected():
            # Nobody waits for it, but the lock on the store should be held.
            with suppress(Lost, UnusableStore):
                async with self._using:
                    await self._connect(patience=self._timeout / 5)
        with suppress(TimeoutError):
            async with asyncio.timeout(None if self._is_connected() else _RECONNECT_SECONDS):
                await self._wake.wait()

    def _next_group(self) -> list[_Job]:
        group: list[_Job] = []
        rule = GroupRule()
        size = opens = 0
        while self._queue and len(group) < _LARGEST_GROUP and opens < _MOST_OPENS:
            job = self._queue[0]
            # What is large travels alone: if it takes too long, others do not suffer for it.
            too_large = group and size + job.size > _LARGEST_GROUP_BYTES
            if too_large or not rule.admits(job.operation):
                break
            group.append(self._queue.popleft())
            size += job.size
            opens += isinstance(job.operation, Open)
        return group

    async def _write(self, group: Sequence[_Job]) -> None:
        self._group = group
        try:
            outcomes = await self._transact([job.operation for job in group], group[0].submitted + self._timeout)
        except (StoreUnavailable, OutcomeInDoubt) as error:
            self._refuse(group, error)
        except UnusableStore as error:
            self._refuse(group, StoreUnavailable(str(error)))
        except Exception as error:  # it reaches a caller; the task has to live on
            if len(group) > 1:
                # Something is wrong with one of them: the others must not suffer for it.
                await self._write_singly(group)
            else:
                of_database = isinstance(error, asyncpg.PostgresError)
                self._refuse(group, StoreUnavailable(self._explain(error)) if of_database else error)
        else:
            self._transactions += 1
            self._largest_group = max(self._largest_group, len(group))
            self._operations += len(group)
            for job, outcome in zip(group, outcomes, strict=True):
                _resolve(job.answer, outcome)
        self._group = ()

    async def _write_singly(self, group: Sequence[_Job]) -> None:
        refused: set[str] = set()
        for job in group:
            if isinstance(job.operation, RaiseEra) or job.operation.address not in refused:
                before = self._transactions
                await self._write([job])
                if self._transactions == before:
                    refused |= _addresses([job])
            else:
                self._refuse([job], _behind(job))

    async def _transact(self, operations: Sequence[Operation], deadline: float) -> list[Outcome]:
        """The outcomes, once they are durable. Any error but ``OutcomeInDoubt`` means that nothing was applied."""
        request = Request(operations)
        attempts = 0
        while True:
            session = await self._connected(deadline)
            try:
                # Only if the server answers is it worth being in doubt about what it did.
                if session is not self._answered:
                    await session.ping()
            except Lost as error:
                self._check(deadline, error)
                continue
            self._answered = None
            try:
                reply = await session.apply(request)
            except Lost as error:
                found = await self._find_out(session, error)
                if found is not None:
                    return await self._complete(request, found)
                self._check(deadline, error)
            except TryAgain as error:
                attempts += 1
                self._check(deadline if attempts < _MOST_ATTEMPTS else -inf, error)
                await asyncio.sleep(random() * _LONGEST_BACKOFF_SECONDS)
            except asyncpg.PostgresError as error:
                if sqlstate(error).startswith(_CONCERN_ALL):
                    raise StoreUnavailable(self._explain(error)) from error
                raise
            else:
                self._answered = session
                return request.outcomes(reply)

    async def _find_out(self, session: PostgresSession, error: Lost) -> Reply | None:
        """Whether the last group of a lost session was applied, however long that takes to learn."""
        log.warning("%s: %s; %d operations are in doubt until it answers", self.place, error, len(self._group))
        pause = pauses()
        while True:
            try:
                reply = await (await self._connect(patience=self._timeout / 2)).end(session)
            except (Lost, TryAgain, UnusableStore, asyncpg.PostgresError) as trouble:
                await self._wait_in_doubt(trouble, next(pause))
            else:
                log.info("%s: they were %s", self.place, "not applied" if reply is None else "applied")
                return reply

    async def _complete(self, request: Request, reply: Reply) -> list[Outcome]:
        """The outcomes of a group that was applied, though the states and the era that it read were lost.

        To open again at the same epoch, or to raise the era again, changes nothing. A refusal would not be true.
        """
        lost = [operation for operation in request.operations if isinstance(operation, Open | RaiseEra)]
        found: list[Outcome] | None = None if lost else []
        pause = pauses()
        while found is None:
            try:
                found = await self._transact(lost, inf)
            except (StoreUnavailable, UnusableStore, asyncpg.PostgresError) as trouble:
                await self._wait_in_doubt(trouble, next(pause))
        again = iter(found)
        return [
            next(again) if isinstance(operation, Open | RaiseEra) else outcome
            for operation, outcome in zip(request.operations, request.outcomes(reply), strict=True)
        ]

    async def _wait_in_doubt(self, trouble: Exception, pause: float) -> None:
        if self._loop.time() >= self._stopped_at + self._timeout:
            raise OutcomeInDoubt(
                f"{self.place}: {one_line(trouble)}; the store was closed before it could be known whether this was "
                "written"
            )
        self._refuse_overdue(trouble)
        await asyncio.sleep(pause)

    async def _connected(self, deadline: float) -> PostgresSession:
        pause = pauses()
        while True:
            patience = min(self._timeout / 2, max(self._timeout / 5, deadline - self._loop.time()))
            try:
                return await self._connect(patience=patience)
            except Lost as error:
                self._check(min(deadline, self._stopped_at + self._timeout), error)
            await asyncio.sleep(next(pause))

    async def _connect(self, *, patience: float) -> PostgresSession:
        """The session, or a new one if that was lost. Raises ``Lost`` or ``UnusableStore``."""
        if self._session is not None:
            if not self._session.closed:
                return self._session
            self._ghosts.append(self._session.backend)
            self._session = None
        session = await PostgresSession.connect(
            self._url,
            limit=self._timeout,
            patience=patience,
            exclusively=self._exclusive,
            may_migrate=not self.id,
            ghosts=self._ghosts,
        )
        if self.id not in ("", session.store_id):
            session.abort()
            raise UnusableStore(f"{self.place}: was replaced by another store while it was in use; restart")
        self.id = session.store_id
        session.on_lost(self._wake.set)
        self._session = session
        return session

    def _is_connected(self) -> bool:
        return self._session is not None and not self._session.closed

    def _check(self, deadline: float, error: Exception) -> None:
        self._refuse_overdue(error)
        if self._loop.time() >= deadline:
            raise StoreUnavailable(self._explain(error)) from error

    def _refuse_overdue(self, error: Exception) -> None:
        latest = self._loop.time() - self._timeout
        overdue = [job for job in self._queue if job.submitted <= latest]
        if overdue:
            self._queue = deque(job for job in self._queue if job.submitted > latest)
            self._refuse(overdue, StoreUnavailable(self._explain(error)))

    def _refuse(self, jobs: Sequence[_Job], error: Exception) -> None:
        addresses = _addresses(jobs)
        behind: list[_Job] = []
        remaining: deque[_Job] = deque()
        for job in self._queue:
            (behind if addresses & _addresses([job]) else remaining).append(job)
        self._queue = remaining
        self._just_refused = self._just_refused | addresses
        self._operations += len(jobs) + len(behind)
        for job in jobs:
            # An exception for each: a raised one collects the traceback of whoever raises it.
            _resolve(job.answer, type(error)(str(error)) if len(jobs) > 1 else error)
        for job in behind:
            _resolve(job.answer, _behind(job))
        self._loop.call_soon(self._forget_refused, addresses)

    def _forget_refused(self, addresses: set[str]) -> None:
        """Those who were refused know it by now: what they do next is a new attempt."""
        self._just_refused = self._just_refused - addresses

    def _explain(self, error: Exception) -> str:
        return f"{self.place}: {one_line(error)}; nothing was written"


def _addresses(jobs: Iterable[_Job]) -> set[str]:
    return {job.operation.address for job in jobs if not isinstance(job.operation, RaiseEra)}


def _behind(job: _Job) -> StoreUnavailable:
    assert not isinstance(job.operation, RaiseEra)
    reason = "an earlier operation of this actor was refused, and this one was already under way"
    return StoreUnavailable(f"{job.operation.address}: {reason}")


def _resolve(future: asyncio.Future[Answer], result: Answer | Exception) -> None:
    if future.done():
        return  # the caller was cancelled
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
