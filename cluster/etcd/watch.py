"""Watches: every change of some keys, in order, exactly once, whatever happens to the members in between."""

import enum
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import grpc
import msgspec

from cluster.etcd import etcd_pb2 as pb
from cluster.etcd.connection import Connection
from cluster.etcd.errors import Compacted, EtcdError, EtcdUnavailable, HistoryLost
from cluster.etcd.kv import KeyValue, end_of, key_value, start_of
from cluster.etcd.method import RANGE, WATCH
from cluster.etcd.recovery import Recovery
from cluster.etcd.stream import Stream, StreamBroken
from cluster.etcd.verdict import Verdict


class EventKind(enum.Enum):
    PUT = "put"
    DELETE = "delete"


class Event(msgspec.Struct, frozen=True):
    """One change. ``kv.mod_revision`` is its revision; a deletion carries no value."""

    kind: EventKind
    kv: KeyValue


class WatchBatch(msgspec.Struct, frozen=True):
    """Events in the order of their revisions; those of one revision are never split.

    All events up to ``revision`` have been delivered with this batch. A batch without events says just that: at the
    beginning and after each reconnection (the watch is live), and now and then when nothing happens.
    """

    revision: int
    events: list[Event]


class Watch(AsyncIterator[WatchBatch]):
    """Iterate to follow the keys. Made by ``EtcdClient.watch``; one task iterates at a time.

    Survives reconnection, fail-over and restarts of etcd without a lost or repeated event, and waits for etcd as long
    as it is away: a wait for events has no end of its own. It pulls: while nobody iterates, at most gRPC's window is
    buffered here. Cancelling a step loses nothing, the next one continues.

    Raises ``Compacted`` or ``HistoryLost`` where events are missing for good, ``EtcdAuthFailed`` and ``EtcdRejected``
    where etcd refuses the watch; it is over then. Ends when it is closed; raises ``EtcdClosed`` when the client is.
    """

    def __init__(self, connection: Connection, key: str, *, prefix: bool, start_revision: int) -> None:
        if start_revision < 0:
            raise ValueError(f"a watch cannot start at revision {start_revision}: 0 means from now on")
        self._connection = connection
        self._name = key
        self._key = start_of(key, prefix=prefix)
        self._range_end = end_of(key, prefix=prefix)
        self._next = start_revision  # the first revision that is not delivered yet; 0 until it is known
        self._held: list[Event] = []  # of a revision whose other events may come with the next fragment
        self._cluster_id = 0
        self._recovery = Recovery(connection, purpose=f"watch of {key}")
        self._stream: Stream[pb.WatchRequest, pb.WatchResponse] | None = None
        self._received: pb.WatchResponse | None = None  # kept until it is dealt with: a step may be cancelled before
        self._failure: EtcdError | None = None
        self._closed = False

    async def __anext__(self) -> WatchBatch:
        while True:
            if self._closed:
                raise StopAsyncIteration
            if self._failure is not None:
                raise self._failure
            try:
                stream = self._stream or await self._connect()
                if self._received is None:
                    self._received = await stream.receive()
                batch = await self._digest(stream, self._received)
                self._received = None
            except StreamBroken as broken:
                await self._reconnect(broken)
                continue
            except EtcdError as error:
                await self._fail(error)
                continue
            if batch is not None:
                return batch

    async def aclose(self) -> None:
        """Stop watching. A pending step, and all later ones, end the iteration."""
        self._closed = True
        await self._drop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _connect(self) -> Stream[pb.WatchRequest, pb.WatchResponse]:
        timeout = self._connection.share
        self._held.clear()
        stream = self._stream = await self._recovery.open(WATCH, within=timeout)
        create = pb.WatchCreateRequest(
            key=self._key,
            range_end=self._range_end,
            start_revision=self._next,
            progress_notify=True,
            fragment=True,
        )
        await stream.send(pb.WatchRequest(create_request=create), within=timeout)
        return stream

    async def _reconnect(self, broken: StreamBroken) -> None:
        await self._drop()
        if self._closed:
            return
        try:
            await self._recovery.after(broken)
        except EtcdError as error:
            await self._fail(error)

    async def _fail(self, error: EtcdError) -> None:
        self._failure = error
        await self._drop()

    async def _drop(self) -> None:
        stream, self._stream, self._received = self._stream, None, None
        if stream is not None:
            await stream.close(abandon=True)  # etcd leaves a watch open that says goodbye

    async def _digest(
        self, stream: Stream[pb.WatchRequest, pb.WatchResponse], response: pb.WatchResponse
    ) -> WatchBatch | None:
        if response.canceled:
            raise self._cancelled(stream, response)
        if response.created:
            await self._check_history(stream, response.header)
            if self._next == 0:
                # The header counts only here, where etcd itself began right after it. With a start revision it runs
                # ahead of events that are still to come.
                self._next = response.header.revision + 1
            return WatchBatch(self._next - 1, [])
        if not response.events:
            if not self._held:
                # A progress notification: etcd sends it to watchers that have got everything.
                self._next = max(self._next, response.header.revision + 1)
            return WatchBatch(self._next - 1, [])
        return self._collect(response)

    def _collect(self, response: pb.WatchResponse) -> WatchBatch | None:
        """Append the events, keep back the last revision while more of it may come, and deliver the others."""
        events = self._held
        for message in response.events:
            if message.kv.mod_revision >= self._next:
                kind = EventKind.DELETE if message.type == pb.Event.DELETE else EventKind.PUT
                events.append(Event(kind, key_value(message.kv)))
        self._held = []
        if response.fragment and events:
            last = events[-1].kv.mod_revision
            self._held = [event for event in events if event.kv.mod_revision == last]
            events = events[: len(events) - len(self._held)]
        if not events:
            return None
        self._next = events[-1].kv.mod_revision + 1
        return WatchBatch(self._next - 1, events)

    def _cancelled(
        self, stream: Stream[pb.WatchRequest, pb.WatchResponse], response: pb.WatchResponse
    ) -> EtcdError | StreamBroken:
        if response.compact_revision:
            return Compacted(
                f"watch of {self._name}: etcd at {stream.endpoint.url} has compacted everything before revision "
                f"{response.compact_revision}, the watch had still to read from {self._next} on. "
                "Read the keys again and watch from that revision + 1",
                compact_revision=response.compact_revision,
            )
        reason = response.cancel_reason.rpartition(" desc = ")[2] or "the member cancelled the watch"
        if "invalid auth token" in reason or "auth store is old" in reason or "permission denied" in reason:
            # Before 3.5.5 etcd reports an expired token as "permission denied". A fresh one tells them apart.
            return stream.broken(reason, verdict=Verdict.REAUTHENTICATE, code=grpc.StatusCode.PERMISSION_DENIED)
        return stream.broken(reason)

    async def _check_history(
        self, stream: Stream[pb.WatchRequest, pb.WatchResponse], header: pb.ResponseHeader
    ) -> None:
        """Notice an etcd that was restored or wiped: it would stay silent until its revisions catch up."""
        if self._cluster_id not in (0, header.cluster_id):
            raise HistoryLost(
                f"watch of {self._name}: the endpoints now lead to etcd cluster {header.cluster_id:x}, before it was "
                f"{self._cluster_id:x}. Read the keys again and watch from that revision + 1"
            )
        self._cluster_id = header.cluster_id
        if header.revision >= self._next - 1:
            return
        # This member may just lag behind: what a quorum says counts.
        try:
            answer = await self._connection.read(RANGE, pb.RangeRequest(key=self._key, limit=1))
        except EtcdUnavailable as error:
            raise stream.broken(str(error)) from error
        if answer.header.revision < self._next - 1:
            raise HistoryLost(
                f"watch of {self._name}: etcd is at revision {answer.header.revision}, but had reached "
                f"{self._next - 1} before. It lost data or was restored. "
                "Read the keys again and watch from that revision + 1"
            )
