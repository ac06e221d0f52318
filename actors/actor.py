"""``Actor``: the class that users subclass."""

import inspect
import logging
from abc import ABCMeta
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from actors import builtin
from actors.address import check_key, check_type, type_name_of
from actors.channel import Channel
from actors.class_options import ActorOptions, Persist, carried, retention_of
from actors.context import Context, current_turn, gathering_turn
from actors.durations import seconds
from actors.handler import Handler, function_of
from actors.ref import UNSET, ActorRef, OnBusy, Receipt
from actors.reminders import set_reminder
from actors.retention import Retention
from actors.step import run_step
from actors.stream_step import run_stream
from actors.timer import Timer
from actors.waiting import wait_for

if TYPE_CHECKING:
    from actors.activation import Activation
    from actors.retry import Retry
    from actors.turn import Turn

if TYPE_CHECKING:
    _ActorMeta = type  # a metaclass keeps checkers from checking class options
else:

    class _ActorMeta(ABCMeta):
        """A typed reference passes for what it is declared as: ``friend: Session`` may hold ``Session.ref("42")``."""

        def __instancecheck__(cls, instance: object) -> bool:
            if type(instance) is ActorRef:
                return getattr(cls, "_type", None) in (None, instance.type)
            return super().__instancecheck__(instance)


