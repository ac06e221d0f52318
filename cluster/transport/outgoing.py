"""What one link has yet to send, and in which frames it leaves. No I/O here.

Envelopes leave in batches, in order. One that is larger than ``large`` bytes travels alone, in chunks that alternate
with the batches and with the chunks of others; few of them are under way at once, so that a small message has little
before it on the wire. What belongs together with it must not overtake it, so while it travels
the later envelopes with its key (see ``_key``) are held aside; they follow when its last chunk has left.

Nothing is encoded before its frame is due, and whatever was not handed out in a frame is still known as an envelope:
that is what ``unsent`` returns when the link breaks.
"""

from collections import deque

from actors.envelope import Credit, Envelope, Failure, Leave, Query, Request, Resolve
from actors.errors import MailboxFull, PayloadTooLarge
from cluster.transport import frame

_Key = str | int
_OVERFLOW = 4  # times what is too much for requests
_TRAVELLING = 16  # large envelopes that are encoded at once


class _Entry:
    """An envelope that left the plain queue: its place in the order of sending and its weight."""

    __slots__ = ("envelope", "key", "place", "weight")

    def __init__(self, envelope: Envelope, key: _Key, place: int, weight: int) -> None:
        self.envelope = envelope
        self.key = key
        self.place = place
        self.weight = weight


class _Voyage:
    """A large envelope on its way: what is left of its encoding."""

    __slots__ = ("data", "entry", "id", "sent")

    def __init__(self, entry: _Entry, data: bytes, id: int) -> None:
        self.entry = entry
        self.data = data
        self.id = id
        self.sent = 0


