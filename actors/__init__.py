"""Virtual actors for AI agents: the model."""

from actors.actor import Actor
from actors.channel import Channel, Event
from actors.context import Context
from actors.errors import (
    ActorError,
    ActorFailed,
    Busy,
    CallCycle,
    ClusterUnavailable,
    ConnectionLost,
    IdempotencyKeyReused,
    Interrupted,
    MailboxFull,
    MessageParked,
    NotAuthorized,
    NotRepeated,
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
from actors.journal import Retry
from actors.ref import ActorRef, Receipt, actor_ref
from actors.timer import Timer

__all__ = [
    "Actor",
    "ActorError",
    "ActorFailed",
    "ActorRef",
    "Busy",
    "CallCycle",
    "Channel",
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
    "OutcomeUnknown",
    "PayloadTooLarge",
    "Receipt",
    "Rejected",
    "Retry",
    "SerializationFailed",
    "StateUnreadable",
    "StepInterrupted",
    "Timeout",
    "Timer",
    "TurnInterrupted",
    "UnknownActorType",
    "UnknownHandler",
    "actor_ref",
    "handler",
]
