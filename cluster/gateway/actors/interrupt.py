"""What is to stop, and why."""

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from cluster.gateway.json_values import read_json
from cluster.gateway.problems import bad_request

Reason: TypeAlias = Annotated[str, Meta(max_length=1000)]
MessageId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]


class Interrupt(msgspec.Struct, frozen=True, kw_only=True):
    """The body of an interrupt. ``message_id``: stop the turn of this message, and no other one."""

    reason: Reason = ""
    message_id: MessageId | None = None


def interrupt_of(body: bytes) -> Interrupt:
    """What the body of a request says, which may be empty. Raises ``Problem`` 400."""
    given = read_json(body) if body.strip() else {}
    try:
        return msgspec.convert(given, Interrupt)
    except msgspec.ValidationError as error:
        detail = f'an interrupt takes {{"reason": "...", "message_id": "..."}}, or nothing: {error}'
        raise bad_request(detail) from None
