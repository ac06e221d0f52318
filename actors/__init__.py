"""Virtual actors for AI agents: the model."""

from actors.actor import Actor, Context
from actors.errors import (
    ActorError,
    ActorFailed,
    Busy,
    CallCycle,
    ClusterUnavailable,
    ConnectionLost,
    MailboxFull,
    NotAuthorized,
    OutcomeUnknown,
    PayloadTooLarge,
    Rejected,
    SerializationFailed,
    StateUnreadable,
    Timeout,
    TurnInterrupted,
    UnknownActorType,
    UnknownHandler,
)
from actors.handler import handler
from actors.ref import ActorRef, Receipt, actor_ref

__all__ = [
    "Actor",
    "ActorError",
    "ActorFailed",
    "ActorRef",
    "Busy",
    "CallCycle",
    "ClusterUnavailable",
    "ConnectionLost",
    "Context",
    "MailboxFull",
    "NotAuthorized",
    "OutcomeUnknown",
    "PayloadTooLarge",
    "Receipt",
    "Rejected",
    "SerializationFailed",
    "StateUnreadable",
    "Timeout",
    "TurnInterrupted",
    "UnknownActorType",
    "UnknownHandler",
    "actor_ref",
    "handler",
]