class Outgoing:
    """The sending half of a link.

    ``credit`` is the peer's window: how many bytes of batches and chunks may be under way until the peer returns some.
    ``max_payload`` is the peer's limit for one encoded envelope. Above ``max_queued`` waiting bytes requests are
    refused.
    """

    def __init__(self, *, peer: str, credit: int, max_payload: int, max_queued: int) -> None:
        self._peer = peer
        self._window = credit
        self._credit = credit
        self._returned = 0
        self._max_payload = max_payload
        self._max_queued = max_queued
        # A frame never needs more than half of the window. The peer keeps back less than a quarter of it, so the
        # credit for any frame comes in the end.
        self._batch_bytes = min(frame.BATCH_BYTES, credit // 4)
        self._large = min(frame.LARGE_BYTES, self._batch_bytes // 2)
        self._chunk_bytes = min(frame.CHUNKS_UNDER_WAY, credit // 2)

        self._control: deque[bytes] = deque()
        self._queue: deque[Envelope] = deque()
        self._queued_bytes = 0
        self._large_queued = 0
        self._batch: bytes | None = None  # encoded, waits for credit
        self._batched: list[_Entry] | list[Envelope] = []

        # Everything below is empty unless large envelopes are about.
        self._held: dict[_Key, deque[_Entry]] = {}  # by each key with a large envelope ahead
        self._released: deque[_Entry] = deque()  # to go before the queue
        self._boarding: deque[_Entry] = deque()  # large, in line for being encoded
        self._voyages: deque[_Voyage] = deque()
        self._chunks: deque[tuple[int, int]] = deque()  # under way: where on the link each ends, and its bytes
        self._chunks_under_way = 0
        self._request_keys: dict[int, str] = {}  # own requests in the above -> address
        self._aside_bytes = 0
        self._place = 0
        self._voyage_id = 0
        self._chunk_is_next = False

        self.returned: list[Envelope] = []  # failures for the own side: what could not be sent at all

    @property
    def backed_up(self) -> bool:
        """Whether requests are refused because too much waits."""
        return self._queued_bytes + self._aside_bytes > self._max_queued

    @property
    def overflows(self) -> bool:
        """Whether far too much waits, for which only answers are left."""
        return self._queued_bytes + self._aside_bytes > _OVERFLOW * self._max_queued

    @property
    def waiting_bytes(self) -> int:
        """About how many bytes wait to be sent."""
        return self._queued_bytes + self._aside_bytes

    def push(self, envelope: Envelope) -> None:
        """Queue an envelope. Refuses requests only: ``MailboxFull``, ``PayloadTooLarge``."""
        weight = frame.weigh(envelope)
        if isinstance(envelope, Request):
            if self.backed_up:
                raise MailboxFull(
                    f"{envelope.address}: the link to {self._peer} is backed up, {self.waiting_bytes:,} bytes wait to"
                    " be sent; the message was not sent, try again later"
                )
            if weight > self._max_payload:
                raise PayloadTooLarge(
                    f"{envelope.address}: a message of {weight:,} bytes is over the limit of {self._max_payload:,} of"
                    f" {self._peer}; it was not sent, pass a reference to the data instead"
                )
        self._queue.append(envelope)
        self._queued_bytes += weight
        if weight > self._large:
            self._large_queued += 1

    def push_control(self, data: bytes) -> None:
        """Queue an encoded frame that needs no credit and goes before all envelopes."""
        self._control.append(data)

    def grant(self, credit: int) -> bool:
        """The peer has room for so many more bytes. False if that is more than its window can have."""
        self._credit += credit
        self._returned += credit
        while self._chunks and self._chunks[0][0] <= self._returned:
            self._chunks_under_way -= self._chunks.popleft()[1]
        return self._credit <= self._window

    @property
    def empty(self) -> bool:
        """Whether everything has been handed out."""
        return not (self._queue or self._batch or self._held or self._released or self._control)

    def next_frame(self) -> bytes | None:
        """The next frame to write, or None while there is nothing or no credit. It counts as sent from here on."""
        if self._control:
            return self._control.popleft()
        if self._voyages and self._chunk_is_next and self._batch is None:
            self._chunk_is_next = False
            if (chunk := self._next_chunk()) is not None:
                return chunk
        while True:
            if self._batch is None and (self._queue or self._released) and not self._holds_back:
                self._encode_batch()
            if self._batch is not None:
                # Chunks must not eat the credit that a batch waits for.
                return self._next_batch()
            if self._boarding:
                self._board()
            if self._voyages:
                return self._next_chunk()
            # Only what could not board has released others.
            if not (self._queue or self._released) or self._holds_back:
                return None

    @property
    def _holds_back(self) -> bool:
        """Whether to wait for credit, or for a full batch: a peer with much to read gets through large ones faster."""
        if self._window - self._credit < frame.AHEAD_BYTES or self._chunks or self._held:
            return False
        return self.waiting_bytes < self._batch_bytes and len(self._queue) < frame.BATCH_ENVELOPES

    def unsent(self) -> list[Envelope]:
        """What was never handed out, at least not to its last byte, in the order of sending."""
        entries = [voyage.entry for voyage in self._voyages]
        entries.extend(self._boarding)
        entries.extend(self._released)
        for held in self._held.values():
            entries.extend(held)
        batched: list[Envelope] = []
        for item in self._batched:
            if isinstance(item, _Entry):
                entries.append(item)
            else:
                batched.append(item)
        entries.sort(key=lambda entry: entry.place)
        return [*batched, *(entry.envelope for entry in entries), *self._queue]

    # Batches

    def _next_batch(self) -> bytes | None:
        batch = self._batch
        if batch is None or len(batch) > self._credit:
            return None
        self._credit -= len(batch)
        self._batch = None
        self._batched = []
        self._chunk_is_next = True
        if self._boarding:
            self._board()
        return frame.batch_frame(batch)

    def _encode_batch(self) -> None:
        queue = self._queue
        if (
            self._queued_bytes <= self._batch_bytes
            and len(queue) <= frame.BATCH_ENVELOPES
            and not (self._large_queued or self._held or self._released)
        ):
            batch = list(queue)
            try:
                data = frame.encode(batch)
            except Exception:
                # One of them cannot be encoded: the careful way finds it.
                data = b""
            if data and len(data) <= 2 * self._batch_bytes:
                queue.clear()
                self._queued_bytes = 0
                self._batch = data
                self._batched = batch
                return
        picked = self._pick(exact=False)
        if not picked:
            return
        try:
            data = frame.encode([entry.envelope for entry in picked])
        except Exception:
            data = b""
        if not data or len(data) > 2 * self._batch_bytes:
            # The weights were far off, or one cannot be encoded: once more, weighing by encoding.
            self._released.extendleft(reversed(picked))
            self._aside_bytes += sum(entry.weight for entry in picked)
            picked = self._pick(exact=True)
            if not picked:
                return
            data = frame.encode([entry.envelope for entry in picked])
        self._batch = data
        self._batched = picked

    def _pick(self, *, exact: bool) -> list[_Entry]:
        """Take what fits one batch from the front, sending the large on their voyage and holding those behind them."""
        picked: list[_Entry] = []
        room = self._batch_bytes
        while len(picked) < frame.BATCH_ENVELOPES and (self._released or self._queue):
            if not self._released:
                entry = self._take_entry()
                if entry.key in self._held:
                    self._hold(entry)
                    continue
                self._release(entry)
            entry = self._released[0]
            if exact and not self._weigh_exactly(entry):
                self._unrelease()
                continue
            if entry.weight > self._large:
                self._embark(self._unrelease(), exact=exact)
                continue
            if picked and entry.weight > room:
                break
            picked.append(self._unrelease())
            room -= entry.weight
        return picked

    def _take_entry(self) -> _Entry:
        envelope = self._queue.popleft()
        weight = frame.weigh(envelope)
        self._queued_bytes -= weight
        if weight > self._large:
            self._large_queued -= 1
        self._place += 1
        return _Entry(envelope, self._key(envelope), self._place, weight)

    def _key(self, envelope: Envelope) -> _Key:
        """What belongs together: requests of one address; answers of one request; what follows an own request."""
        if isinstance(envelope, Request):
            return envelope.address
        if isinstance(envelope, Query):  # that an actor has moved comes after the messages that follow it
            return envelope.argument or -1 - envelope.id
        if isinstance(envelope, (Leave, Credit, Resolve)):
            # Ids of own requests, while answers carry ids of the peer's: -1 - id keeps the two apart.
            return self._request_keys.get(envelope.id, -1 - envelope.id)
        return envelope.id

    def _weigh_exactly(self, entry: _Entry) -> bool:
        """Correct the weight of a released entry; False if it cannot be encoded and was answered by a failure."""
        try:
            weight = len(frame.encode(entry.envelope))
        except Exception as error:
            self._fail(entry.envelope, "SerializationFailed", f"the message cannot be encoded: {error}")
            return False
        self._aside_bytes += weight - entry.weight
        entry.weight = weight
        return True

    def _release(self, entry: _Entry) -> None:
        self._aside_bytes += entry.weight
        self._released.append(entry)

    def _unrelease(self) -> _Entry:
        entry = self._released.popleft()
        self._aside_bytes -= entry.weight
        return entry

    def _fail(self, envelope: Envelope, error: str, text: str) -> None:
        """Nothing can be sent for this envelope: whoever waits for it gets a failure instead."""
        if isinstance(envelope, (Request, Resolve, Query)):
            about = envelope.argument if isinstance(envelope, Query) else envelope.address
            about = about.encode("utf-8", "replace").decode()
            self.returned.append(Failure(envelope.id, error, f"{about}: {text}"))
        elif not isinstance(envelope, (Leave, Credit)):
            try:
                frame.encode(failure := Failure(envelope.id, error, text))
            except Exception:
                return  # not even its id can be encoded
            self.push(failure)

    # Large envelopes

    def _embark(self, entry: _Entry, *, exact: bool) -> None:
        held = self._held.setdefault(entry.key, deque())
        if exact:
            # It looked small, so what belongs behind it was not held.
            held.extendleft(reversed([other for other in self._released if other.key == entry.key]))
            self._released = deque(other for other in self._released if other.key != entry.key)
        self._boarding.append(entry)
        self._note(entry)

    def _hold(self, entry: _Entry) -> None:
        self._held[entry.key].append(entry)
        self._note(entry)

    def _note(self, entry: _Entry) -> None:
        self._aside_bytes += entry.weight
        if isinstance(entry.envelope, Request):
            self._request_keys[entry.envelope.id] = entry.envelope.address

    def _board(self) -> None:
        """Encode large envelopes while the peer has room to put them together again."""
        while self._boarding and len(self._voyages) < _TRAVELLING:
            entry = self._boarding[0]
            travelling = sum(len(voyage.data) for voyage in self._voyages)
            # The slack covers what a weight leaves out; the check after encoding is the one that counts.
            if self._voyages and travelling + entry.weight + frame.LARGE_BYTES > 2 * self._max_payload:
                return
            self._boarding.popleft()
            try:
                data = frame.encode(entry.envelope)
            except Exception as error:
                self._fail(entry.envelope, "SerializationFailed", f"the message cannot be encoded: {error}")
                self._arrive(entry)
                continue
            if len(data) > self._max_payload:
                text = f"a message of {len(data):,} bytes is over the limit of {self._max_payload:,} of {self._peer}"
                self._fail(entry.envelope, "PayloadTooLarge", text)
                self._arrive(entry)
                continue
            if self._voyages and travelling + len(data) > 2 * self._max_payload:
                self._boarding.appendleft(entry)
                return
            self._voyage_id += 1
            self._voyages.append(_Voyage(entry, data, self._voyage_id))

    def _next_chunk(self) -> bytes | None:
        voyage = self._voyages[0]
        size = min(self._large, len(voyage.data) - voyage.sent)
        if size > self._credit or self._chunks_under_way + size > self._chunk_bytes:
            return None
        data = voyage.data[voyage.sent : voyage.sent + size]
        self._credit -= size
        self._chunks_under_way += size
        # All that was ever sent is what the peer has returned, and what is missing from its window.
        self._chunks.append((self._returned + self._window - self._credit, size))
        self._voyages.popleft()
        total = 0 if voyage.sent else len(voyage.data)
        voyage.sent += size
        if voyage.sent < len(voyage.data):
            self._voyages.append(voyage)
        else:
            self._arrive(voyage.entry)
            self._board()
        return frame.chunk_frame(voyage.id, total, data)

    def _arrive(self, entry: _Entry) -> None:
        """A large envelope is gone: what waited behind it may follow, up to and including the next large one."""
        self._aside_bytes -= entry.weight
        if isinstance(entry.envelope, Request):
            self._request_keys.pop(entry.envelope.id, None)
        held = self._held[entry.key]
        while held:
            follower = held.popleft()
            self._released.append(follower)
            if isinstance(follower.envelope, Request):
                self._request_keys.pop(follower.envelope.id, None)
            if follower.weight > self._large:
                return
        del self._held[entry.key]
