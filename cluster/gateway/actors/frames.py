"""The frames that clients send over a WebSocket. See docs/gateway-actors.md."""

from typing import Annotated, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from cluster.gateway.actors.interrupt import MessageId, Reason
from cluster.gateway.actors.messages import Message
from cluster.gateway.actors.paths import check_key, check_timeout
from cluster.gateway.problems import bad_request

Id: TypeAlias = Annotated[int, Meta(ge=-(2**53), le=2**53)] | Annotated[str, Meta(min_length=1, max_length=128)]
"""What the client calls a request or subscription; answers carry it."""


class _Frame(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True):
    id: Id
    address: str | None = None
    """None: that of the URL."""


class _Call(_Frame, frozen=True, kw_only=True):
    handler: str = ""
    message: object = UNSET
    args: list[object] | UnsetType = UNSET
    kwargs: dict[str, object] | UnsetType = UNSET
    idempotency_key: str | None = None
    timeout: float | None = None

    def to(self, address: str) -> Message:
        """The message that it asks for. Raises ``Problem``."""
        given = self.args is not UNSET or self.kwargs is not UNSET
        if given and (self.message is not UNSET or not self.handler):
            raise bad_request("args and kwargs are a handler's, and exclude message")
        args = self.args if isinstance(self.args, list) else []
        if self.message is not UNSET:
            args = [self.message]
        elif not self.handler:
            args = [None]
        return Message(
            address=address,
            handler=self.handler,
            args=tuple(args),
            kwargs=self.kwargs if isinstance(self.kwargs, dict) else {},
            timeout=None if self.timeout is None else check_timeout(self.timeout),
            idempotency_key="" if self.idempotency_key is None else check_key(self.idempotency_key),
        )


class SendFrame(_Call, frozen=True, tag="send"):
    """One way: answered by "accepted"."""


class AskFrame(_Call, frozen=True, tag="ask"):
    """Answered by "result", or by "item" frames and "end"."""


class SubscribeFrame(_Frame, frozen=True, kw_only=True, tag="subscribe"):
    """Answered by "subscribed", and then by "event" frames."""

    channel: str = "output"
    after: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    compact: bool = False
    presence: bool = False
    name: Annotated[str, Meta(max_length=128)] = ""
    data: object = None


class UnsubscribeFrame(_Frame, frozen=True, kw_only=True, tag="unsubscribe"):
    """Ends the subscription that has its id, or the items of an ask: answered by "end". Stops nothing that runs."""


class InterruptFrame(_Frame, frozen=True, kw_only=True, tag="interrupt"):
    """Answered by "result"."""

    reason: Reason = ""
    message_id: MessageId | None = None


class PingFrame(_Frame, frozen=True, kw_only=True, tag="ping"):
    """Answered by "pong": pages do not see the pings of WebSockets themselves."""


ClientFrame: TypeAlias = SendFrame | AskFrame | SubscribeFrame | UnsubscribeFrame | InterruptFrame | PingFrame


def read_frame(value: object) -> ClientFrame:
    """The frame in a JSON value. Raises ``Problem`` 400 that says what is wrong with it."""
    try:
        frame: ClientFrame = msgspec.convert(value, ClientFrame)
    except msgspec.ValidationError as error:
        raise bad_request(f"this is no frame: {error}") from None
    return frame


def id_of(value: object) -> int | str | None:
    """The id in what may be no frame, so that its sender finds the error."""
    try:
        found: int | str = msgspec.convert(value.get("id") if isinstance(value, dict) else None, Id)
    except msgspec.ValidationError:
        return None
    return found
