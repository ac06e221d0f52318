"""What arrives on one link: envelopes out of frames, within the limits that this side has set. No I/O here."""

from collections.abc import Iterable, Iterator

import msgspec

from actors.envelope import Envelope, Failure
from actors.errors import Rejected
from actors.release import RELEASE
from cluster.transport import frame
from cluster.transport.link_pb2 import Chunk


class Violation(Exception):
    """The peer did not keep to the protocol. Its link must be closed."""


class _Parts:
    """A large envelope of which some chunks have arrived."""

    __slots__ = ("data", "total")

    def __init__(self, total: int) -> None:
        self.total = total
        self.data = bytearray()


class Incoming:
    """The receiving half of a link: decodes, puts chunks together, and keeps the account of the peer's credit.

    No more than ``window`` bytes may arrive beyond what ``take_owed`` returned to the peer. An envelope may have
    ``max_payload`` encoded bytes, and all those in pieces twice that together.
    """

    def __init__(self, *, window: int, max_payload: int) -> None:
        self._left = window
        self._worth_returning = min(window // 4, frame.CREDIT_BYTES)
        self._owed = 0
        self._max_payload = max_payload
        self._parts: dict[int, _Parts] = {}
        self._parts_bytes = 0
        self.refusals: list[Failure] = []
        """What the other side is to be told of envelopes of kinds that are not known here."""

    def batch(self, data: bytes) -> list[Envelope]:
        """The envelopes of a batch. Raises ``Violation``."""
        self._spend(len(data))
        try:
            try:
                return frame.decode_batch(data)
            except msgspec.ValidationError:
                return list(self._known(frame.decode_one_by_one(data)))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Violation(f"a batch cannot be decoded: {error}") from error

    def chunk(self, chunk: Chunk) -> Envelope | None:
        """The envelope that this chunk completes, if it does. Raises ``Violation``."""
        data = chunk.data
        self._spend(len(data))
        parts = self._parts.get(chunk.id)
        if parts is None:
            if not chunk.total:
                raise Violation(f"a chunk of message {chunk.id}, which was never begun")
            if chunk.total > self._max_payload or self._parts_bytes + chunk.total > 2 * self._max_payload:
                raise Violation(f"a message of {chunk.total:,} bytes is over the limit of {self._max_payload:,}")
            parts = self._parts[chunk.id] = _Parts(chunk.total)
            self._parts_bytes += chunk.total
        elif chunk.total:
            raise Violation(f"message {chunk.id} was begun twice")
        if not data or len(parts.data) + len(data) > parts.total:
            raise Violation(f"the chunks of message {chunk.id} do not fit its {parts.total:,} bytes")
        parts.data += data
        if len(parts.data) < parts.total:
            return None
        del self._parts[chunk.id]
        self._parts_bytes -= parts.total
        try:
            return next(self._known([frame.decode_or_name(parts.data)]), None)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Violation(f"a message in chunks cannot be decoded: {error}") from error

    def _known(self, envelopes: Iterable[Envelope | frame.Unknown]) -> Iterator[Envelope]:
        for envelope in envelopes:
            if not isinstance(envelope, frame.Unknown):
                yield envelope
                continue
            text = f"release {RELEASE} does not know envelopes of kind {envelope.tag}: upgrade the older side"
            failure = Failure(envelope.id, Rejected.__name__, text)
            if envelope.answers:
                yield failure
            else:
                self.refusals.append(failure)

    def take_owed(self) -> int:
        """How much credit to return to the peer now: 0 until it is worth a frame."""
        owed = self._owed
        if owed < self._worth_returning:
            return 0
        self._left += owed
        self._owed = 0
        return owed

    def _spend(self, size: int) -> None:
        self._owed += size
        self._left -= size
        if self._left < 0:
            raise Violation("more was sent than there was credit for")
