"""The caller's side of requests that are under way."""

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from actors import codec, failure
from actors.envelope import Accepted, Credit, End, Envelope, Failure, Item, Mode, Reply, Request, item_cost
from actors.errors import ActorError, Busy, ClusterUnavailable, ConnectionLost, MailboxFull, Timeout
from actors.handler import HandlerSpec
from actors.ports import Link
from actors.shares import Shares

if TYPE_CHECKING:
    from actors.guest import Guest
    from actors.runtime import Runtime

log = logging.getLogger("actors")

STREAM_CREDIT = 64
_OF_NOW = (Busy.__name__, ClusterUnavailable.__name__, MailboxFull.__name__)


class Call:
    """One request under way. ``link`` is where it was sent, None while it waits for a route or runs on this silo."""

    __slots__ = ("expires", "held_for", "link", "order", "request", "room", "slot")

    repeatable = False
    """Whether it may be sent again when nobody knows what became of it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.order = request.id  # among the calls to one address
        self.link: Link | None = None
        self.held_for = ""  # why it could not be sent yet
        self.expires = float("inf")
        self.slot = 0.0
        self.room: Shares | None = None  # where it counts until it has ended

    def on_envelope(self, envelope: Envelope, *, trusted: bool) -> bool:
        """Take what the other side says of the request. Returns whether that was the last of it."""
        raise NotImplementedError

    def fail(self, error: ActorError) -> None:
        """The request has ended without an answer."""
        raise NotImplementedError

    def lost(self) -> ActorError:
        """What to tell when the link broke."""
        peer = self.link.peer if self.link is not None else "its silo"
        return ConnectionLost(f"{self.request.address}: {peer} was lost before it answered; the message may have run")

    def timed_out(self) -> ActorError:
        """What to tell when the deadline has passed."""
        if self.held_for:
            return ClusterUnavailable(f"{self.request.address}: not delivered in time: {self.held_for}")
        where = f"{self.request.address}.{self.request.handler or 'receive'}"
        return Timeout(f"{where}: no answer in time; its turn, if it runs, goes on to its end")


class AnswerCall(Call):
    """An ask or a send of this process: one answer."""

    __slots__ = ("future",)

    repeatable = True

    def __init__(self, request: Request, future: "asyncio.Future[tuple[Envelope, bool]]") -> None:
        super().__init__(request)
        self.future = future

    def on_envelope(self, envelope: Envelope, *, trusted: bool) -> bool:
        if not self.future.done():
            if type(envelope) is Failure:
                self.future.set_exception(failure.to_exception(_honest(envelope, self.request), trusted=trusted))
            else:
                self.future.set_result((envelope, trusted))
        return True

    def fail(self, error: ActorError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


def _honest(failed: Failure, request: Request) -> Failure:
    """That the actor cannot be reached now, or has no room, says nothing about earlier attempts."""
    if request.attempt and not request.number and failed.error in _OF_NOW:  # what has a number is told apart for ever
        return failure.of_one_attempt(failed)
    return failed


class StreamCall(Call):
    """A stream read in this process: items queue up to the credit that was given."""

    __slots__ = (
        "_credited",
        "_error",
        "_items",
        "_owed",
        "_raw",
        "_runtime",
        "_spec",
        "_waiter",
        "ended",
        "waiting_since",
    )

    def __init__(self, request: Request, runtime: "Runtime", spec: HandlerSpec | None, *, raw: bool = False) -> None:
        super().__init__(request)
        request.credit = STREAM_CREDIT
        self._raw = raw
        self._runtime = runtime
        self._spec = spec
        self._items: list[tuple[bytes, bool]] = []  # no more than the credit allows, and most often none
        self._owed = 0
        self._credited = runtime.loop.time()
        self._error: ActorError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.ended = False
        self.waiting_since = runtime.loop.time()

    def on_envelope(self, envelope: Envelope, *, trusted: bool) -> bool:
        if type(envelope) is Item:
            self._items.append((envelope.payload, trusted))
        elif type(envelope) is Failure:
            self.fail(failure.to_exception(envelope, trusted=trusted))
        elif type(envelope) is End:
            self.ended = True
        self._wake()
        return self.ended

    def fail(self, error: ActorError) -> None:
        self._error = error
        self.ended = True
        self._wake()

    @property
    def reader_waits(self) -> bool:
        """Whether the reader is waiting for an item, since ``waiting_since``."""
        return self._waiter is not None and not self._waiter.done()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def has_news(self) -> bool:
        """Whether ``take`` may be called: an item is there, or the stream has ended."""
        return bool(self._items) or self.ended

    def news(self) -> "asyncio.Future[None]":
        """Done when something may have come. For one reader, which awaits it at once."""
        self.waiting_since = self._runtime.loop.time()
        self._waiter = self._runtime.loop.create_future()
        return self._waiter

    def take(self) -> tuple[bool, Any]:
        """The next item: ``(True, item)``, or ``(False, None)`` at the end. Raises the stream's failure."""
        if not self._items:
            if self._error is not None:
                raise self._error
            return False, None
        payload, trusted = self._items.pop(0)
        self._owed += item_cost(payload)
        if not self.ended and (self._owed >= STREAM_CREDIT // 2 or self._runtime.loop.time() > self._credited + 1):
            self._runtime.say(self, Credit(self.request.id, self._owed))
            self._owed = 0
            self._credited = self._runtime.loop.time()  # now and then, so that a slow reader is told from a stalled one
        if self._raw:
            return True, payload
        if self._spec is not None and self.request.typed:
            return True, self._spec.decode_result(payload, trusted=trusted)
        return True, codec.decode(payload, trusted=trusted and not self.request.outside)


class ForwardedCall(Call):
    """A client's request that this silo passes on to the actor's owner."""

    __slots__ = ("origin", "origin_id")

    def __init__(self, request: Request, origin: "Guest", origin_id: int) -> None:
        super().__init__(request)
        self.origin = origin
        self.origin_id = origin_id

    @property
    def repeatable(self) -> bool:  # type: ignore[override]
        """Unless items of it have been passed on."""
        return self.request.mode is not Mode.STREAM

    def on_envelope(self, envelope: Envelope, *, trusted: bool) -> bool:
        assert isinstance(envelope, Reply | Failure | Accepted | Item | End)
        envelope.id = self.origin_id
        if type(envelope) is Failure:
            envelope = _honest(envelope, self.request)
        if self.request.attempt and not isinstance(envelope, Item | End):
            envelope.recorded = False  # an earlier attempt may still arrive: what is kept for it must not go yet
        self.origin.send(envelope)
        return type(envelope) is not Item

    def fail(self, error: ActorError) -> None:
        self.origin.send(failure.refusal(self.origin_id, error))


class QuestionCall(Call):
    """A question to another runtime: where does this address live, or a Query."""

    __slots__ = ("future",)

    def __init__(self, request: Request, future: "asyncio.Future[Envelope]") -> None:
        super().__init__(request)
        self.future = future

    def on_envelope(self, envelope: Envelope, *, trusted: bool) -> bool:
        if not self.future.done():
            if type(envelope) is Failure:
                self.future.set_exception(failure.to_exception(envelope, trusted=trusted))
            else:
                self.future.set_result(envelope)
        return True

    def fail(self, error: ActorError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class AcceptedCall(Call):
    """A one-way message that was accepted here and had to be handed on: nobody waits for it any more."""

    __slots__ = ()

    def on_envelope(self, envelope: Envelope, *, trusted: bool) -> bool:
        if type(envelope) is Failure:
            self.fail(failure.to_exception(envelope, trusted=False))
        return True

    def fail(self, error: ActorError) -> None:
        log.error("%s: an accepted message could not be handed on and is lost: %s", self.request.address, error)
