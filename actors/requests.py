"""From a call in somebody's code to a request: its message id, its options, and what it acknowledges."""

import hashlib
import itertools
import secrets
from collections.abc import Iterable

from actors import codec
from actors.context import current_turn, gathering_turn
from actors.envelope import Mode, Request
from actors.errors import PayloadTooLarge
from actors.handler import HandlerSpec
from actors.ref import ActorRef, current_client
from actors.settings import Settings

_NO_HEADERS: dict[str, str] = {}
_MOST_ACKNOWLEDGED = 64  # in one request
_MOST_KEPT = 100_000  # addresses; what is forgotten is kept by its receiver until it expires


class Requests:
    """Makes the requests of one runtime."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ids = itertools.count(1)
        self._name = secrets.token_hex(8)  # with the counter: message ids that are unique in the cluster
        self._acknowledged: dict[str, list[str]] = {}

    def next_id(self) -> int:
        """A request id that was never used on any link of this runtime."""
        return next(self._ids)

    def make(
        self,
        ref: ActorRef,
        handler: str,
        args: tuple[object, ...],
        kwargs: dict[str, object],
        mode: Mode,
        spec: HandlerSpec | None,
    ) -> Request:
        """The request of a call. Raises ``SerializationFailed``, ``PayloadTooLarge`` or ``ValueError``."""
        where = f"{ref.address}.{handler or 'receive'}"
        payload = codec.encode_arguments(where, args, kwargs, spec.fits if spec is not None else _never)
        self.check_size(payload, where)
        options = ref._options
        timeout = (options.timeout if options is not None else None) or self._settings.call_timeout
        number = next(self._ids)
        turn = current_turn.get(None)
        request = Request(
            number,
            ref.address,
            handler,
            payload,
            mode,
            0.0 if timeout == float("inf") else timeout,
            self._message_id(ref.address, handler, payload, mode, number),
            turn.address if turn is not None else "",
            turn.chain if turn is not None and mode is not Mode.SEND else (),
            spec is not None and spec.result_typed,
            options.idempotency_key if options is not None else "",
            dict(options.headers) if options is not None and options.headers else _NO_HEADERS,
        )
        if turn is None:
            request.client = current_client.get()
        if options is not None and options.outside:
            request.outside, request.trusted, request.typed = True, False, False
        if options is not None and options.cancel_with_caller:
            request.cancel_with_caller = True
        if options is not None and options.on_busy:
            request.on_busy = options.on_busy
            if request.on_busy == "steer" and mode is Mode.STREAM:
                raise ValueError(f"{where}: a stream cannot steer a turn: who reads it waits for its items")
        if request.key and mode is Mode.STREAM:
            raise ValueError(f"{where}: a stream cannot have an idempotency key: its items belong to one call")
        if self._acknowledged:
            request.done = self._take(ref.address)
        return request

    def _message_id(self, address: str, handler: str, payload: bytes, mode: Mode, number: int) -> str:
        """New for every message, except that a turn that runs again asks with the ids of the first time."""
        turn = gathering_turn() if mode is Mode.ASK else None
        if turn is not None:
            digest = hashlib.blake2b(payload, digest_size=8)
            digest.update(f"{address}\0{handler}".encode())
            return turn.call_id(digest.digest())
        return f"{self._name}-{number:x}"

    def new_message_id(self) -> str:
        """An id that no message in the cluster has."""
        return f"{self._name}-{next(self._ids):x}"

    def check_size(self, payload: bytes, where: str) -> None:
        """Raise ``PayloadTooLarge`` if the payload is over the limit."""
        if len(payload) > self._settings.max_payload:
            raise PayloadTooLarge(
                f"{where} has {len(payload)} bytes, the limit is {self._settings.max_payload}; send a reference to the "
                "data, or parts of it"
            )

    def acknowledge(self, answers: Iterable[tuple[str, str]]) -> None:
        """The answers to these messages (address and id) are here for good: tell their actors with the next request."""
        for address, message_id in answers:
            ids = self._acknowledged.get(address)
            if ids is None:
                if len(self._acknowledged) >= _MOST_KEPT:
                    del self._acknowledged[next(iter(self._acknowledged))]
                ids = self._acknowledged[address] = []
            ids.append(message_id)

    def _take(self, address: str) -> tuple[str, ...]:
        ids = self._acknowledged.pop(address, None)
        if ids is None:
            return ()
        if len(ids) > _MOST_ACKNOWLEDGED:
            self._acknowledged[address] = ids[_MOST_ACKNOWLEDGED:]
        return tuple(ids[:_MOST_ACKNOWLEDGED])


def _never(_: int | str, __: object) -> bool:
    return False
