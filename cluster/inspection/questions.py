"""What operators ask a silo, as the argument of a ``Query``."""

from typing import TypeVar

import msgspec

from actors.errors import Rejected

T = TypeVar("T")


class ChannelQuestion(msgspec.Struct):
    """Which entries of a channel: those behind offset ``after``."""

    address: str
    channel: str
    after: int | None = None


class ParkedQuestion(msgspec.Struct):
    """Which parked messages: of an address, of a type, or (both empty) all."""

    address: str = ""
    type: str = ""
    message_id: str = ""
    """This message only, with its journal."""
    after: tuple[str, str] | None = None
    """Those behind this address and key (in hex), as the answer before said."""


def read_question(text: str, kind: type[T]) -> T:
    """The question that was asked. Raises ``Rejected``."""
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise Rejected(f"a malformed question: {error}") from None
