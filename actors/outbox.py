"""Messages that committed turns have sent, on their way to other actors."""

import asyncio
import logging
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from actors.envelope import Envelope, Request
from actors.errors import (
    ActorError,
    Busy,
    NotAuthorized,
    NotRepeated,
    OutcomeUnknown,
    PayloadTooLarge,
    SerializationFailed,
    UnknownHandler,
)
from actors.records import OUTBOX

if TYPE_CHECKING:
    from actors.activation import Activation

log = logging.getLogger("actors")

_WINDOW = 32  # messages to one actor that are under way together
_FIRST_DELAY, _LONGEST_DELAY = 0.05, 5.0
_FINAL = (
    Busy,
    UnknownHandler,
    SerializationFailed,
    PayloadTooLarge,
    NotAuthorized,
    NotRepeated,
)  # it will be so the next time, too


class Outbox:
    """Delivers each message until its receiver has it, in order for each receiver; the receiver tells repeats apart.

    A message carries its number and that of the one before it to the same receiver (none, if that is settled). A
    receiver that has not got the one before refuses it, so that a refusal in the middle never lets a later one pass.
    One that is not durable looks at no numbers: what it has taken is not sent to it again.
    """

    __slots__ = ("_activation", "_delivered", "_pumps", "_queues", "pending")

    def __init__(self, activation: "Activation") -> None:
        self._activation = activation
        self._queues: dict[str, deque[tuple[bytes, Request]]] = {}
        self._pumps: dict[str, asyncio.Task[None]] = {}
        self._delivered: list[bytes] = []
        self.pending = 0
        """How many rows the store has, or will have with the commits under way."""

    def restore(self, number: bytes, request: Request) -> None:
        """A row that was there when the activation began."""
        self.pending += 1
        request.attempt = 1  # nobody knows whether it was delivered
        self._queues.setdefault(request.address, deque()).append((number, request))

    def add(self, rows: list[tuple[bytes, Request]]) -> None:
        """The rows are durable: deliver them."""
        for number, request in rows:
            self._queues.setdefault(request.address, deque()).append((number, request))
        self.start()

    @property
    def busy(self) -> bool:
        """Whether anything is to be delivered, or to be removed from the store."""
        return self.pending > 0

    @property
    def has_delivered(self) -> bool:
        """Whether rows wait to be removed."""
        return bool(self._delivered)

    def take_delivered(self) -> list[bytes]:
        """The keys of rows that the next commit removes."""
        delivered, self._delivered = self._delivered, []
        self.pending -= len(delivered)
        return delivered

    def start(self) -> None:
        """Deliver what is not being delivered yet."""
        for target in self._queues:
            if target not in self._pumps:
                self._pumps[target] = self._activation.runtime.spawn(self._pump(target))

    def stop(self) -> None:
        """The activation has ended: whoever opens the address next goes on."""
        for pump in self._pumps.values():
            pump.cancel()

    async def _pump(self, target: str) -> None:
        queue, delay = self._queues[target], _FIRST_DELAY
        while queue:
            under_way = list(islice(queue, _WINDOW))
            left, trouble = await self._deliver(under_way)
            for _ in under_way:
                queue.popleft()
            queue.extendleft(reversed(left))
            if len(left) < len(under_way):
                waiting = {number for number, _ in left}
                self._delivered += [OUTBOX + number for number, _ in under_way if number not in waiting]
                delay = _FIRST_DELAY
                self._activation.durable_side.commits.flush()
            if trouble is not None:
                if delay >= _LONGEST_DELAY:
                    log.warning("%s: %d messages to %s wait: %s", self._activation.address, len(queue), target, trouble)
                await asyncio.sleep(delay)
                delay = min(delay * 2, _LONGEST_DELAY)
        del self._queues[target], self._pumps[target]

    async def _deliver(self, rows: list[tuple[bytes, Request]]) -> tuple[list[tuple[bytes, Request]], Exception | None]:
        """Send the messages; return those that are to be sent again, and what must be waited for before that."""
        runtime = self._activation.runtime
        answers: list[asyncio.Future[tuple[Envelope, bool]]] = []
        previous = b""
        for number, request in rows:
            try:
                answers.append(
                    runtime.outbound.deliver(msgspec.structs.replace(request, number=number, previous=previous))
                )
            except ActorError as error:  # the runtime is closed
                return rows, error
            previous = number
        results = await asyncio.gather(*answers, return_exceptions=True)
        left: list[tuple[bytes, Request]] = []
        trouble, dropped = None, False
        for (number, request), result in zip(rows, results, strict=True):
            if isinstance(result, _FINAL):
                log.error("%s: a message to %s is dropped: %s", self._activation.address, request.address, result)
                dropped = True  # a receiver that has not got it refuses what follows, which goes again at once
            elif isinstance(result, ActorError):
                request.attempt = 1 if isinstance(result, OutcomeUnknown) else request.attempt
                left.append((number, request))
                trouble = trouble or (None if dropped else result)
            elif isinstance(result, BaseException):
                raise result
        return left, trouble
