"""What can go wrong with a call, grouped by what the caller may do next.

    ActorError
    ├── Rejected                certainly took no effect: retrying is safe
    │   ├── UnknownActorType    no silo of the cluster hosts the type
    │   ├── UnknownHandler      the type has no such handler
    │   ├── Busy                the actor is running a turn and was asked not to queue
    │   ├── MailboxFull         the actor or the way to it has too much waiting
    │   ├── PayloadTooLarge     over the limit for one message
    │   ├── NotAuthorized       the caller may not do this
    │   ├── SerializationFailed a value cannot cross, or does not fit the handler's annotations
    │   ├── ClusterUnavailable  no silo, directory or store could be reached in time
    │   ├── CallCycle           the call came back to an actor that waits for it
    │   ├── IdempotencyKeyReused another message had this idempotency key
    │   ├── OffsetGone          what a reader of a channel has yet to read is not retained any more
    │   ├── ChannelClosed       nothing can be published there any more
    │   └── StateUnreadable     the stored state does not fit the state class; it was left untouched
    ├── OutcomeUnknown          may have run: retry only what is idempotent
    │   ├── Timeout             no answer within the deadline
    │   ├── ConnectionLost      the host of the actor was lost while the call was under way
    │   │   └── NotRepeated     the actor is not durable, so that the call was not sent again
    │   └── MessageParked       it failed again and again, or does not fit the code; an operator has to decide
    ├── ActorFailed             the actor's own code raised
    └── TurnInterrupted         somebody interrupted the turn

A malformed address is a plain ``ValueError``. Inside a turn two exceptions derive from ``BaseException``, so that a
broad ``except Exception`` cannot swallow them: ``Interrupted`` and ``StepInterrupted``.
"""


class ActorError(Exception):
    """Base of everything that a call to an actor can raise, ``ValueError`` for a malformed address aside."""


class Rejected(ActorError):
    """The message certainly took no effect; sending it again is safe."""


class UnknownActorType(Rejected):
    """No live silo hosts the address's type. The message lists the types that are known."""


class UnknownHandler(Rejected):
    """The actor type has no handler of that name. The message lists the handlers that it has."""


class Busy(Rejected):
    """The actor was running a turn and the message asked not to wait for it."""


class MailboxFull(Rejected):
    """Too much is waiting already: in the actor's mailbox (``max_queue``) or on the link to its silo."""


class PayloadTooLarge(Rejected):
    """The encoded message is larger than the limit of the cluster (64 MiB unless configured)."""


class NotAuthorized(Rejected):
    """The caller's credentials do not allow this."""


class SerializationFailed(Rejected):
    """An argument or result cannot be encoded, or does not fit the handler's annotations.

    For an argument nothing was sent. For a result the turn committed nothing.
    """


class ClusterUnavailable(Rejected):
    """No silo, directory or store could be reached in time, and the message was certainly not delivered."""


class CallCycle(Rejected):
    """The call came back (A -> B -> A) to an actor whose turn is waiting for it. The message names the cycle."""


class IdempotencyKeyReused(Rejected):
    """Another message to the same actor had this idempotency key within the retention time. This one did not run."""


class OffsetGone(Rejected):
    """What followed the reader's offset in a channel is not retained any more. ``first``: the first offset that is."""

    def __init__(self, text: str, *, first: int = 0) -> None:
        super().__init__(text)
        self.first = first

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), self.args, {"first": self.first}


class ChannelClosed(Rejected):
    """The channel was closed: nothing can be published there any more."""


class StateUnreadable(Rejected):
    """The stored state does not fit the state class. The message names address and field; the bytes stay untouched."""


class OutcomeUnknown(ActorError):
    """The message may have run. Retry only what is idempotent, or give an ``idempotency_key``."""


class Timeout(OutcomeUnknown):
    """No answer came within the deadline. The turn, if it runs, goes on to its end."""


class ConnectionLost(OutcomeUnknown):
    """The silo that had the message was lost before it answered."""


class NotRepeated(ConnectionLost):
    """The silo that had the message was lost, and the actor keeps nothing that would tell whether it ran there."""


class MessageParked(OutcomeUnknown):
    """The message is run no more until an operator says so (``silo parked``).

    Its handler was lost with its silo several times, or what its journal says does not fit the code any more. What its
    finished steps did is done; the turn has committed nothing else.
    """


class ActorFailed(ActorError):
    """The actor's own code raised.

    ``type_name`` is the remote exception's qualified type name, ``message`` its text and ``traceback`` its
    formatted remote traceback. Where the type is known in the calling process, ``__cause__`` is an exception of
    that type.
    """

    def __init__(self, text: str, *, type_name: str = "", message: str = "", traceback: str = "") -> None:
        super().__init__(text)
        self.type_name = type_name
        self.message = message
        self.traceback = traceback

    def __reduce__(self) -> tuple[object, ...]:
        state = {"type_name": self.type_name, "message": self.message, "traceback": self.traceback}
        return type(self), self.args, state


class TurnInterrupted(ActorError):
    """Somebody interrupted the turn before it could answer."""


class Interrupted(BaseException):
    """Raised at the await of a running turn that somebody has interrupted; its argument is the reason.

    The handler may catch it, clean up and reply: what it has published and changed is then committed as usual.
    """


class StepInterrupted(BaseException):
    """Raised inside a turn that runs again: the silo was lost while a ``once=True`` step ran.

    That step may have had effects, and is never run a second time. The handler may catch this and find out what
    happened, or go on without it.
    """
