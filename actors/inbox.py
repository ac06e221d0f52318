"""Which messages an actor has had already: the unsettled ones, the answers of the settled ones, and who sent what."""

import hashlib
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from actors import records
from actors.envelope import Failure, Mode, Reply, Request
from actors.errors import ClusterUnavailable, IdempotencyKeyReused, MessageParked, Rejected
from actors.ports import Store
from actors.records import BESIDE, INTERRUPT, KEYED, MESSAGE, PAIR, Done, Interrupt, Keyed, encode

if TYPE_CHECKING:
    from actors.activation import Activation
    from actors.turn import Turn

log = logging.getLogger("actors")

_EXPIRED_AT_ONCE = 64
_PURGE_EVERY = 60.0
_MOST_PAIRS = 10_000
_answers = msgspec.msgpack.Decoder(Reply | Failure)


class Inbox:
    """Tells new messages from those that came before, and answers the latter as before.

    A message is known by its id, by its idempotency key, or, from another actor's outbox, by its number: the numbers of
    one sender rise. Ids are kept until the sender says that it has the answer, or for ``Settings.retention`` seconds.
    """

    __slots__ = (
        "_activation", "_answered", "_before", "_forgotten", "_interrupts", "_keys", "_pairs", "_purge_at", "_turns",
        "parked",
    )  # fmt: skip

    def __init__(self, activation: "Activation") -> None:
        self._activation = activation
        self._turns: dict[str, Turn] = {}
        self._answered: dict[str, tuple[bytes, float]] = {}  # number and expiry, by message id, oldest first
        self._keys: dict[str, Turn] | None = None
        self._pairs: dict[str, bytes] | None = None
        self._before = b""  # what the newest entry of these has replaced
        self._forgotten: list[bytes] = []
        self._interrupts: dict[str, Interrupt] | None = None  # by the id of a message that has not come again yet
        self._purge_at = 0.0
        self.parked: dict[str, str] = {}
        """Why, by message id."""

    @property
    def _store(self) -> Store:
        return self._activation.runtime.store

    def _now(self) -> float:
        return self._activation.runtime.clock.time()

    def restore(self, done: Done, number: bytes) -> None:
        """A settled message that was stored."""
        self._answered[done.message_id] = number, done.expires

    def restore_interrupt(self, message_id: str, interrupt: Interrupt) -> None:
        """A message was to be stopped when its silo was lost: it is as soon as it comes again, if it does."""
        if interrupt.at + self._activation.runtime.settings.retention < self._now():
            self._forgotten.append(INTERRUPT + message_id.encode())
            return
        self._interrupts = self._interrupts or {}
        self._interrupts[message_id] = interrupt

    def find(self, message_id: str) -> "Turn | None":
        """The unsettled message of that id."""
        return self._turns.get(message_id)

    def turns(self) -> "Iterable[Turn]":
        """The unsettled messages, oldest first."""
        return self._turns.values()

    def holds(self, turn: "Turn") -> bool:
        """Whether the turn's message is unsettled."""
        return self._turns.get(turn.request.message_id) is turn

    def add(self, turn: "Turn") -> None:
        """A message that is known to be new."""
        if not turn.number:
            turn.number = self._activation.durable_side.next_number()
        self._turns[turn.request.message_id] = turn
        if self._interrupts and turn.request.message_id in self._interrupts:
            interrupt = self._interrupts.pop(turn.request.message_id)
            turn.interruption.note([interrupt.reason, *interrupt.later], rollback=interrupt.rollback)
        if turn.request.key:
            self._keys = self._keys or {}
            self._keys[turn.request.key] = turn

    def refused(self, turn: "Turn") -> None:
        """The message is not taken: when it comes again it is new."""
        self.remove(turn)
        sender, number = turn.request.sender, turn.request.number
        if number and not turn.row and self._pairs and self._pairs.get(sender) == number:
            self._pairs[sender] = self._before

    def remove(self, turn: "Turn") -> None:
        """The message is settled."""
        if self.holds(turn):
            del self._turns[turn.request.message_id]
        if self._keys and self._keys.get(turn.request.key) is turn:
            del self._keys[turn.request.key]

    # -- is it new? -------------------------------------------------------------------------------------------------

    def must_look_up(self, request: Request) -> bool:
        """Whether only the store knows if this message is new."""
        if request.key and (self._keys is None or request.key not in self._keys):
            return True
        return bool(request.number) and (self._pairs is None or request.sender not in self._pairs)

    async def look_up(self, request: Request) -> Keyed | None:
        """Learn what the store knows of the message's sender and idempotency key. Raises ``StoreUnavailable``."""
        if self._pairs is None:
            self._pairs = {}
        if request.number and request.sender not in self._pairs:
            if len(self._pairs) >= _MOST_PAIRS:
                del self._pairs[next(iter(self._pairs))]  # the store has it
            self._pairs.setdefault(request.sender, await self._value(PAIR + request.sender.encode()) or b"")
        if request.key and not (self._keys and request.key in self._keys):
            value = await self._value(KEYED + request.key.encode())
            keyed = msgspec.msgpack.decode(value, type=Keyed) if value is not None else None
            if keyed is not None and keyed.expires > self._now():
                return keyed
        return None

    async def _value(self, key: bytes) -> bytes | None:
        rows = await self._store.read(self._activation.address, key, key + b"\0", limit=1)
        return rows[0][1] if rows else None

    def enter(self, turn: "Turn", keyed: Keyed | None = None) -> bool:
        """Tell whether the message is new. If not, its sender gets, now or later, the answer that there is."""
        request = turn.request
        self.acknowledged(request.done)
        known = self._turns.get(request.message_id)
        if known is None and request.key and self._keys:
            known = self._keys.get(request.key)
        if known is not None:
            if self._same(turn, _digest(known.request)):
                turn.known_as = known.request.message_id
                known.join(turn)
        elif keyed is not None:
            if self._same(turn, keyed.digest):
                turn.known_as = keyed.message_id
                turn.answer_again(_answers.decode(keyed.answer))
        elif request.message_id in self._answered:
            self._activation.runtime.spawn(self._answer_again(turn, self._answered[request.message_id][0]))
        elif request.message_id in self.parked:
            self._is_parked(turn)
        elif not request.number or self._is_next(turn):
            self.add(turn)
            return True
        return False

    def _is_parked(self, turn: "Turn") -> None:
        if turn.request.mode is Mode.SEND:
            turn.accepted()  # it is there, for an operator
        else:
            reason = self.parked[turn.request.message_id]
            turn.refuse(MessageParked(f"{turn.where}: the message is parked: {reason}"))

    @staticmethod
    def _same(turn: "Turn", digest: bytes) -> bool:
        """Whether it is the message that had this idempotency key before; if not, it is refused."""
        request = turn.request
        if not request.key or digest == _digest(request):
            return True
        turn.refuse(
            IdempotencyKeyReused(f"{turn.where}: another message to this actor had the idempotency key {request.key!r}")
        )
        return False

    def _is_next(self, turn: "Turn") -> bool:
        request = turn.request
        assert self._pairs is not None  # it was looked up
        last = self._pairs.get(request.sender, b"")
        if request.number <= last:
            turn.accepted()
            return False
        if request.previous > last:
            turn.refuse(Rejected(f"{turn.where}: an earlier message of {request.sender} was not accepted"))
            return False
        self._before, self._pairs[request.sender] = last, request.number
        return True

    async def _answer_again(self, turn: "Turn", number: bytes) -> None:
        try:
            value = await self._value(MESSAGE + number)
            row = records.message_rows.decode(value) if value is not None else None
            answer = row.answer if isinstance(row, Done) else b""
            answer = answer or await self._value(BESIDE + MESSAGE + number) or b""
        except Exception as error:
            turn.refuse(ClusterUnavailable(f"{turn.where}: it ran, but its answer cannot be read now: {error}"))
        else:
            turn.answer_again(_answers.decode(answer) if answer else None)

    # -- what is kept of a settled message --------------------------------------------------------------------------

    def keep_answer(self, turn: "Turn", answer: bytes, put: dict[bytes, bytes]) -> bool:
        """Add to a commit what a repeat of the message will be answered; whether the message's row says so now."""
        request = turn.request
        expires = self._now() + self._activation.runtime.settings.retention
        if request.key and turn.answerable:
            put[KEYED + request.key.encode()] = encode(Keyed(_digest(request), request.message_id, answer, expires))
            put[records.expiry_key(expires, request.key)] = b""
            self._purge()
            return False
        if not turn.recorded or request.number or not turn.answerable:
            return False
        number = turn.number
        if len(answer) > records.LARGE:
            put[BESIDE + MESSAGE + number], answer = answer, b""
        put[MESSAGE + number] = encode(Done(request.message_id, expires, answer))
        turn.kept_until = expires
        return True

    def settled(self, turn: "Turn") -> None:
        """The turn's commit is applied. Until now repeats joined the turn; from now on they get what was kept."""
        self.remove(turn)
        if turn.kept_until:
            self._answered[turn.request.message_id] = turn.number, turn.kept_until
            if not turn.recorded:
                self._forget(turn.request.message_id)

    def acknowledged(self, message_ids: Iterable[str]) -> None:
        """The sender of these messages has their answers."""
        for message_id in message_ids:
            self._forget(message_id)

    def _forget(self, message_id: str) -> None:
        """The sender has the answer and will not ask again."""
        answered = self._answered.pop(message_id, None)
        if answered is not None:
            self._forgotten += (MESSAGE + answered[0], BESIDE + MESSAGE + answered[0])
        elif message_id in self._turns:
            self._turns[message_id].recorded = False

    def take_forgotten(self) -> list[bytes]:
        """The keys of rows that the next commit removes."""
        now = self._now()
        while self._answered and len(self._forgotten) < _EXPIRED_AT_ONCE:
            message_id, (_, expires) = next(iter(self._answered.items()))
            if expires > now:
                break
            self._forget(message_id)
        forgotten, self._forgotten = self._forgotten, []
        return forgotten

    def _purge(self) -> None:
        now = self._now()
        if now >= self._purge_at:
            self._purge_at = now + _PURGE_EVERY
            self._activation.runtime.spawn(self._look_for_expired_keys(now))

    async def _look_for_expired_keys(self, now: float) -> None:
        try:
            await self._find_expired_keys(now)
        except Exception as error:
            log.warning("%s: expired idempotency keys stay for now: %s", self._activation.address, error)

    async def _find_expired_keys(self, now: float) -> None:
        address = self._activation.address
        expired = await self._store.read(address, records.EXPIRY, records.expiry_key(now, ""), limit=1000)
        for key, _ in expired:
            value = await self._value(KEYED + key[9:])
            if value is not None and msgspec.msgpack.decode(value, type=Keyed).expires <= now:
                self._forgotten.append(KEYED + key[9:])
            self._forgotten.append(key)


def _digest(request: Request) -> bytes:
    """What makes two messages with one idempotency key the same."""
    return hashlib.blake2b(request.payload, digest_size=16, person=b"", key=request.handler.encode()[:64]).digest()
