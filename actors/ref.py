"""References: the address of an actor, with the means to call it from wherever the reference is."""

import builtins
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol, get_args

from actors.address import parse_address

if TYPE_CHECKING:
    from actors.actor import Actor
    from actors.channel import Channel


UNSET: Any = object()
INTERRUPT = "$interrupt"
SIGNAL = "$signal"

OnBusy = Literal["queue", "reject", "interrupt", "rollback", "steer"]
"""What a message does to an actor whose turn runs; see ``ActorRef.options``."""
ON_BUSY: Final[tuple[str, ...]] = get_args(OnBusy)


class Receipt(NamedTuple):
    """Proof that a message was accepted. ``message_id`` is unique in the cluster; repeats of a key share one."""

    message_id: str


@dataclass(frozen=True, slots=True)
class Steered:
    """What ``ask`` returns instead of a reply if a running turn has read the message with ``self.steering()``.

    ``message_id`` is that of the message whose turn it was.
    """

    message_id: str


class Options(NamedTuple):
    """What ``ActorRef.options`` sets for the calls made through the reference that it returns.

    ``timeout`` None is the default of the runtime, ``float("inf")`` none at all. ``outside``: the call is made on
    behalf of somebody outside of the cluster. Only public handlers take it, its arguments are fitted to the handler's
    annotations as JSON values are, and neither they nor the result may need a pickle.
    """

    timeout: float | None = None
    headers: tuple[tuple[str, str], ...] = ()
    idempotency_key: str = ""
    outside: bool = False
    on_busy: str = ""
    cancel_with_caller: bool = False