class Actor(metaclass=_ActorMeta):
    """Base of all actors. An actor processes its messages one at a time and lives at an address for ever.

    Class options: ``type`` (default: the class name in snake_case), ``persist`` ("turn": what was accepted is durable
    and takes effect once, and what a turn did is durable when its reply leaves; "deactivation": the state is stored
    when the actor goes to sleep; "never"), ``idle_timeout`` (seconds without a message after which it is put to sleep),
    ``max_queue`` (waiting messages beyond which ``MailboxFull`` is raised), ``placement`` ("balanced", "local", "hash",
    "random", "labels:name=value" or a callable), ``public`` (``receive`` may be called, and channels be published to,
    through the HTTP gateway), ``channel_retention`` (a ``Retention``: what of each channel is kept), ``on_busy``
    (what a message does to a running turn unless it says so itself, see ``ActorRef.options``) and ``carries`` (names of
    attributes that it takes along when it moves to another silo, see ``migrate``).

    An annotation ``state: SomeClass`` (dataclass, msgspec.Struct or pydantic model whose fields all have defaults)
    gives the actor a durable state.
    """

    state: Any
    _activation: "Activation"
    _options: ClassVar[ActorOptions] = ActorOptions()
    _type: ClassVar[str]
    _handlers: ClassVar[dict[str, Handler]] = {}

    def __init_subclass__(
        cls,
        *,
        type: str | None = None,
        persist: Persist | None = None,
        idle_timeout: float | None = None,
        max_queue: int | None = None,
        placement: str | Callable[..., str] | None = None,
        public: bool | None = None,
        channel_retention: Retention | Mapping[str, Any] | tuple[Any, ...] | None = None,
        on_busy: OnBusy | None = None,
        carries: Iterable[str] | None = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            known = ", ".join(("type", *ActorOptions._fields))
            raise TypeError(f"class {cls.__name__}: unknown options {', '.join(sorted(unknown))} (known: {known})")
        taken = _OWN_NAMES & vars(cls).keys()
        if taken:
            raise TypeError(f"class {cls.__name__}: {', '.join(sorted(taken))} belongs to actors; choose another name")
        super().__init_subclass__()
        try:
            cls._type = check_type(type_name_of(cls.__name__) if type is None else type)
        except ValueError as error:
            raise ValueError(f"class {cls.__name__}: {error}") from None
        base = cls._options
        cls._options = ActorOptions(
            base.persist if persist is None else persist,
            base.idle_timeout if idle_timeout is None else idle_timeout,
            base.max_queue if max_queue is None else max_queue,
            base.placement if placement is None else placement,
            base.public if public is None else public,
            base.channel_retention if channel_retention is None else retention_of(cls.__name__, channel_retention),
            base.on_busy if on_busy is None else on_busy,
            base.carries if carries is None else carried(cls.__name__, carries, taken=_RESERVED | _OWN_NAMES),
        )
        cls._options.check(cls.__name__)
        cls._handlers = _collect_handlers(cls)
        if not inspect.iscoroutinefunction(function_of(cls.receive)):
            raise TypeError(f"{cls.__name__}.receive must be `async def` without yield; a stream needs a @handler")

    async def receive(self, message: Any) -> Any:
        """What ``send(message)`` and ``ask(message)`` reach. Override it."""
        raise NotImplementedError(f"{type(self).__name__} has no receive(); call one of its handlers")

    async def on_activate(self) -> None:
        """Runs before the first message of an activation, with ``self.state`` loaded.

        If it raises, every waiting caller gets the error and the next message tries again.
        """

    async def on_deactivate(self, reason: str) -> None:
        """Runs before the activation goes: ``reason`` is "idle", "requested", "migration" or "shutdown".

        "shutdown": its silo is drained, and it moves to another one if there is one. Changes of ``self.state`` are
        stored. It does not run when the silo dies or loses its lease.
        """

    async def on_reminder(self, name: str) -> None:
        """Runs as a turn of its own when the reminder ``name`` is due.

        ``self.context.message_id`` is the same if it runs again after a crash.
        """
        self.log.warning("reminder %r is due, and the class has no on_reminder()", name)

    @classmethod
    def ref(cls, key: str) -> Self:
        """A typed reference to the actor of this class with that key: ``Session.ref("42").write("...")``.

        The result is an ``ActorRef``. Type checkers see the class itself, so that handlers, their arguments and
        results are checked and completed; everything that is not a handler or a method of ``ActorRef`` is not there.
        """
        return cast("Self", ActorRef(f"{cls._type}-{check_key(key)}", actor=cls))

    @classmethod
    def handler_names(cls) -> frozenset[str]:
        """The names of the methods that can be called by message, ``receive`` aside."""
        return frozenset(cls._handlers)

    @property
    def address(self) -> str:
        """The own address."""
        return self._activation.address

    @property
    def key(self) -> str:
        """The key of the own address."""
        return self._activation.address.partition("-")[2]

    @property
    def own_ref(self) -> ActorRef:
        """A reference to this actor, to be handed to others."""
        return ActorRef(self._activation.address)

    @property
    def context(self) -> Context:
        """The message being handled. Raises ``RuntimeError`` outside of one."""
        try:
            return current_turn.get().context
        except LookupError:
            raise RuntimeError(f"{self.address}: self.context exists only while a message is handled") from None

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger bound to the address."""
        return logging.LoggerAdapter(logging.getLogger(f"actors.{self._type}"), {"address": self.address})

    def deactivate(self) -> None:
        """Put this activation to sleep when the running turn has ended. The next message wakes it up again."""
        self._activation.request_deactivation()

    def migrate(self, to: str | None = None) -> None:
        """Move this activation to another silo when the running turn has ended: to the one named ``to``, or to one that
        the placement chooses.

        What waits, readers of channels and timers that call methods of the actor go with it; a state that is stored is
        loaded there, one that is not (``persist="never"``) travels; so do the attributes that the class option
        ``carries`` names, as pickles where MessagePack cannot express them. There ``__init__`` runs, the attributes are
        put back, and ``on_activate`` runs. Stays, and says so in the log, where no other silo takes it. A crash of the
        silo on the way loses what is in memory only, as always. Raises ``ValueError`` if no silo named ``to`` hosts it.
        """
        self._activation.migrate(to)

    # -- durable work -----------------------------------------------------------------------------------------------

    async def step(
        self,
        name: str,
        function: Callable[..., Any],
        *args: Any,
        once: bool = False,
        retry: "Retry | None" = None,
        **kwargs: Any,
    ) -> Any:
        """Run ``function(*args, **kwargs)`` once in the life of this message, and return its result.

        The result is durable before it is returned. If the silo dies, the message runs again elsewhere, and a finished
        step returns its journaled result, or raises what it raised, without running. What it returns is a copy that has
        been through the codec, the first time too. A body that was running when the silo died runs again, except with
        ``once=True``: then ``StepInterrupted`` is raised instead. A plain function runs in a thread. ``retry`` runs a
        body that raises again before that is its outcome.

        Steps are known by ``name``, and by the count of the name where it repeats, so ``asyncio.gather`` and loops are
        fine. What a body sends, publishes or reminds of is committed with its result; it must not change the state.
        Needs ``persist="turn"`` and a running turn, else ``RuntimeError``. Raises ``SerializationFailed`` for a result
        that cannot be stored. Cancelling the await cancels the body; nothing is journaled then.
        """
        return await run_step(self.__turn("step").journal, name, function, args, kwargs, once=once, retry=retry)

    def stream_step(
        self,
        name: str,
        start: Callable[..., Any],
        *args: Any,
        resume: Callable[..., Any] | None = None,
        channel: str | None = None,
    ) -> AsyncIterator[Any]:
        """Iterate what ``start(*args)`` streams, journaling every item while it comes.

        ``start`` returns an async iterator, or a coroutine of one. With ``channel`` every item is published there in
        the same commit, so that readers see it a moment later and never lose it. After a crash the journaled items are
        yielded first, and then those of ``resume(items, *args)``. Without ``resume``, ``start`` runs anew, and the
        channel gets a "reset" event with the offset from which readers discard; steps that ran in its loop keep their
        results, by name, so name them after the item. A stream that has ended never runs
        again. Leaving the loop early closes the source. Errors as for ``step``.
        """
        return run_stream(self.__turn("stream_step").journal, name, start, args, resume, channel)

    async def wait_for(self, name: str, timeout: timedelta | float | None = None) -> Any:
        """Wait for a signal (``ref.signal(name, value)``) and return its value.

        Takes the oldest signal of that name that nobody has taken, also one that came before. Durable: the wait, its
        deadline and its outcome are journaled like those of a step, and a turn that runs again waits on. While the
        handler itself waits here and no step of it runs, the activation may go to sleep; ``on_deactivate`` runs, and
        the message runs again from its journal when there is a signal, a message or the deadline, on any silo. What
        tasks beside it do outside of steps begins anew then. Messages wait meanwhile; readonly and control handlers
        run, and an interrupt ends the wait. ``timeout`` (seconds or timedelta; None: for ever) raises ``TimeoutError``.
        Needs ``persist="turn"`` and a running turn, else ``RuntimeError``.
        """
        limit = None if timeout is None else seconds("timeout", timeout)
        return await wait_for(self.__turn("wait_for"), name, limit)

    def steering(self) -> AsyncIterator[Any]:
        """The messages sent with ``on_busy="steer"`` that have come since the turn began and were not read yet.

        Never waits: ends when nothing is there, and can be asked again at any time. Yields what ``send`` or ``ask`` was
        given; for a handler its only positional argument, or else ``(args, kwargs)``. What was read takes effect with
        this turn: its sender's ``ask`` returns ``Steered``, and it is not run. What was not read, or was read by a turn
        that fails or is stopped, runs as usual afterwards. A turn that runs again after a crash reads each message
        where it read it the first time. Look in one place at a time. Raises ``RuntimeError`` outside of a turn.
        """
        turn = current_turn.get(None)
        if turn is None or turn.activation is not self._activation or not turn.steers:
            raise RuntimeError(f"{self.address}: steering() works only inside a running turn")
        return cast("Turn", turn).messages()

    def publish(self, item: object) -> Coroutine[Any, Any, None]:
        """Add an item to the channel "output"; see ``Channel.publish``."""
        return self.channel().publish(item)

    def channel(self, name: str = "output") -> Channel:
        """A channel of this actor."""
        return Channel(ActorRef(self._activation.address), name)

    async def remind(self, name: str, after: timedelta | float, every: timedelta | float | None = None) -> None:
        """Let ``on_reminder(name)`` run ``after`` some time (seconds or a timedelta), and then ``every`` so often.

        Durable: it wakes the actor wherever and whenever that is, at least once, with a stable ``message_id``. Times
        that passed while nobody was there are made up for by one call. A reminder of the same name is replaced. Set
        when the turn commits; outside of a turn, when this returns. Raises ``ValueError`` for a time in the past or a
        period that is not positive.
        """
        await set_reminder(self._activation, name, seconds("after", after), every)

    async def cancel_reminder(self, name: str) -> None:
        """Forget a reminder, if there is one of that name. Takes effect like ``remind``."""
        await set_reminder(self._activation, name, None, None)

    def timer(
        self,
        callback: Callable[..., Any],
        *args: Any,
        after: timedelta | float,
        every: timedelta | float | None = None,
    ) -> Timer:
        """Call ``callback(*args)`` as a turn of its own ``after`` some time, and then ``every`` so long after its end.

        It lives in memory: it goes with the activation when that moves, if ``callback`` is a method of the actor, and
        ends with it otherwise; ``remind`` survives. Raises ``ValueError`` like ``remind``.
        """
        period = None if every is None else seconds("every", every, positive=True)
        return self._activation.add_timer(callback, args, after=seconds("after", after), every=period)

    def delete(self) -> Coroutine[Any, Any, None]:
        """On a typed reference: see ``ActorRef.delete``. Inside the actor: erase everything when this turn commits."""
        self.__turn("delete")
        return builtin.delete(self)

    def __turn(self, what: str) -> "Turn":
        """The turn that runs. Raises ``RuntimeError`` where there is none that could do ``what``."""
        self._activation.check_durable()
        turn = gathering_turn()
        if turn is None or turn.activation is not self._activation:
            raise RuntimeError(f"{self.address}: {what}() works only inside a running turn (and not in a readonly one)")
        return turn

    def interrupt(self, reason: str = "", *, message_id: str | None = None) -> Coroutine[Any, Any, bool]:
        """On a typed reference: see ``ActorRef.interrupt``."""
        return self.own_ref.interrupt(reason, message_id=message_id)

    def signal(self, name: str, value: object = None) -> Coroutine[Any, Any, None]:
        """On a typed reference: see ``ActorRef.signal``. Inside the actor: a signal to itself, at once."""
        return self.own_ref.signal(name, value)

    def ask(self, message: object = None) -> Coroutine[Any, Any, Any]:
        """On a typed reference: see ``ActorRef.ask``. An actor that asks itself gets ``CallCycle``."""
        return self.own_ref.ask(message)

    def send(self, message: object = None) -> Coroutine[Any, Any, Receipt]:
        """On a typed reference: see ``ActorRef.send``. Inside the actor: a message to itself, run after this turn."""
        return self.own_ref.send(message)

    def options(
        self,
        *,
        timeout: float | None = UNSET,
        headers: dict[str, str] = UNSET,
        idempotency_key: str = UNSET,
        on_busy: OnBusy = UNSET,
        cancel_with_caller: bool = UNSET,
    ) -> Self:
        """On a typed reference: see ``ActorRef.options``. Inside the actor: a reference to itself."""
        found = self.own_ref.options(
            timeout=timeout,
            headers=headers,
            idempotency_key=idempotency_key,
            on_busy=on_busy,
            cancel_with_caller=cancel_with_caller,
        )
        return cast("Self", found)


_OWN_NAMES = {"_activation", "_actor_type", "_handlers", "_options", "_type"}
_RESERVED = {name for name in (*vars(Actor), *vars(ActorRef)) if not name.startswith("_")} | {"state"}


def _collect_handlers(actor: type[Actor]) -> dict[str, Handler]:
    """The handlers of the class and of all its bases, mixins included, by name."""
    handlers: dict[str, Handler] = {}
    for owner in reversed(actor.__mro__):
        for name, member in vars(owner).items():
            where = f"{owner.__name__}.{name}"
            if not isinstance(member, Handler):
                if name in handlers:
                    raise TypeError(f"{where} overrides a handler: decorate it with @handler too")
            elif name.startswith("_"):
                raise TypeError(f"{where}: a handler's name must not begin with an underscore")
            elif name in _RESERVED - {"receive"}:
                raise TypeError(f"{where}: this name belongs to actors and references; call the handler otherwise")
            elif name != "receive":
                handlers[name] = member
    return handlers
