"""Virtual actors for AI agents: the model."""

from actors.actor import Actor
from actors.channel import Channel, Event
from actors.context import Context
from actors.errors import (
    ActorError,
    ActorFailed,
    Busy,
    CallCycle,
    ChannelClosed,
    ClusterUnavailable,
    ConnectionLost,
    IdempotencyKeyReused,
    Interrupted,
    MailboxFull,
    MessageParked,
    NotAuthorized,
    NotRepeated,
    OffsetGone,
    OutcomeUnknown,
    PayloadTooLarge,
    Rejected,
    SerializationFailed,
    StateUnreadable,
    StepInterrupted,
    Timeout,
    TurnInterrupted,
    UnknownActorType,
    UnknownHandler,
)
from actors.handler import handler
from actors.ref import ActorRef, Receipt, Steered, actor_ref
from actors.retention import Retention
from actors.retry import Retry
from actors.timer import Timer

__all__ = [
    "Actor",
    "ActorError",
    "ActorFailed",
    "ActorRef",
    "Busy",
    "CallCycle",
    "Channel",
    "ChannelClosed",
    "ClusterUnavailable",
    "ConnectionLost",
    "Context",
    "Event",
    "IdempotencyKeyReused",
    "Interrupted",
    "MailboxFull",
    "MessageParked",
    "NotAuthorized",
    "NotRepeated",
    "OffsetGone",
    "OutcomeUnknown",
    "PayloadTooLarge",
    "Receipt",
    "Rejected",
    "Retention",
    "Retry",
    "SerializationFailed",
    "StateUnreadable",
    "Steered",
    "StepInterrupted",
    "Timeout",
    "Timer",
    "TurnInterrupted",
    "UnknownActorType",
    "UnknownHandler",
    "actor_ref",
    "handler",
]