class Caller(Protocol):
    """The runtime as references see it."""

    async def ask(self, ref: "ActorRef", handler: str, args: tuple[object, ...], kwargs: dict[str, object]) -> Any: ...

    async def send(
        self, ref: "ActorRef", handler: str, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> Receipt: ...

    def stream(
        self, ref: "ActorRef", handler: str, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> AsyncIterator[Any]: ...

    async def publish(self, ref: "ActorRef", channel: str, item: object) -> None: ...

    async def close_channel(self, ref: "ActorRef", channel: str) -> None: ...


current_caller: ContextVar[Caller | None] = ContextVar("agentsilo_runtime", default=None)
current_client: ContextVar[str] = ContextVar("agentsilo_client", default="")
"""On whose behalf code outside of actors calls: clients share what room there is."""
_open_callers: list[Caller] = []


def open_caller(caller: Caller) -> None:
    """Make the runtime known to code whose context was made before it was opened (callbacks of other frameworks)."""
    _open_callers.append(caller)


def close_caller(caller: Caller) -> None:
    """Undo ``open_caller``."""
    with suppress(ValueError):
        _open_callers.remove(caller)


def caller() -> Caller:
    """The runtime of the current context, or the only one that is open in this process."""
    found = current_caller.get()
    if found is not None:
        return found
    if len(_open_callers) == 1:
        return _open_callers[0]
    problem = "no runtime is open here" if not _open_callers else "several runtimes are open in this process"
    raise RuntimeError(
        f"{problem}: use references inside an actor, inside `async with connect(...)` or inside `async with Silo(...)`"
    )


class ActorRef:
    """The address of an actor as a value: hashable, picklable, an argument or part of a state.

    ``await ref.ask(message)`` and ``await ref.send(message)`` reach ``receive``; ``await ref.name(...)``,
    ``await ref.name.send(...)`` and ``ref.name.stream(...)`` reach the handler ``name``. Two references are equal if
    their addresses are. Cancelling a call ends only the caller's wait.
    """

    __slots__ = ("_actor", "_options", "address")

    address: str
    _actor: "builtins.type[Actor] | None"
    _options: Options | None

    def __init__(
        self, address: str, *, actor: "builtins.type[Actor] | None" = None, options: Options | None = None
    ) -> None:
        parse_address(address)
        for name, value in (("address", address), ("_actor", actor), ("_options", options)):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{self!r} is a value: its {name} cannot be set")

    @property
    def type(self) -> str:
        """The actor type: what stands before the first ``-``."""
        return parse_address(self.address).type

    @property
    def key(self) -> str:
        """The key: what follows the first ``-``."""
        return parse_address(self.address).key

    def ask(self, message: object = None) -> Coroutine[Any, Any, Any]:
        """Send a message to ``receive`` and wait for its result.

        Raises ``Rejected`` (did not run), ``OutcomeUnknown`` (may have run) or ``ActorFailed`` (it raised).
        """
        return caller().ask(self, "", (message,), {})

    def send(self, message: object = None) -> Coroutine[Any, Any, Receipt]:
        """Send a message to ``receive`` and return once it is accepted, without waiting for it to be processed."""
        return caller().send(self, "", (message,), {})

    def interrupt(self, reason: str = "", *, message_id: str | None = None) -> Coroutine[Any, Any, bool]:
        """Stop the turn that runs there now, at once; if none runs, nothing happens. Returns whether there was one.

        ``Interrupted`` is raised at the handler's await, and what its step waits for is cancelled. Unless the handler
        catches that and replies, its caller gets ``TurnInterrupted`` and its changes of the state are dropped; what it
        published stays. Durable when this returns: if the silo is lost before the turn has heard of it, the turn is
        stopped where it runs again. ``message_id`` (of a receipt) stops that message only, also while it waits.
        Repeated calls are one. Needs no room in the mailbox. Errors as for ``ask``.
        """
        return caller().ask(self, INTERRUPT, (reason, message_id or ""), {})

    def signal(self, name: str, value: object = None) -> Coroutine[Any, Any, None]:
        """Give a value to a turn that waits for it with ``self.wait_for(name)``, now or later, wherever that is.

        Durable when this returns. Signals of a name are taken in the order in which they came, each by one wait; those
        that nobody takes wait. Not queued behind a running turn. Raises ``MailboxFull`` where 1,000 signals, or 16 MiB,
        wait already, ``ValueError`` for a malformed name; other errors as for ``ask``.
        """
        from actors.step_names import check_name

        check_name("a signal", name)
        return caller().ask(self, SIGNAL, (name, value), {})

    def delete(self) -> Coroutine[Any, Any, None]:
        """Erase state, journal, channels, reminders and everything else that is stored of the actor.

        Runs as a turn, after the messages that came before. The address lives on: the next message finds a new actor.
        Its channels end for their readers; should there be new ones, their offsets go on above the old.
        """
        return caller().ask(self, "$delete", (), {})

    def channel(self, name: str = "output") -> "Channel":
        """A channel of the actor, to read and to publish to. Raises ``ValueError`` for a malformed name."""
        from actors.channel import Channel

        return Channel(self, name)

    def options(
        self,
        *,
        timeout: float | None = UNSET,
        headers: dict[str, str] = UNSET,
        idempotency_key: str = UNSET,
        on_busy: OnBusy = UNSET,
        cancel_with_caller: bool = UNSET,
    ) -> "ActorRef":
        """Return a reference to the same actor whose calls use these options.

        ``timeout``: seconds that a call waits for its result, or a stream for its next item; None waits for ever.
        ``headers``: strings that the handler finds in ``self.context.headers``. ``idempotency_key`` (1 to 256 bytes):
        every message with this key to this actor, within the retention time of 24 hours, is the same message: it runs
        once, and all get its answer. Another message with the key is refused with ``IdempotencyKeyReused``.
        ``on_busy`` says what a message does when a turn of the actor runs, instead of what its class says: "queue": it
        waits. "reject": ``Busy`` is raised (a message that a turn sends is dropped, and logged). "interrupt": the
        running turn is interrupted and keeps what it has published; the message runs in its order. "rollback": the
        same, but nothing of the turn stays, whatever its handler makes of it: its channels tell their readers with a
        "reset" from where to discard. "steer": the running turn may read the message with ``self.steering()``, and
        then an ``ask`` returns ``Steered``; what it does not read runs as usual.
        ``cancel_with_caller``: cancelling an ``ask``, or leaving a stream early, ends only the caller's own wait. With
        True it interrupts that very message too, also when the caller's process is gone, with its link and for some
        seconds (``Settings.reconnect_grace``).
        """
        new = self._options or Options()
        if timeout is not UNSET:
            if timeout is not None and not timeout > 0:
                raise ValueError(f"timeout must be a positive number of seconds or None, not {timeout!r}")
            new = new._replace(timeout=float("inf") if timeout is None else float(timeout))
        if headers is not UNSET:
            if not all(isinstance(text, str) for item in headers.items() for text in item):
                raise TypeError(f"headers must be strings with string names, not {headers!r}")
            new = new._replace(headers=tuple(headers.items()))
        if idempotency_key is not UNSET:
            if not 0 < len(idempotency_key.encode()) <= 256:
                raise ValueError(f"idempotency_key must be text of 1 to 256 bytes, not {idempotency_key!r}")
            new = new._replace(idempotency_key=idempotency_key)
        if on_busy is not UNSET:
            if on_busy not in ON_BUSY:
                raise ValueError(f"on_busy must be one of {', '.join(ON_BUSY)}, not {on_busy!r}")
            new = new._replace(on_busy=on_busy)
        if cancel_with_caller is not UNSET:
            new = new._replace(cancel_with_caller=bool(cancel_with_caller))
        return ActorRef(self.address, actor=self._actor, options=new)

    def __getattr__(self, name: str) -> "RemoteHandler":
        if name.startswith("_"):
            raise AttributeError(name)
        if self._actor is not None and name not in self._actor._handlers:
            known = ", ".join(sorted(self._actor.handler_names())) or "none"
            raise AttributeError(f"{self._actor.__name__} has no handler {name!r} (handlers: {known})")
        return RemoteHandler(self, name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorRef) and self.address == other.address

    def __hash__(self) -> int:
        return hash(self.address)

    def __repr__(self) -> str:
        return f"actor_ref({self.address!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return ActorRef, (self.address,)


class RemoteHandler:
    """One handler of a remote actor: call it, ``.send`` to it, or ``.stream`` from it."""

    __slots__ = ("_name", "_ref")

    def __init__(self, ref: ActorRef, name: str) -> None:
        self._ref = ref
        self._name = name

    def __call__(self, /, *args: object, **kwargs: object) -> Coroutine[Any, Any, Any]:
        """Call the handler and wait for its result. Errors as for ``ActorRef.ask``."""
        return caller().ask(self._ref, self._name, args, kwargs)

    def send(self, /, *args: object, **kwargs: object) -> Coroutine[Any, Any, Receipt]:
        """Call the handler one way: returns once the message is accepted."""
        return caller().send(self._ref, self._name, args, kwargs)

    def stream(self, /, *args: object, **kwargs: object) -> AsyncIterator[Any]:
        """Call an async-generator handler and iterate its items while it runs.

        Items are live and belong to this call. A reader that is slow slows the handler down; one that takes nothing for
        the default timeout is left behind with ``Timeout``. Leaving the loop early stops the sending, never the
        handler: a generator without an end keeps its actor busy for ever.
        """
        return caller().stream(self._ref, self._name, args, kwargs)

    def __repr__(self) -> str:
        return f"{self._ref!r}.{self._name}"


def actor_ref(address: str) -> ActorRef:
    """A reference to the actor at ``address``, e.g. ``actor_ref("session-42")``.

    Nothing is contacted: an actor exists for ever and is activated by its first message. Raises ``ValueError`` for a
    malformed address.
    """
    return ActorRef(address)
