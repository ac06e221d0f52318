"""What is to stop, and why."""

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

Reason: TypeAlias = Annotated[str, Meta(max_length=1000)]
MessageId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]


class Interrupt(msgspec.Struct, frozen=True, kw_only=True):
    """The body of an interrupt. ``message_id``: stop the turn of this message, and no other one."""

    reason: Reason = ""
    message_id: MessageId | None = None
