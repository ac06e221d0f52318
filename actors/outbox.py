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
            settled, trouble = await self._deliver(list(islice(queue, _WINDOW)))
            for _ in range(settled):
                self._delivered.append(OUTBOX + queue.popleft()[0])
            if settled:
                delay = _FIRST_DELAY
                self._activation.durable_side.commits.flush()
            if trouble is not None:
                if delay >= _LONGEST_DELAY:
                    log.warning("%s: %d messages to %s wait: %s", self._activation.address, len(queue), target, trouble)
                await asyncio.sleep(delay)
                delay = min(delay * 2, _LONGEST_DELAY)
        del self._queues[target], self._pumps[target]

    async def _deliver(self, rows: list[tuple[bytes, Request]]) -> tuple[int, Exception | None]:
        """Send the messages; return how many of them are settled, and why the next one is not."""
        runtime = self._activation.runtime
        answers: list[asyncio.Future[tuple[Envelope, bool]]] = []
        previous = b""
        for number, request in rows:
            try:
                answers.append(
                    runtime.outbound.deliver(msgspec.structs.replace(request, number=number, previous=previous))
                )
            except ActorError as error:  # the runtime is closed
                return 0, error
            previous = number
        results = await asyncio.gather(*answers, return_exceptions=True)
        for (_, request), result in zip(rows, results, strict=True):
            if isinstance(result, OutcomeUnknown):
                request.attempt = 1
        for count, ((_, request), result) in enumerate(zip(rows, results, strict=True)):
            if isinstance(result, _FINAL):
                log.error("%s: a message to %s is dropped: %s", self._activation.address, request.address, result)
                return count + 1, None  # what follows it was sent as if this one had arrived: again
            if isinstance(result, ActorError):
                return count, result
            if isinstance(result, BaseException):
                raise result
        return len(rows), None
