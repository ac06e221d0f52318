"""What a subscription knows, and what is said about it."""

from typing import Literal, TypeAlias

import msgspec

from cluster.gateway.streams.index import matches


class SubscriptionConfig(msgspec.Struct, frozen=True):
    """What a client asked for, in a normal form: equal configurations are equal values."""

    type: Literal["webhook", "pull-wake"]
    pattern: str | None = None
    streams: tuple[str, ...] = ()
    webhook_url: str | None = None
    webhook_local: bool = False
    """Whether the webhook may be on this machine."""
    wake_stream: str | None = None
    lease_ttl_ms: int = 30_000
    description: str | None = None


class Link(msgspec.Struct):
    """A stream of a subscription: up to where it was processed, and up to where it goes."""

    acked: str
    tail: str

    @property
    def pending(self) -> bool:
        """Whether there is something to process."""
        return self.tail > self.acked


class SubscriptionState(msgspec.Struct):
    """The state of a subscription; without a configuration there is none of that name."""

    name: str = ""
    config: SubscriptionConfig | None = None
    root: str = ""
    """URL of the streams, as the client that made the subscription knows it."""
    created_at: str = ""
    explicit: dict[str, bool] = {}
    links: dict[str, Link] = {}
    generation: int = 0
    wake_id: str = ""
    """The wake that is in flight, or is held; empty: the subscription is idle."""
    token: str = ""
    holder: str | None = None
    lease_until: float = 0.0
    failures: int = 0
    next_attempt: float = 0.0

    def link_type(self, path: str) -> str | None:
        """How the subscription has the stream; None if it does not."""
        if path in self.explicit:
            return "explicit"
        pattern = self.config.pattern if self.config is not None else None
        return "glob" if pattern is not None and matches(pattern, path) else None


class StreamInfo(msgspec.Struct, frozen=True):
    """A stream as a worker is told of it."""

    path: str
    link_type: str
    acked_offset: str
    tail_offset: str
    has_pending: bool


class SubscriptionInfo(msgspec.Struct, frozen=True):
    """A subscription as its clients see it."""

    name: str
    config: SubscriptionConfig
    root: str
    created_at: str
    streams: list[StreamInfo]
    failing: bool


class Grasp(msgspec.Struct, frozen=True):
    """What proves that somebody holds a wake."""

    wake_id: str
    generation: int
    token: str


class Ack(msgspec.Struct, frozen=True):
    """Up to where a stream was processed."""

    stream: str
    offset: str


SubscriptionCode: TypeAlias = Literal[
    "ok", "created", "missing", "conflict", "fenced", "claimed", "nothing", "wrong_type", "invalid"
]


class SubscriptionOutcome(msgspec.Struct, frozen=True):
    """What came of a request to a subscription."""

    code: SubscriptionCode
    info: SubscriptionInfo | None = None
    grasp: Grasp | None = None
    holder: str | None = None
    generation: int = 0
    next_wake: bool = False


class Delivery(msgspec.Struct, frozen=True):
    """A wake on its way to a webhook."""

    subscription: str
    url: str
    local: bool
    callback_url: str
    grasp: Grasp
    streams: list[StreamInfo]
    timeout: float
