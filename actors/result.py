"""What handlers return and yield, as bytes."""

from typing import TYPE_CHECKING

from actors import codec
from actors.errors import ActorError, PayloadTooLarge, SerializationFailed

if TYPE_CHECKING:
    from actors.turn import Turn


class Unsendable(Exception):
    """A result cannot be sent, or a state not be stored, for this reason."""

    def __init__(self, reason: ActorError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def encode(turn: "Turn", value: object, what: str) -> bytes:
    """A result or an item (``what``), for the wire. Raises ``Unsendable``."""
    runtime = turn.activation.runtime
    try:
        if turn.request.outside:
            payload = codec.encode_outside(value)
        else:
            payload = codec.encode(value, turn.spec.fits_result if turn.request.typed else codec.is_plain)
    except Exception as error:  # whatever a value's own pickling raises
        text = f"{turn.where}: its {what} ({type(value).__name__}) cannot be serialized: {error}"
        raise Unsendable(SerializationFailed(f"{text}; the turn committed nothing")) from error
    if len(payload) > runtime.settings.max_payload:
        try:
            runtime.check_size(payload, f"{turn.where}: its {what}")
        except PayloadTooLarge as error:
            raise Unsendable(error) from None
    return payload
