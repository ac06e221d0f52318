"""One open link: a task that writes what is queued, and one that hands over what arrives."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import grpc
from google.protobuf.message import DecodeError

from actors.envelope import Envelope
from cluster.transport.handshake import Introduction, Stream
from cluster.transport.incoming import Incoming, Violation
from cluster.transport.link_pb2 import Bye, Credit, Frame
from cluster.transport.outgoing import Outgoing

_log = logging.getLogger(__name__)
_BYE: Final = Frame(bye=Bye()).SerializeToString()


class GrpcLink:
    """A link over one gRPC stream (see ``actors.ports.Link``), dialled or accepted.

    Everything but ``run`` must be called on the loop's thread, and takes effect at once.
    """

    def __init__(
        self,
        stream: Stream,
        introduction: Introduction,
        *,
        trusted: bool,
        window: int,
        max_payload: int,
        max_queued: int,
        on_envelopes: "Callable[[GrpcLink, list[Envelope]], None]",
        on_closed: "Callable[[GrpcLink, list[Envelope]], None]",
        on_goodbye: "Callable[[GrpcLink], None]",
    ) -> None:
        self._stream = stream
        self._introduction = introduction
        self._trusted = trusted
        self._incoming = Incoming(window=window, max_payload=max_payload)
        self._outgoing = Outgoing(
            peer=introduction.id,
            credit=introduction.window,
            max_payload=introduction.max_payload,
            max_queued=max_queued,
        )
        self._on_envelopes = on_envelopes
        self._on_closed = on_closed
        self._on_goodbye = on_goodbye
        self._loop = asyncio.get_running_loop()
        self._wake: asyncio.Future[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._leaving = False
        self._said_goodbye = False
        self._peer_leaves = False
        self._closing = False
        self._closed = False
        self._reason = ""
        self.broken = False
        """Whether the link ended because the connection did, and nobody said goodbye."""

    @property
    def peer(self) -> str:
        """The other side's id: a silo's ``name.incarnation``, or what a client calls itself."""
        return self._introduction.id

    @property
    def trusted(self) -> bool:
        """Whether the other side proved to belong to the cluster."""
        return self._trusted

    @property
    def closed(self) -> bool:
        """Whether the link has ended. Nothing arrives any more, and ``send`` does nothing."""
        return self._closed

    @property
    def reason(self) -> str:
        """Why the link ended; empty while it is open."""
        return self._reason

    @property
    def peer_is_silo(self) -> bool:
        """Whether the other side accepts links itself."""
        return self._introduction.is_silo

    @property
    def version(self) -> int:
        """Of the link protocol: the newest that both sides speak."""
        return self._introduction.version

    @property
    def waiting_bytes(self) -> int:
        """About how many bytes wait to be sent."""
        return self._outgoing.waiting_bytes

    def send(self, envelope: Envelope) -> None:
        """Queue an envelope; see ``actors.ports.Link.send``.

        Raises, for a ``Request`` only, ``MailboxFull`` while too much waits for this peer and ``PayloadTooLarge``
        if it is over the peer's limit. An envelope that turns out to be impossible to encode is answered by a
        ``Failure`` to whoever waits for it.
        """
        if self._closed:
            return
        self._outgoing.push(envelope)
        if self._outgoing.overflows:
            self.end(f"{self.peer} did not take {self.waiting_bytes:,} bytes of answers")
        if self._wake is not None:
            self._rouse()

    def send_first(self, data: bytes) -> None:
        """Queue an encoded frame before everything else."""
        self._outgoing.push_control(data)
        self._rouse()

    @property
    def departing(self) -> bool:
        """Whether the other side has said goodbye: it begins nothing here and takes nothing new, and still answers."""
        return self._peer_leaves

    def leave(self) -> None:
        """Send what is queued and say goodbye. The other side sends nothing new from then on, and says goodbye, too;
        what it has sent before that arrives, and answers go both ways until the link ends.
        """
        self._leaving = True
        self._rouse()

    def close(self) -> None:
        """Leave, and end the link when the other side has left and what is queued is sent."""
        self._closing = True
        self.leave()

    def end(self, reason: str) -> None:
        """End the link now and report what was not sent. Only the first call has an effect."""
        if self._closed:
            return
        self._closed = True
        self._reason = reason
        unsent = self._outgoing.unsent()
        self._rouse()
        self._on_closed(self, unsent)

    async def run(self) -> None:
        """Carry envelopes until the link ends, from whichever side. The caller then tears down the stream.

        The tasks that may still wait for the stream at that point end with it. Cancelling ends the link.
        """
        if self._closed:
            return
        self._reader, self._writer = asyncio.create_task(self._read()), asyncio.create_task(self._write())
        try:
            await asyncio.wait({self._reader, self._writer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.end("the link was torn down")

    async def settled(self, timeout: float) -> bool:
        """After ``run``: wait up to ``timeout`` seconds for a write that is under way; whether none is left."""
        return not await _waited({self._writer}, timeout)

    async def finish(self, timeout: float) -> None:
        """After the stream was torn down: wait for the link's tasks, and cancel them after ``timeout`` seconds."""
        left = {self._reader, self._writer}
        try:
            await _waited(left, timeout)
        finally:
            for task in left:
                if task is not None:
                    task.cancel()

    async def _read(self) -> None:
        try:
            while not self._closed:
                data = await self._stream.read()
                if not isinstance(data, bytes):
                    self._end_with_stream(f"{self.peer} ended the link or was lost")
                elif not self._closed:
                    self._take(data)
        except Violation as error:
            _log.warning("link to %s closed, it broke the protocol: %s", self.peer, error)
            self.end(f"{self.peer} broke the protocol: {error}")
        except asyncio.CancelledError:
            self.end("the stream was cancelled")
            raise
        except Exception as error:
            self._end_with_stream(_why(error))

    def _end_with_stream(self, why: str) -> None:
        self.broken = not (self._leaving or self._closed)
        if self._peer_leaves:
            why = f"{self.peer} said goodbye"
        self.end("the transport was closed" if self._closing else why)

    def _take(self, data: bytes) -> None:
        try:
            frame = Frame.FromString(data)
        except DecodeError as error:
            raise Violation(f"a frame cannot be parsed: {error}") from error
        kind = frame.WhichOneof("kind")
        if kind == "batch":
            envelopes = self._incoming.batch(frame.batch)
            if envelopes:
                self._hand_over(envelopes)
            self._answer_unknown()
            self._return_credit()
        elif kind == "chunk":
            envelope = self._incoming.chunk(frame.chunk)
            if envelope is not None:
                self._hand_over([envelope])
            self._answer_unknown()
            self._return_credit()
        elif kind == "credit":
            if not self._outgoing.grant(frame.credit.bytes):
                raise Violation("more credit was returned than was used")
            self._rouse()
        elif kind == "bye":
            self._peer_leaves = True
            self._on_goodbye(self)
            self.leave()
        elif kind == "refused":
            self.end(f"{self.peer} refused the link: {frame.refused.text}")
        else:
            raise Violation(f"a frame of kind {kind} where none belongs")

    def _hand_over(self, envelopes: list[Envelope]) -> None:
        try:
            self._on_envelopes(self, envelopes)
        except Exception:
            _log.exception("the handler failed on %d envelopes from %s; they are lost", len(envelopes), self.peer)

    def _answer_unknown(self) -> None:
        if self._incoming.refusals:
            refusals, self._incoming.refusals = self._incoming.refusals, []
            for refusal in refusals:
                _log.warning("from %s: %s", self.peer, refusal.text)
                self.send(refusal)

    def _return_credit(self) -> None:
        if self._outgoing.backed_up and not self.peer_is_silo:
            return  # a client that takes no answers need not ask for more; two silos could wait for each other so
        if owed := self._incoming.take_owed():
            self.send_first(Frame(credit=Credit(bytes=owed)).SerializeToString())

    async def _write(self) -> None:
        outgoing = self._outgoing
        write = self._stream.write
        try:
            while not self._closed:
                data = outgoing.next_frame()
                if outgoing.returned:
                    returned, outgoing.returned = outgoing.returned, []
                    self._hand_over(returned)
                if data is not None:
                    await write(data)
                    self._return_credit()
                elif self._leaving and outgoing.empty and not self._said_goodbye:
                    self._said_goodbye = True
                    await write(_BYE)
                elif self._closing and self._peer_leaves and outgoing.empty:
                    self.end("the transport was closed")  # the other side has sent all that it ever will
                else:
                    self._wake = self._loop.create_future()
                    await self._wake
        except asyncio.CancelledError:
            self.end("the stream was cancelled")
            raise
        except Exception as error:
            self._end_with_stream(_why(error))

    def _rouse(self) -> None:
        wake = self._wake
        if wake is not None:
            self._wake = None
            if not wake.done():
                wake.set_result(None)


async def _waited(tasks: set[asyncio.Task[None] | None], timeout: float) -> set[asyncio.Task[None]]:
    """Those of the tasks that are still under way after at most ``timeout`` seconds."""
    begun = {task for task in tasks if task is not None and not task.done()}
    return (await asyncio.wait(begun, timeout=timeout))[1] if begun else begun


def _why(error: Exception) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"the stream broke: {error.details() or error.code().name}"
    return f"the stream broke: {error}"
