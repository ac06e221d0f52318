"""The limits of a runtime."""

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of a runtime. Times in seconds, sizes in bytes."""

    call_timeout: float = 300.0
    """How long a call waits for its result, and a stream for its next item, unless ``options`` says otherwise."""
    delivery_timeout: float = 30.0
    """How long a message that cannot be delivered is kept before ``ClusterUnavailable``."""
    activation_timeout: float = 30.0
    """How long loading the state and on_activate, or on_deactivate, may take."""
    max_step_threads: int = 256
    """How many plain functions of steps may run at a time, each in a thread of its own; further ones wait."""
    max_payload: int = 64 * 2**20 + 1024
    """Largest encoded message, result or item."""
    max_calls: int = 50_000
    """How many asks and sends may be under way: own ones, and apart from these those of others, until answered."""
    max_streams: int = 100_000
    """How many streams may be under way, readers of channels included: own ones, and apart from these others'."""
    max_call_bytes: int = 256 * 2**20
    """About how much the messages of others may take until they are answered."""
    max_waiting_bytes: int = 512 * 2**20
    """About how much may wait in all mailboxes together."""
    max_mailbox_bytes: int = 256 * 2**20
    """Most bytes that may wait in one mailbox; one message is always let in."""
    max_held_bytes: int = 256 * 2**20
    """About how much may wait in all for owners to be found."""
    max_routes: int = 100_000
    """How many addresses' owners are remembered."""
    retention: float = 24 * 3600.0
    """How long the answer to a message is kept for repeats of it: those with its idempotency key, and those of callers
    that never said that they have it."""
    max_attempts: int = 5
    """How often a call is sent again when the silo that had it was lost, before ``ConnectionLost``."""
    reconnect_grace: float = 5.0
    """How long a client whose link is gone has to ask again before what it tied to itself is interrupted."""
    interrupt_patience: float = 10.0
    """After how long a turn that was interrupted and goes on is reported."""
    allow_downgrade: bool = False
    """Whether older code takes actors that newer code has written also where that loses something."""
    max_adoptions: int = 3
    """How often a message is started again whose silo was lost while it ran, before it is parked."""
